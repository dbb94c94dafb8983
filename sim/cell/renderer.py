"""Camera images of a cell: parts, bins, clutter and arm by TinyRenderer over the plate and belt of ``sim.cell.ground``.

As in ``sim.renderer`` the client is of its own and knows no physics, a pinhole image slightly wider than the sensor is
bent by the lens, and exposure, vignette, blur and noise follow. Shadows are the bodies' hulls projected on the ground.
Everything is a pure function of the case and the state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import msgspec
import numpy as np

from visuomotor.control.arm.config import CELL
from visuomotor.control.arm.kinematics import FINGER_TIPS_M, link_frames
from visuomotor.messages.camera import CameraModel, rotation
from visuomotor.sim.backdrop import shade
from visuomotor.sim.bodies import BodyClient, Light, lay_over, name_pixels
from visuomotor.sim.cell.ground import Ground
from visuomotor.sim.cell.looks import CellLooks, arm_palette, bin_palette, cell_looks, clutter_palette, part_palette
from visuomotor.sim.cell.parts import PartSpec
from visuomotor.sim.cell.posture import quaternion_from_turn, turn_from_quaternion
from visuomotor.sim.cell.shapes import (
    FINGER_HINGE_M,
    arm_meshes,
    bin_mesh,
    clutter_mesh,
    part_mesh,
)
from visuomotor.sim.exposure import Exposure
from visuomotor.sim.lens import Lens, view_matrix
from visuomotor.sim.mesh import Limb, Mesh

BACKGROUND = -1  # in masks: no part of a class
_CORNERS = np.array([(x, y, z) for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])


class CellState(Protocol):
    """What the renderer reads of ``sim.cell.cell.CellWorlds``: arrays over B cells and P slots of parts, ``base_``."""

    tick: np.ndarray
    joint_position_rad: np.ndarray  # [B, 7]
    gripper_width_m: np.ndarray
    part_present: np.ndarray
    part_id: np.ndarray
    part_class: np.ndarray  # -1: of no class
    part_position_m: np.ndarray  # [B, P, 3] middle of the bounding box
    part_quaternion: np.ndarray  # [B, P, 4] x, y, z, w
    part_yaw_rad: np.ndarray  # of the longer side
    part_size_m: np.ndarray
    part_spec: Any  # [B][P] PartSpec

    @property
    def belt_travel_m(self) -> np.ndarray:
        """How far each belt has run [B]."""


class CellScene(Protocol):
    """What the renderer reads of a case."""

    @property
    def split(self) -> str:
        """Name of the split."""

    @property
    def look_seed(self) -> int:
        """Seed of the looks."""


@dataclass
class _Part:
    body: int
    spec: PartSpec
    mesh: Mesh


class CellRenderer:
    """Draws the cameras of one cell. ``reset`` for each new episode, then ``draw`` at each tick.

    The mounting of a camera ``on_hand`` is relative to the hand: z along the fingers, y along their travel.
    """

    def __init__(self, cameras: list[CameraModel]) -> None:
        names = [camera.name for camera in cameras]
        if len(set(names)) != len(names):
            raise ValueError(f"cameras: expected different names, got {names}")
        self.cameras = list(cameras)
        self._lenses = {camera.name: Lens(camera) for camera in cameras}
        self._ground = Ground()
        self._exposure = Exposure(self._lenses)
        self._bodies = BodyClient()
        self._parts: dict[int, _Part] = {}
        self._arm: dict[str, int] = {}
        self._look: CellLooks | None = None
        self._hulls = {name: _extremes(mesh) for name, mesh in arm_meshes().items()}

    def close(self) -> None:
        """Disconnect the client."""
        self._bodies.close()

    @property
    def look(self) -> CellLooks:
        """The appearance of the current cell; RuntimeError before the first reset."""
        if self._look is None:
            raise RuntimeError("CellRenderer.reset has not been called")
        return self._look

    def reset(self, case: CellScene) -> None:
        """Build the cell of an episode from its seed of looks."""
        self._look = look = cell_looks(case.split, case.look_seed)
        self._bodies.clear()
        self._parts.clear()
        self._ground.reset(look)
        self._exposure.reset(look)
        elevation, azimuth = look.light_elevation_rad, look.light_azimuth_rad
        flat = np.cos(elevation)
        self._light = Light(
            direction=np.array([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)]),
            colour_bgr=look.light_bgr,
            ambient=look.ambient,
            diffuse=look.diffuse,
            specular=look.specular,
        )
        self._standing: list[np.ndarray] = []  # shadows of what never moves
        for index, centre in enumerate(CELL.bin_centre_m):
            self._place(bin_mesh(CELL.bin_size_m), bin_palette(look.split, look.seed, index), centre, 0.0)
        rng = np.random.default_rng(np.random.SeedSequence([0xC1077, look.seed]))
        for index, kind in enumerate(look.clutter):
            centre, yaw, scale = clutter_pose(rng)
            self._place(clutter_mesh(kind, scale), clutter_palette(look.split, look.seed, index), centre, yaw)
        texture = self._bodies.load_palette(arm_palette(look.split, look.seed))
        self._arm = {name: self._bodies.make([Limb(mesh)], texture) for name, mesh in arm_meshes().items()}

    def _place(self, mesh: Mesh, palette: np.ndarray, centre_m: tuple[float, float], yaw_rad: float) -> None:
        """Put something on the plate that stays there."""
        body = self._bodies.make([Limb(mesh)], self._bodies.load_palette(palette))
        turn = (0.0, 0.0, float(np.sin(yaw_rad / 2)), float(np.cos(yaw_rad / 2)))
        self._bodies.move(body, (*centre_m, 0.0), turn)
        points = _extremes(mesh) @ rotation(0.0, 0.0, yaw_rad).T + (*centre_m, 0.0)
        self._standing.append(self._shadow(points))

    # ------------------------------------------------------------------------------------------------------- drawing
    def draw(self, worlds: CellState, index: int = 0) -> list[np.ndarray]:
        """Images uint8 [H, W, 3] BGR of cell ``index`` as it stands, in the order of the cameras."""
        self.pose(worlds, index)
        return [self.draw_camera(worlds, index, camera.name)[0] for camera in self.cameras]

    def draw_labelled(self, worlds: CellState, index: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Images as from ``draw``, and the part id of every pixel, int32 [H, W]; -1: no part of a class."""
        self.pose(worlds, index)
        classes = {
            int(worlds.part_id[index, slot]): int(worlds.part_class[index, slot])
            for slot in np.flatnonzero(worlds.part_present[index])
        }
        named = {key: part.body for key, part in self._parts.items() if classes[key] >= 0}
        images, masks = [], []
        for camera in self.cameras:
            image, bodies = self.draw_camera(worlds, index, camera.name)
            images.append(image)
            masks.append(name_pixels(bodies, self._lenses[camera.name], named, BACKGROUND))
        return images, masks

    def draw_camera(self, worlds: CellState, index: int, name: str) -> tuple[np.ndarray, np.ndarray]:
        """One camera's image, and the body id of every pixel of its pinhole image; ``pose`` comes first."""
        camera = next(camera for camera in self.cameras if camera.name == name)
        lens, look = self._lenses[name], self.look
        placed = self.placed(camera)
        image = self._ground.draw(placed, lens, float(worlds.belt_travel_m[index]), fixed=placed is camera)
        shade(image, placed, self._shadows, look.shadow, blur_px=look.shadow_blur_px)
        view = view_matrix(np.asarray(placed.ego_position_m), placed.ego_from_camera)
        rgba, bodies = self._bodies.draw(lens, view, self._light)
        lay_over(image, rgba, bodies, lens)
        return self._exposure.expose(image, camera.name, int(worlds.tick[index])), bodies

    def placed(self, camera: CameraModel) -> CameraModel:
        """The camera as it stood in ``base_`` when it was drawn last: where the hand held it, or where it always is."""
        return mount(camera, self._frames["panda_hand"]) if camera.on_hand else camera

    # --------------------------------------------------------------------------------------------------------- posing
    def pose(self, worlds: CellState, index: int) -> None:
        """Move every body to where the state says; make the bodies of new parts, remove those of parts gone."""
        wanted = {int(worlds.part_id[index, slot]): int(slot) for slot in np.flatnonzero(worlds.part_present[index])}
        for part_id in [key for key in self._parts if key not in wanted]:
            self._bodies.remove(self._parts.pop(part_id).body)
        self._shadows = list(self._standing)
        for part_id, slot in wanted.items():
            spec = worlds.part_spec[index][slot]
            part = self._parts.get(part_id)
            if part is not None and part.spec != spec:
                self._bodies.remove(part.body)  # the id was given to another part
                part = None
            if part is None:
                mesh = part_mesh(spec)
                texture = self._bodies.load_palette(part_palette(spec.colour_bgr))
                part = self._parts[part_id] = _Part(self._bodies.make([Limb(mesh)], texture), spec, mesh)
            position, quaternion = worlds.part_position_m[index, slot], worlds.part_quaternion[index, slot]
            self._bodies.move(part.body, tuple(position.tolist()), tuple(quaternion.tolist()))
            points = (_CORNERS * spec.size_m) @ turn_from_quaternion(quaternion).T + position
            self._shadows.append(self._shadow(points))
        self._frames = arm_frames(worlds.joint_position_rad[index], float(worlds.gripper_width_m[index]))
        for name, body in self._arm.items():
            frame = self._frames[name]
            self._bodies.move(body, tuple(frame[:3, 3].tolist()), quaternion_from_turn(frame[:3, :3]))
            points = self._hulls[name] @ frame[:3, :3].T + frame[:3, 3]
            self._shadows.append(self._shadow(points))

    def part_mesh(self, part_id: int) -> Mesh | None:
        """The mesh of a part that is being drawn, None for any other."""
        part = self._parts.get(part_id)
        return None if part is None else part.mesh

    def _shadow(self, points_m: np.ndarray) -> np.ndarray:
        """Hull [n, 2] on the ground of what points [n, 3] hide from the light."""
        x, y, z = self._light.direction
        fallen = points_m[:, :2] - points_m[:, 2:] * (x / z, y / z)
        return cv2.convexHull(fallen.astype(np.float32)).reshape(-1, 2)


