"""The flat part of a cell's image: plate and moving belt, looked up in painted textures by each pixel's ray.

Everything lies at z = 0 of ``base_``: the belt between its edges, the plate around it. As in ``sim.backdrop`` the
distortion is in the rays, and the bodies are drawn over the result.
"""

from __future__ import annotations

import cv2
import numpy as np

from visuomotor.control.arm.config import CELL
from visuomotor.messages.camera import CameraModel
from visuomotor.sim.backdrop import smooth_noise
from visuomotor.sim.cell.looks import CellLooks
from visuomotor.sim.lens import Lens

STEP_M = 0.0025  # of both textures
BELT_TILE_M = 1.2  # the belt's texture repeats: a multiple of every period
PLATE_X_M = (-0.5, 1.3)  # what is painted; beyond, the plate goes on mirrored
PLATE_Y_M = (-1.5, 1.9)
FAR_M = 4.0  # the plate ends here and the hall begins


class Ground:
    """Plate and belt of one cell after the other."""

    def __init__(self) -> None:
        self._points: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # of the cameras that stand still

    def reset(self, look: CellLooks) -> None:
        """Paint the textures of a cell."""
        rng = np.random.default_rng(np.random.SeedSequence([0xBE17, look.seed]))
        self._belt = paint_belt(look, rng)
        self._plate = paint_plate(look, rng)
        self._hall_bgr = np.array(look.plate_bgr) * 0.5

    def draw(self, camera: CameraModel, lens: Lens, belt_travel_m: float, *, fixed: bool = True) -> np.ndarray:
        """Image uint8 [H, W, 3]; where the pixels of a ``fixed`` camera look is kept for its next image."""
        points, hall = self._points.get(camera.name) or _ground_points(camera, lens)
        if fixed:
            self._points[camera.name] = points, hall
        x, y = points[..., 0], points[..., 1]
        image = cv2.remap(
            self._plate,
            (y - np.float32(PLATE_Y_M[0])) / np.float32(STEP_M) - np.float32(0.5),
            (x - np.float32(PLATE_X_M[0])) / np.float32(STEP_M) - np.float32(0.5),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT,
        )
        low, high = CELL.belt_x_m
        on_belt = (x > low) & (x < high) & (y > CELL.belt_y_m[0]) & (y < CELL.belt_y_m[1])
        rows = np.flatnonzero(on_belt.any(axis=1))
        if len(rows):
            part = slice(rows[0], rows[-1] + 1)
            along = (y[part] + np.float32(belt_travel_m % BELT_TILE_M)) % np.float32(BELT_TILE_M)
            belt = cv2.remap(
                self._belt,
                along / np.float32(STEP_M) + np.float32(0.5),
                (x[part] - np.float32(low)) / np.float32(STEP_M) - np.float32(0.5),
                cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_REPLICATE,
            )
            cv2.copyTo(belt, on_belt[part].view(np.uint8), image[part])
        if hall.any():
            image[hall] = self._hall_bgr
        return image


def _ground_points(camera: CameraModel, lens: Lens) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel's ray meets z = 0, float32 [H, W, 2], and which pixels look past the plate, bool [H, W]."""
    x, y, down = (lens.rays @ camera.ego_from_camera.T).T
    eye = camera.ego_position_m
    scale = np.where(down < -1e-6, eye[2] / np.maximum(-down, 1e-6), np.inf)
    with np.errstate(invalid="ignore"):
        points = np.stack([eye[0] + x * scale, eye[1] + y * scale], axis=1).reshape(camera.height, camera.width, 2)
    hall = ~(np.hypot(points[..., 0], points[..., 1]) < FAR_M)  # the horizon and above, too
    return np.where(hall[..., None], FAR_M, points).astype(np.float32), hall


