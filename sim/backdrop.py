"""Ground and sky of a camera image, drawn by casting each pixel's ray onto a painted road strip or a panorama.

TinyRenderer's cost grows with the pixels of every triangle, so the two surfaces that fill the image are looked up in
textures instead; objects are drawn over them (``sim.renderer``). Distortion is in the rays, so no remapping is needed.
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy.spatial import cKDTree

from visuomotor.messages.camera import CameraModel, rotation
from visuomotor.sim.looks import Looks
from visuomotor.sim.road import Road

TILE_M = 72.0  # the road strip repeats: a multiple of every dash period
VERGE_M = 14.0  # painted beside the road
FOLD_M = 9.0  # further out its outermost part, which is grass, repeats
CELL_M = 0.5  # spacing of the map -> Frenet lookup
COARSE_M = 2.0
MARGIN_M = 110.0
NEAR_ROAD_M = 70.0  # beyond, the Frenet coordinates are only roughly right
FAR_M = 260.0  # the ground ends here and the panorama begins
# resolution along and across the road (m), used up to this range (m): a pixel's footprint is long, hardly wide
LEVELS: tuple[tuple[float, float, float], ...] = (
    (0.05, 0.04, 6.0),
    (0.2, 0.06, 13.0),
    (0.8, 0.1, 34.0),
    (2.4, 0.2, 1e9),
)
PANORAMA = (160, 1536)  # rows over the sine of the elevation, columns over a full turn
SINE_RANGE = (-0.03, 0.75)


class _View:
    """Rays of one camera's pixels in the body frame, and buffers."""

    def __init__(self, camera: CameraModel) -> None:
        self.camera = camera
        v, u = np.mgrid[0 : camera.height, 0 : camera.width]
        px = np.stack([u.ravel(), v.ravel()], axis=1).astype(np.float64)
        point = camera.undistort(px)
        rays = np.concatenate([point, np.ones((len(point), 1))], axis=1) @ camera.ego_from_camera.T
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        self.rays = rays.astype(np.float32)
        azimuth = np.arctan2(rays[:, 1], rays[:, 0])
        if camera.horizontal_fov_rad < np.pi and np.ptp(azimuth) > np.pi:
            azimuth = np.where(azimuth < 0, azimuth + 2 * np.pi, azimuth)
        self.azimuth = azimuth.astype(np.float32).reshape(camera.height, camera.width)
        jitter = np.random.default_rng(7).uniform(0.75, 1.33, len(rays))
        self.jitter = jitter.astype(np.float32).reshape(camera.height, camera.width)


