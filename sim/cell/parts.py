"""The catalogue of parts: shapes and ranges of size, mass, friction and colour of each class, and of the distractors.

A part's own frame has its origin in the middle of its bounding box, x along its length, y along the width that the
fingers close on, z up. Every class can be gripped: width 30..60 mm, height 28..60 mm. Meshes ship with pybullet_data;
they touch as convex hulls.
"""

from __future__ import annotations

import colorsys
from functools import cache
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import pybullet_data
from scipy.spatial import ConvexHull

from visuomotor.sim.wavefront import read_wavefront

DISTRACTOR = -1  # class of what the detector must ignore
Interval = tuple[float, float]


class ColourRange(msgspec.Struct, frozen=True, kw_only=True):
    """Hue in turns (several intervals, below 0 and above 1 go round), saturation and value in 0..1."""

    hue: tuple[Interval, ...]
    saturation: Interval = (0.62, 0.95)
    value: Interval = (0.55, 0.95)


class PartKind(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the catalogue. Meshes keep their proportions: ``length_m`` sets the scale, the other two follow.

    Round ones take ``width_m`` as diameter; a kind without ``length_m`` is as long as it is wide, one without
    ``height_m`` as high. Evaluation draws its colours from ranges that training never sees.
    """

    name: str
    class_id: int
    shape: Literal["box", "cylinder", "sphere", "mesh"]
    length_m: Interval | None = None
    width_m: Interval | None = None
    height_m: Interval | None = None
    mass_kg: Interval
    friction: Interval = (0.5, 0.9)
    rolling_friction_m: Interval = (0.0, 0.0)  # lever arm of the resisting torque
    mesh: str = ""  # file below pybullet_data, y up; "wedge": a triangular prism
    train: ColourRange
    evaluation: ColourRange


class PartSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A part with everything drawn; ``kind`` is an index into ``CATALOGUE``, colour is BGR 0..255."""

    kind: int
    class_id: int
    size_m: tuple[float, float, float]  # length, width, height
    mass_kg: float
    friction: float
    rolling_friction_m: float
    colour_bgr: tuple[float, float, float]


def _grey(value: Interval) -> ColourRange:
    return ColourRange(hue=((0.0, 1.0),), saturation=(0.0, 0.07), value=value)


CATALOGUE: tuple[PartKind, ...] = (
    PartKind(
        name="red cube",
        class_id=0,
        shape="box",
        width_m=(0.034, 0.050),
        mass_kg=(0.05, 0.15),
        train=ColourRange(hue=((-0.035, -0.008), (0.010, 0.028))),
        evaluation=ColourRange(hue=((-0.008, 0.010),)),
    ),
    PartKind(
        name="blue cylinder",
        class_id=1,
        shape="cylinder",
        width_m=(0.034, 0.052),
        height_m=(0.032, 0.058),
        mass_kg=(0.05, 0.15),
        train=ColourRange(hue=((0.555, 0.600), (0.625, 0.665))),
        evaluation=ColourRange(hue=((0.600, 0.625),)),
    ),
    PartKind(
        name="green block",
        class_id=2,
        shape="box",
        length_m=(0.070, 0.110),
        width_m=(0.030, 0.044),
        height_m=(0.028, 0.044),
        mass_kg=(0.06, 0.18),
        train=ColourRange(hue=((0.285, 0.325), (0.355, 0.405))),
        evaluation=ColourRange(hue=((0.325, 0.355),)),
    ),
    PartKind(
        name="yellow ball",
        class_id=3,
        shape="sphere",
        width_m=(0.038, 0.056),
        mass_kg=(0.04, 0.10),
        friction=(0.6, 0.9),
        rolling_friction_m=(0.0001, 0.0006),
        train=ColourRange(hue=((0.130, 0.148), (0.164, 0.182)), value=(0.70, 0.98)),
        evaluation=ColourRange(hue=((0.148, 0.164),), value=(0.70, 0.98)),
    ),
    PartKind(
        name="duck",
        class_id=4,
        shape="mesh",
        length_m=(0.050, 0.062),
        mass_kg=(0.05, 0.12),
        friction=(0.6, 0.9),
        mesh="duck_vhacd.obj",
        train=ColourRange(hue=((0.066, 0.084), (0.098, 0.114)), value=(0.70, 0.98)),
        evaluation=ColourRange(hue=((0.084, 0.098),), value=(0.70, 0.98)),
    ),
    PartKind(
        name="brick",
        class_id=5,
        shape="mesh",
        length_m=(0.040, 0.054),
        mass_kg=(0.04, 0.12),
        mesh="lego/lego_vhacd.obj",
        train=ColourRange(hue=((0.755, 0.790), (0.820, 0.860))),
        evaluation=ColourRange(hue=((0.790, 0.820),)),
    ),
    PartKind(
        name="slab",
        class_id=DISTRACTOR,
        shape="box",
        length_m=(0.060, 0.090),
        width_m=(0.040, 0.058),
        height_m=(0.014, 0.022),
        mass_kg=(0.05, 0.15),
        train=_grey((0.35, 0.60)),
        evaluation=_grey((0.60, 0.72)),
    ),
    PartKind(
        name="disc",
        class_id=DISTRACTOR,
        shape="cylinder",
        width_m=(0.046, 0.072),
        height_m=(0.012, 0.020),
        mass_kg=(0.04, 0.12),
        train=_grey((0.80, 0.97)),
        evaluation=_grey((0.70, 0.80)),
    ),
    PartKind(
        name="post",
        class_id=DISTRACTOR,
        shape="box",
        width_m=(0.036, 0.046),
        height_m=(0.070, 0.090),
        mass_kg=(0.06, 0.15),
        train=_grey((0.55, 0.80)),
        evaluation=_grey((0.40, 0.55)),
    ),
    PartKind(
        name="wedge",
        class_id=DISTRACTOR,
        shape="mesh",
        length_m=(0.050, 0.080),
        mass_kg=(0.04, 0.12),
        mesh="wedge",
        train=_grey((0.45, 0.90)),
        evaluation=_grey((0.55, 0.80)),
    ),
)
DISTRACTORS = tuple(i for i, kind in enumerate(CATALOGUE) if kind.class_id == DISTRACTOR)
# The mesh to draw, by the one that touches.
VISUAL_MESH = {"duck_vhacd.obj": "duck.obj", "lego/lego_vhacd.obj": "lego/lego.obj", "wedge": "wedge"}
HULL_MARGIN_M = 0.001  # by which PyBullet puffs a convex hull up
_HULL_POINTS = 64


def draw_part(kind: int, split: str, rng: np.random.Generator) -> PartSpec:
    """A part of a kind of ``CATALOGUE``; ``evaluation`` has colours of its own, the other splits share theirs."""
    row = CATALOGUE[kind]
    colours = row.evaluation if split == "evaluation" else row.train
    hue = colours.hue[int(rng.integers(len(colours.hue)))]
    rgb = colorsys.hsv_to_rgb(rng.uniform(*hue) % 1.0, rng.uniform(*colours.saturation), rng.uniform(*colours.value))
    red, green, blue = (255.0 * channel for channel in rgb)
    return PartSpec(
        kind=kind,
        class_id=row.class_id,
        size_m=_draw_size(row, rng),
        mass_kg=float(rng.uniform(*row.mass_kg)),
        friction=float(rng.uniform(*row.friction)),
        rolling_friction_m=float(rng.uniform(*row.rolling_friction_m)),
        colour_bgr=(blue, green, red),
    )


def kind_of_class(class_id: int) -> int:
    """Index into ``CATALOGUE`` of a class of the task."""
    return next(i for i, kind in enumerate(CATALOGUE) if kind.class_id == class_id)


def touch_vertices(spec: PartSpec) -> np.ndarray:
    """Corners [V, 3] (m, part's frame) of the convex hull with which a part of a mesh kind touches."""
    return _unit_hull(CATALOGUE[spec.kind].mesh) * (np.array(spec.size_m) - 2.0 * HULL_MARGIN_M)


@cache
def unit_mesh(mesh: str) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [V, 3] in the part's frame divided by its size (-0.5 .. 0.5, z up) and triangles [T, 3] of a mesh."""
    vertices, faces = _mesh(mesh)
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    return (vertices - (low + high) / 2.0) / (high - low), faces


@cache
def proportions(mesh: str) -> tuple[float, float]:
    """Width and height of a mesh over its length."""
    extent = np.ptp(_mesh(mesh)[0], axis=0)
    return float(extent[1] / extent[0]), float(extent[2] / extent[0])


def _draw_size(row: PartKind, rng: np.random.Generator) -> tuple[float, float, float]:
    if row.shape == "mesh":
        assert row.length_m is not None  # a row of the table, held by a test
        length = float(rng.uniform(*row.length_m))
        wide, high = proportions(row.mesh)
        return length, wide * length, high * length
    assert row.width_m is not None
    width = float(rng.uniform(*row.width_m))
    length = width if row.length_m is None else float(rng.uniform(*row.length_m))
    return length, width, width if row.height_m is None else float(rng.uniform(*row.height_m))


@cache
def _unit_hull(mesh: str) -> np.ndarray:
    """Corners of the convex hull of a unit mesh, thinned to what a collision needs."""
    vertices = unit_mesh(mesh)[0]
    corners = vertices[ConvexHull(vertices).vertices]
    if len(corners) <= _HULL_POINTS:
        return corners
    # Farthest-point thinning; the extremes come first, so that the hull keeps its size and its flat base.
    chosen = sorted({int(i) for axis in corners.T for i in (axis.argmin(), axis.argmax())})
    distance = np.linalg.norm(corners[:, None] - corners[chosen], axis=2).min(axis=1)
    while len(chosen) < _HULL_POINTS:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(corners - corners[chosen[-1]], axis=1))
    return corners[chosen]


@cache
def _mesh(mesh: str) -> tuple[np.ndarray, np.ndarray]:
    """Vertices, z up, and triangles of a mesh by its name; those of files have y up."""
    if mesh == "wedge":
        return _wedge()
    found = read_wavefront(Path(pybullet_data.getDataPath()) / mesh)
    x, y, z = found.vertices.T
    return np.stack([x, -z, y], axis=1), found.triangles


def _wedge() -> tuple[np.ndarray, np.ndarray]:
    """A prism with a triangle as its end: 1 long, 0.7 wide, 0.45 high."""
    vertices = np.array([(x, y, z) for x in (0.0, 1.0) for y, z in ((0.0, 0.0), (0.7, 0.0), (0.35, 0.45))])
    faces = np.array([(0, 2, 1), (3, 4, 5), (0, 1, 4), (0, 4, 3), (1, 2, 5), (1, 5, 4), (2, 0, 3), (2, 3, 5)])
    return vertices, faces