def paint_belt(look: CellLooks, rng: np.random.Generator) -> np.ndarray:
    """The belt from above: rows over x (ascending), columns over y, uint8; it repeats after ``BELT_TILE_M``.

    One column more at each end than the tile has, so that interpolation runs across the seam.
    """
    low, high = CELL.belt_x_m
    shape = (round((high - low) / STEP_M), round(BELT_TILE_M / STEP_M))
    x = (np.arange(shape[0]) + 0.5) * STEP_M
    y = (np.arange(shape[1]) + 0.5) * STEP_M
    phase_x = (x % look.belt_period_m / look.belt_period_m)[:, None]
    phase_y = (y % look.belt_period_m / look.belt_period_m)[None, :]
    pattern = np.zeros(shape)
    if look.belt_pattern == "weave":
        pattern = 0.5 * (np.sin(2 * np.pi * phase_x) + np.sin(2 * np.pi * phase_y))
    elif look.belt_pattern == "slats":
        pattern = np.where(phase_y < 0.12, -1.5, 0.3) + 0 * phase_x
    elif look.belt_pattern == "seams":
        seam = np.abs(y[None, :] - BELT_TILE_M / 2 - 0.25 * x[:, None]) < 0.006
        pattern = np.where(seam, -1.5, 0.0)
    elif look.belt_pattern == "stripe":
        pattern = np.where(np.abs(x[:, None] - x.mean()) < 0.03, 1.2, 0.0) + 0 * phase_y
    elif look.belt_pattern == "diamonds":
        pattern = np.where((np.abs(phase_x - 0.5) + np.abs(phase_y - 0.5)) < 0.35, 1.0, -0.3)
    elif look.belt_pattern == "dots":
        pattern = np.where(np.hypot(phase_x - 0.5, phase_y - 0.5) < 0.22, 1.2, -0.2)
    grain = look.belt_noise * (
        0.7 * rng.standard_normal(shape, np.float32)
        + 0.6 * smooth_noise(rng, shape, (12, 12))
        + 0.8 * smooth_noise(rng, shape, (64, 96))
    )
    image = np.array(look.belt_bgr) + (look.belt_contrast * pattern + grain)[..., None]
    for _ in range(rng.poisson(look.belt_dirt * BELT_TILE_M)):
        centre = (int(rng.integers(20, shape[1] - 20)), int(rng.integers(shape[0])))
        axes = (int(rng.integers(1, 14)), int(rng.integers(1, 8)))
        stain = np.zeros(shape, np.float32)
        cv2.ellipse(stain, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1.0, -1, cv2.LINE_AA)
        image += (rng.uniform(-28, 22) * cv2.GaussianBlur(stain, (5, 5), 1.2))[..., None]
    rail = np.minimum(x, high - low - x) < look.edge_width_m
    image[rail] = np.array(look.edge_bgr) + 2.0 * rng.standard_normal((int(rail.sum()), 1, 1))
    lit = np.clip(image * np.array(look.light_bgr), 0, 255).astype(np.uint8)
    return cv2.copyMakeBorder(lit, 0, 0, 1, 1, cv2.BORDER_WRAP)


def paint_plate(look: CellLooks, rng: np.random.Generator) -> np.ndarray:
    """The plate from above: rows over x (ascending), columns over y, uint8."""
    shape = (
        round((PLATE_X_M[1] - PLATE_X_M[0]) / STEP_M),
        round((PLATE_Y_M[1] - PLATE_Y_M[0]) / STEP_M),
    )
    grain = 0.4 * rng.standard_normal(shape, np.float32) + 0.6 * smooth_noise(rng, shape, (90, 120))
    if look.plate_pattern == "brushed":
        grain = grain + 0.8 * smooth_noise(rng, shape, (2, 120))
    elif look.plate_pattern == "tiles":
        rows, columns = np.arange(shape[0]) % 120, np.arange(shape[1]) % 120
        grain = np.where((rows < 2)[:, None] | (columns < 2)[None, :], -2.0, grain)
    image = np.array(look.plate_bgr, np.float32) + (0.4 * look.plate_contrast * grain)[..., None].astype(np.float32)
    if look.plate_pattern == "holes":
        holes = np.zeros(shape, np.uint8)
        for row in range(5, shape[0], 20):  # a breadboard: 50 mm apart
            for column in range(5, shape[1], 20):
                cv2.circle(holes, (column, row), 2, 255, -1)
        image[holes > 0] *= 0.45
    for _ in range(int(rng.integers(0, 5))):  # marking tape
        start = rng.uniform((0, 0), shape[::-1])
        length, angle = rng.uniform(60, 500), rng.choice((0.0, np.pi / 2, rng.uniform(0, np.pi)))
        end = start + length * np.array([np.cos(angle), np.sin(angle)])
        colour = tuple(float(v) for v in rng.uniform(20, 235, 3))
        thick = int(rng.integers(3, 14))
        cv2.line(image, tuple(start.astype(int).tolist()), tuple(end.astype(int).tolist()), colour, thick)
    return np.clip(image * np.array(look.light_bgr), 0, 255).astype(np.uint8)