def clutter_pose(rng: np.random.Generator) -> tuple[tuple[float, float], float, float]:
    """Centre, yaw and scale of a piece of clutter: beyond the belt, or on the robot's side, behind it and upstream."""
    side = rng.random()
    if side < 0.3:
        centre = (float(rng.uniform(0.77, 0.95)), float(rng.uniform(-0.55, 1.05)))
    elif side < 0.8:
        centre = (float(rng.uniform(-0.15, 0.22)), float(rng.uniform(0.58, 1.10)))
    else:
        centre = (float(rng.uniform(-0.30, -0.12)), float(rng.uniform(-0.60, 0.55)))
    return centre, float(rng.uniform(-np.pi, np.pi)), float(rng.uniform(0.6, 1.15))


def arm_frames(joint_position_rad: np.ndarray, gripper_width_m: float) -> dict[str, np.ndarray]:
    """Frames [4, 4] in ``base_`` of the arm's links by name."""
    chain = link_frames(joint_position_rad[None])[0]
    frames = {"panda_link0": np.eye(4)} | {f"panda_link{i + 1}": chain[i] for i in range(7)}
    hand = chain[7].copy()
    hand[:3, 3] -= FINGER_TIPS_M * hand[:3, 2]
    frames["panda_hand"] = hand
    for name, side in (("panda_leftfinger", 1.0), ("panda_rightfinger", -1.0)):
        finger = hand.copy()
        finger[:3, 3] += FINGER_HINGE_M * hand[:3, 2] + side * gripper_width_m / 2 * hand[:3, 1]
        frames[name] = finger
    return frames