class Backdrop:
    """Ground with markings, verge and shadows, and sky, for a set of cameras."""

    def __init__(self, cameras: list[CameraModel]) -> None:
        self._views = {camera.name: _View(camera) for camera in cameras}

    def reset(self, road: Road, look: Looks) -> None:
        """Paint the road strip and the panorama of a scene, and tabulate the road's Frenet coordinates."""
        rng = np.random.default_rng(np.random.SeedSequence([0xBAC4D, look.seed]))
        self._look = look
        self._shape = (float(road.right_edge_m), float(road.left_edge_m))
        self._grid, self._grid_origin = frenet_grid(road)
        self._atlas, self._level = _atlas(paint_strip(road, look, rng))
        self._panorama = np.tile(paint_sky(look, rng), (1, 3, 1))

    def draw(
        self, name: str, ego_pose: np.ndarray, roll_rad: float, pitch_rad: float, shadows: list[np.ndarray]
    ) -> np.ndarray:
        """Image uint8 [H, W, 3] of ground and sky; ``shadows`` are convex polygons [n, 2] on the ground in ``ego_``."""
        view = self._views[name]
        camera = view.camera
        attitude = rotation(roll_rad, pitch_rad, 0.0).astype(np.float32)
        rays = view.rays @ attitude.T
        origin = attitude @ np.asarray(camera.ego_position_m, np.float32)
        down = rays[:, 2].reshape(camera.height, camera.width)
        is_ground = down < -origin[2] / FAR_M
        ground_rows = np.flatnonzero(is_ground.any(axis=1))
        sky_rows = np.flatnonzero(~is_ground.all(axis=1))
        image = np.empty((camera.height, camera.width, 3), np.uint8)
        if len(sky_rows):
            rows = slice(0, sky_rows[-1] + 1)
            image[rows] = self._sky(view.azimuth[rows] + np.float32(ego_pose[2] % (2 * np.pi)), down[rows])
        if len(ground_rows):
            rows = slice(ground_rows[0], camera.height)
            first = ground_rows[0] * camera.width
            ground = self._ground(view, rays[first:], origin, ego_pose, rows)
            shade(
                ground,
                camera,
                shadows,
                self._look.shadow,
                first_row=ground_rows[0],
                roll_rad=roll_rad,
                pitch_rad=pitch_rad,
            )
            cv2.copyTo(ground, is_ground[rows].view(np.uint8), image[rows])
        return image

    def _sky(self, azimuth: np.ndarray, sine: np.ndarray) -> np.ndarray:
        rows, columns = PANORAMA
        u = (azimuth + np.float32(2 * np.pi)) * np.float32(columns / (2 * np.pi)) % np.float32(2 * columns)
        low, high = SINE_RANGE
        v = (np.float32(high) - sine) * np.float32((rows - 1) / (high - low))
        return cv2.remap(self._panorama, u, np.clip(v, 0, rows - 1), cv2.INTER_LINEAR)

    def _ground(
        self, view: _View, rays: np.ndarray, origin: np.ndarray, ego_pose: np.ndarray, rows: slice
    ) -> np.ndarray:
        height = rows.stop - rows.start
        shape = (height, view.camera.width)
        range_m = origin[2] / np.maximum(-rays[:, 2], origin[2] / FAR_M)
        cos, sin = np.cos(ego_pose[2]), np.sin(ego_pose[2])
        turn = np.array([[cos, sin], [-sin, cos]], np.float32) / np.float32(CELL_M)
        start = np.array(
            [cos * origin[0] - sin * origin[1] + ego_pose[0], sin * origin[0] + cos * origin[1] + ego_pose[1]]
        )
        start = ((start - self._grid_origin) / CELL_M).astype(np.float32)
        cell = (rays[:, :2] @ turn) * range_m[:, None] + start
        frenet = cv2.remap(
            self._grid,
            cell[:, 0].reshape(shape),
            cell[:, 1].reshape(shape),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        s, d = frenet[..., 0], frenet[..., 1]
        low, high = self._shape[0] - VERGE_M, self._shape[1] + VERGE_M
        out = np.maximum(d - np.float32(high - 0.5), 0)
        d = d - np.where(out > 0, np.floor(out / FOLD_M + 1) * FOLD_M, 0).astype(np.float32)
        out = np.maximum(np.float32(low + 0.5) - d, 0)
        d = d + np.where(out > 0, np.floor(out / FOLD_M + 1) * FOLD_M, 0).astype(np.float32)
        far = range_m.reshape(shape) * view.jitter[rows]
        level = np.zeros(shape, np.uint8)
        for _, _, limit in LEVELS[:-1]:
            level += far > limit
        scale_s, scale_d, offset_d = self._level
        u = (s % np.float32(TILE_M)) * scale_s[level] + np.float32(1.5)
        v = (d - np.float32(low)) * scale_d[level] + offset_d[level]
        return cv2.remap(self._atlas, u, v, cv2.INTER_LINEAR)


def shade(
    ground: np.ndarray,
    camera: CameraModel,
    shadows: list[np.ndarray],
    strength: float,
    *,
    first_row: int = 0,
    roll_rad: float = 0.0,
    pitch_rad: float = 0.0,
    blur_px: int = 3,
) -> None:
    """Darken shadows, convex ground polygons [n, 2] in ``ego_``, in place; ``ground`` begins at ``first_row``."""
    mask: np.ndarray | None = None
    for polygon in shadows:
        px = project_polygon(camera, polygon, roll_rad, pitch_rad)
        if px is None:
            continue
        px = px - (0, first_row)
        if px[:, 1].max() < 0 or px[:, 0].max() < 0 or px[:, 0].min() > camera.width or px[:, 1].min() > len(ground):
            continue
        if mask is None:
            mask = np.zeros(ground.shape[:2], np.uint8)
        points = np.round(np.clip(px, -4000, 4000) * 16).astype(np.int32)
        cv2.fillConvexPoly(mask, points, round(255 * strength), cv2.LINE_AA, 4)
    if mask is not None:
        keep = cv2.blur(255 - mask, (blur_px, blur_px))
        cv2.multiply(ground, cv2.merge([keep, keep, keep]), dst=ground, scale=1 / 255)


def project_polygon(camera: CameraModel, polygon_m: np.ndarray, roll_rad: float, pitch_rad: float) -> np.ndarray | None:
    """Image of a convex ground polygon [n, 2] in ``ego_``, clipped in front of the camera; None when it is behind."""
    near = 0.3
    points = np.column_stack([polygon_m, np.zeros(len(polygon_m))])
    _, depth = camera.project(points, roll_rad, pitch_rad)
    if depth.max() < near:
        return None
    if depth.min() < near:
        kept: list[np.ndarray] = []
        for i in range(len(points)):
            j = (i + 1) % len(points)
            if depth[i] >= near:
                kept.append(points[i])
            if (depth[i] >= near) != (depth[j] >= near):
                kept.append(points[i] + (points[j] - points[i]) * (near - depth[i]) / (depth[j] - depth[i]))
        points = np.array(kept)
    body = points @ rotation(roll_rad, pitch_rad, 0.0)
    local = (body - camera.ego_position_m) @ camera.ego_from_camera
    flat = local[:, :2] / np.maximum(local[:, 2:], 1e-3)
    inside = np.minimum(
        1.0, 1.6 / np.maximum(np.hypot(flat[:, 0], flat[:, 1]), 1e-9)
    )  # the lens model folds back outside
    bent = camera.distort(flat * inside[:, None])
    centre = np.array([camera.cx, camera.cy])
    return centre + (bent - centre) / inside[:, None]


def frenet_grid(road: Road) -> tuple[np.ndarray, np.ndarray]:
    """s and d around the road, float32 [rows, columns, 2] every ``CELL_M``, and the map position of cell 0."""
    line = np.asarray(road.line_xy_m)
    low = line.min(axis=0) - MARGIN_M
    size = np.ceil((line.max(axis=0) + MARGIN_M - low) / COARSE_M).astype(int) + 1
    x, y = low[0] + COARSE_M * np.arange(size[0]), low[1] + COARSE_M * np.arange(size[1])
    points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    _, nearest = cKDTree(line).query(points, distance_upper_bound=NEAR_ROAD_M)
    nearest = np.minimum(nearest, len(line) - 1)  # farther points are grass wherever they are along the road
    delta = points - line[nearest]
    heading = np.asarray(road.line_heading_rad)[nearest]
    curvature = np.asarray(road.line_curvature)[nearest]
    cos, sin = np.cos(heading), np.sin(heading)
    d = delta[:, 1] * cos - delta[:, 0] * sin
    along = (delta[:, 0] * cos + delta[:, 1] * sin) / np.maximum(1.0 - curvature * d, 0.3)
    s = np.asarray(road.line_s_m)[nearest] + along
    d = d - 0.5 * curvature * along**2  # the line bends away from its tangent by this much
    coarse = np.stack([s, d], axis=1).reshape(len(y), len(x), 2).astype(np.float32)
    factor = round(COARSE_M / CELL_M)
    fine = cv2.resize(coarse, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
    origin = low - COARSE_M / 2 + CELL_M / 2  # resize aligns the outer edges of the cells, not their centres
    return fine, origin


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cell: tuple[float, float]) -> np.ndarray:
    """Smooth noise [rows, columns] of unit variance that wraps around along the columns."""
    rows, columns = max(2, round(shape[0] / cell[0])) + 1, max(2, round(shape[1] / cell[1]))
    small = rng.standard_normal((rows, columns), np.float32)
    small = np.concatenate([small, small[:, :2]], axis=1)
    big = cv2.resize(small, (round(shape[1] * (columns + 2) / columns), shape[0]), interpolation=cv2.INTER_LINEAR)
    start = round(shape[1] / columns / 2)
    return big[:, start : start + shape[1]]


def paint_strip(road: Road, look: Looks, rng: np.random.Generator) -> np.ndarray:
    """The road seen from above at the finest level: rows over d (ascending), columns over s, uint8 [D, S, 3]."""
    step_s, step_d, _ = LEVELS[0]
    low, high = road.right_edge_m - VERGE_M, road.left_edge_m + VERGE_M
    shape = (round((high - low) / step_d), round(TILE_M / step_s))
    d = (low + (np.arange(shape[0]) + 0.5) * step_d).astype(np.float32)
    s = ((np.arange(shape[1]) + 0.5) * step_s).astype(np.float32)
    fine = rng.standard_normal(shape, np.float32)
    medium, wide = smooth_noise(rng, shape, (20, 20)), smooth_noise(rng, shape, (120, 160))

    asphalt = look.asphalt_noise * (0.8 * fine + 0.5 * medium + 0.5 * wide)
    for lane in range(road.lane_count):  # worn wheel tracks
        for track in (-0.75, 0.75):
            band = np.exp(-(((d - lane * road.lane_width_m - track) / 0.3) ** 2))
            asphalt += (band * rng.uniform(-8, 6))[:, None]
    image = np.array(look.asphalt_bgr, np.float32) + asphalt[..., None]
    for _ in range(rng.poisson(look.patches * TILE_M / 10)):
        c = rng.integers(0, shape[1] - 80), rng.integers(round(VERGE_M / step_d), shape[0] - round(VERGE_M / step_d))
        rows, columns = slice(c[1], c[1] + int(rng.integers(12, 70))), slice(c[0], c[0] + int(rng.integers(12, 120)))
        image[rows, columns] += rng.uniform(-25, 14)

    wear = (1.0 - look.marking_wear * np.clip(0.5 + 0.5 * medium, 0, 1))[..., None] * 0.95
    marking = np.array(look.marking_bgr, np.float32)
    dashes = (s % look.period_m) < look.dash_m
    for line in range(road.lane_count + 1):
        across = np.abs(d - (road.right_edge_m + line * road.lane_width_m)) < look.marking_width_m / 2
        along = dashes if 0 < line < road.lane_count else np.ones_like(dashes)
        area = np.ix_(across, along)
        image[area] += wear[area] * (marking - image[area])

    edge = road.shoulder_m
    for outer in (d - road.left_edge_m - edge, road.right_edge_m - edge - d):
        width = rng.uniform(1.2, 3.0) if look.verge != "grass" else 0.0
        verge = (outer > 0) & (outer <= width)
        texture = (12 * fine + 10 * medium)[verge] if look.verge == "gravel" else (3 * fine + 3 * medium)[verge]
        image[verge] = np.array(look.verge_bgr, np.float32) + texture[..., None]
        if look.verge == "pavement":
            image[(outer > 0) & (outer <= 0.2)] *= 0.75  # kerb
            image[np.ix_(verge, (s % 1.5) < 0.05)] *= 0.85
        grass = outer > width
        image[grass] = (
            np.array(look.grass_bgr, np.float32) * (1 + 0.16 * fine + 0.14 * medium + 0.18 * wide)[grass][..., None]
        )
    return np.clip(image * np.array(look.light_bgr, np.float32), 0, 255).astype(np.uint8)


def _atlas(strip: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """All resolutions of the strip in one image, and per level: columns per metre, rows per metre, first row."""
    step_s, step_d, _ = LEVELS[0]
    blocks: list[np.ndarray] = []
    offsets: list[float] = []
    row = 0
    columns = strip.shape[1] + 4
    level_image = strip
    for level_s, level_d, _ in LEVELS:
        size = (round(strip.shape[1] * step_s / level_s), round(strip.shape[0] * step_d / level_d))
        level_image = cv2.resize(level_image, size, interpolation=cv2.INTER_AREA)
        padded = cv2.copyMakeBorder(level_image, 0, 0, 2, 2, cv2.BORDER_WRAP)
        padded = cv2.copyMakeBorder(padded, 2, 2, 0, columns - padded.shape[1], cv2.BORDER_REPLICATE)
        blocks.append(padded)
        offsets.append(row + 2 - 0.5)
        row += len(padded)
    scale_s = np.array([round(strip.shape[1] * step_s / s) / TILE_M for s, _, _ in LEVELS], np.float32)
    scale_d = np.array([1 / d for _, d, _ in LEVELS], np.float32)
    return np.concatenate(blocks), (scale_s, scale_d, np.array(offsets, np.float32))


def paint_sky(look: Looks, rng: np.random.Generator) -> np.ndarray:
    """Panorama uint8 [rows, columns, 3]: the top row is the highest; azimuth 0 in column 0."""
    rows, columns = PANORAMA
    low, high = SINE_RANGE
    sine = np.linspace(high, low, rows, dtype=np.float32)[:, None]
    share = np.clip(sine / 0.55, 0, 1) ** 0.7
    image = (1 - share)[..., None] * np.array(look.sky_horizon_bgr, np.float32) + share[..., None] * np.array(
        look.sky_top_bgr
    )
    image = np.repeat(image, columns, axis=1)
    shape = (rows, columns)
    clouds = (
        0.6 * smooth_noise(rng, shape, (30, 90))
        + 0.4 * smooth_noise(rng, shape, (12, 30))
        + 0.2 * smooth_noise(rng, shape, (5, 10))
    )
    cover = np.clip((clouds + 2.2 * look.cloud_share - 0.9) * 1.4, 0, 1) * np.clip(sine * 8, 0, 1)
    bright = (1 - 0.25 * look.cloud_share) * (235 + 12 * smooth_noise(rng, shape, (15, 40)))
    image += cover[..., None] * (bright[..., None] - image)
    if look.skyline != "none":
        cell = {"hills": 160.0, "trees": 8.0, "town": 22.0}[look.skyline]
        height = {"hills": 0.035, "trees": 0.02, "town": 0.03}[look.skyline]
        interpolation = cv2.INTER_NEAREST if look.skyline == "town" else cv2.INTER_LINEAR
        small = np.abs(rng.standard_normal((1, round(columns / cell)))).astype(np.float32)
        ridge = height * (0.4 + cv2.resize(small, (columns, 1), interpolation=interpolation))
        colour = 0.45 * np.array(look.grass_bgr) + 0.4 * np.array(look.sky_horizon_bgr)
        if look.skyline == "town":
            colour = 0.6 * np.array(look.sky_horizon_bgr) * rng.uniform(0.7, 1.1)
        image[sine < ridge] = colour
    image[np.repeat(sine < 0.0, columns, axis=1)] = 0.6 * np.array(look.grass_bgr) + 0.35 * np.array(
        look.sky_horizon_bgr
    )
    return np.clip(image * np.array(look.light_bgr, np.float32), 0, 255).astype(np.uint8)