def mount(camera: CameraModel, frame: np.ndarray) -> CameraModel:
    """A camera whose mounting is relative to a frame [4, 4] in ``base_``, as it stands in ``base_``."""
    turn = frame[:3, :3] @ rotation(camera.ego_roll_rad, camera.ego_pitch_rad, camera.ego_yaw_rad)
    place = frame[:3, :3] @ np.asarray(camera.ego_position_m) + frame[:3, 3]
    return msgspec.structs.replace(
        camera,
        ego_position_m=tuple(place.tolist()),
        ego_yaw_rad=float(np.arctan2(turn[1, 0], turn[0, 0])),
        ego_pitch_rad=float(np.arctan2(-turn[2, 0], np.hypot(turn[0, 0], turn[1, 0]))),
        ego_roll_rad=float(np.arctan2(turn[2, 1], turn[2, 2])),
    )


def _extremes(mesh: Mesh) -> np.ndarray:
    """The vertices [n, 3] of a mesh that lie farthest out in 26 directions: hull enough for a shadow."""
    vertices = mesh.arrays()[0]
    ways = np.array([(x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1) if (x, y, z) != (0, 0, 0)])
    ways = ways / np.linalg.norm(ways, axis=1, keepdims=True)
    return vertices[np.unique((vertices @ ways.T).argmax(axis=0))]
