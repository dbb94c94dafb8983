"""Meshes of what stands in the cell: parts, bins, clutter beside the belt, and the arm."""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pybullet
import pybullet_data

from visuomotor.sim.cell.parts import CATALOGUE, VISUAL_MESH, PartSpec, unit_mesh
from visuomotor.sim.mesh import Mesh, Part, ball, beam, box, frustum, ring, solid
from visuomotor.sim.wavefront import Wavefront, cluster, read_wavefront

PANDA = Path(pybullet_data.getDataPath()) / "franka_panda"
FINGER_HINGE_M = 0.0584  # from the hand's frame to the fingers', along its z (panda.urdf)
LINK_CELL_M = 0.018  # what the arm's meshes are reduced to
FINE_CELL_M = {"hand": 0.008, "finger": 0.004}
DUCK_CELL = 0.07  # of a duck's length
BIN_WALL_M = 0.006
CLUTTER_KINDS: tuple[str, ...] = (
    "carton", "crate", "post", "sheet", "tool", "coil", "cover", "tape", "box_open", "cone", "cable", "stack",
)  # fmt: skip


# --------------------------------------------------------------------------------------------------------------- parts
def part_mesh(spec: PartSpec) -> Mesh:
    """A part in its own frame: the origin in the middle of its bounding box, x along the length, z up."""
    kind = CATALOGUE[spec.kind]
    mesh = Mesh()
    if kind.shape == "box":
        solid(mesh, spec.size_m, Part.PAINT)
    elif kind.shape == "cylinder":
        _upright(mesh, spec.size_m[1] / 2, (-spec.size_m[2] / 2, spec.size_m[2] / 2), sides=16)
    elif kind.shape == "sphere":
        ball(mesh, spec.size_m[1] / 2, Part.PAINT)
    elif VISUAL_MESH[kind.mesh].startswith("duck"):
        unit, normals, columns, triangles = _unit_duck()
        size = np.array(spec.size_m)
        mesh.surface(unit * size, normals, columns, triangles)
    elif VISUAL_MESH[kind.mesh].startswith("lego"):
        _brick(mesh, spec.size_m)
    else:
        vertices, triangles = unit_mesh(VISUAL_MESH[kind.mesh])
        for triangle in triangles:
            mesh.polygon(vertices[triangle] * np.array(spec.size_m), Part.PAINT)
    return mesh


def _upright(mesh: Mesh, radius_m: float, z_m: tuple[float, float], *, sides: int) -> None:
    """Closed upright cylinder."""
    ring(mesh, (radius_m, radius_m), z_m, Part.PAINT, sides=sides)
    angle = -np.arange(sides) * 2 * np.pi / sides
    base = np.column_stack([radius_m * np.cos(angle), radius_m * np.sin(angle), np.full(sides, z_m[0])])
    mesh.polygon(base, Part.PAINT)


def _brick(mesh: Mesh, size_m: tuple[float, float, float]) -> None:
    """Building brick of two by two studs: what its 2,500 triangles look like from half a metre."""
    length, width, height = size_m
    body, stud = 0.79 * height, 0.148 * length
    x, y, z = length / 2, width / 2, height / 2
    box(mesh, (-x, x), (-y, y), (-z, body - z), Part.PAINT)
    mesh.polygon([(-x, -y, -z), (-x, y, -z), (x, y, -z), (x, -y, -z)], Part.PAINT_DARK)
    for along in (-0.25, 0.25):
        for across in (-0.25, 0.25):
            ring(mesh, (stud, stud), (body - z, z), Part.PAINT, sides=8, centre=(along * length, across * width))


@cache
def _unit_duck() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The duck over its size, reduced: vertices, normals, columns (its texture tells beak and eyes), triangles."""
    found = read_wavefront(Path(pybullet_data.getDataPath()) / VISUAL_MESH["duck_vhacd.obj"])
    texture = cv2.imread(str(Path(pybullet_data.getDataPath()) / "duckCM.png"))
    assert texture is not None  # pybullet_data's own file
    rows = ((1.0 - found.uv[:, 1]) * (texture.shape[0] - 1)).round().astype(int).clip(0, texture.shape[0] - 1)
    columns = (found.uv[:, 0] * (texture.shape[1] - 1)).round().astype(int).clip(0, texture.shape[1] - 1)
    blue, green, _ = texture[rows, columns].T.astype(int)
    column = np.full(len(rows), int(Part.PAINT))
    column[green < 140] = Part.ACCENT
    column[green < 60] = Part.TYRE
    column[blue > 160] = Part.WHITE
    vertices, _ = unit_mesh(VISUAL_MESH["duck_vhacd.obj"])  # the catalogue's own frame
    return cluster(vertices, found.triangles, column, DUCK_CELL)


# ----------------------------------------------------------------------------------------------------- bins and clutter
def bin_mesh(size_m: tuple[float, float, float]) -> Mesh:
    """Open bin around the origin on the plate; ``size_m`` is its inner length and width, and the height of the rim."""
    length, width, height = size_m
    x, y, wall = length / 2, width / 2, BIN_WALL_M
    mesh = Mesh()
    for near, far in ((-x - wall, -x), (x, x + wall)):
        box(mesh, (near, far), (-y - wall, y + wall), (0.0, height), Part.PAINT)
    for near, far in ((-y - wall, -y), (y, y + wall)):
        box(mesh, (-x, x), (near, far), (0.0, height), Part.PAINT)
    mesh.polygon([(-x, -y, 0.003), (x, -y, 0.003), (x, y, 0.003), (-x, y, 0.003)], Part.PAINT_DARK)
    return mesh


def clutter_mesh(kind: str, scale: float) -> Mesh:
    """Something that lies beside the belt and is no part. Raises ValueError for an unknown kind."""
    mesh, k = Mesh(), scale
    if kind == "carton":
        box(mesh, (-0.09 * k, 0.09 * k), (-0.06 * k, 0.06 * k), (0.0, 0.08 * k), Part.PAINT)
        box(mesh, (-0.091 * k, 0.091 * k), (-0.01 * k, 0.01 * k), (0.0, 0.081 * k), Part.ACCENT)
    elif kind == "crate":
        for near, far in ((-0.11, -0.10), (0.10, 0.11)):
            box(mesh, (near * k, far * k), (-0.08 * k, 0.08 * k), (0.0, 0.07 * k), Part.PAINT)
        for near, far in ((-0.08, -0.07), (0.07, 0.08)):
            box(mesh, (-0.10 * k, 0.10 * k), (near * k, far * k), (0.0, 0.07 * k), Part.PAINT)
    elif kind == "post":
        ring(mesh, (0.02 * k, 0.02 * k), (0.0, 0.22 * k), Part.PAINT, sides=8)
        ring(mesh, (0.021 * k, 0.021 * k), (0.18 * k, 0.225 * k), Part.ACCENT, sides=8)
    elif kind == "sheet":
        box(mesh, (-0.105 * k, 0.105 * k), (-0.075 * k, 0.075 * k), (0.0, 0.001), Part.WHITE)
        for row in range(5):
            line = (-0.08 + 0.035 * row) * k
            end = (0.02 + 0.01 * (row % 3)) * k
            box(mesh, (line, line + 0.008 * k), (-0.06 * k, end), (0.001, 0.0015), Part.TYRE)
    elif kind == "tool":
        beam(mesh, (0.0, -0.09 * k, 0.012 * k), (0.0, 0.02 * k, 0.012 * k), 0.024 * k, Part.ACCENT)
        beam(mesh, (0.0, 0.02 * k, 0.012 * k), (0.0, 0.11 * k, 0.012 * k), 0.008 * k, Part.RIM)
    elif kind == "coil":
        for level, radius in enumerate((0.055, 0.06, 0.05)):
            ring(mesh, (radius * k, radius * k), (0.012 * level, 0.012 * (level + 1)), Part.PAINT, sides=14)
        ring(mesh, (0.03 * k, 0.03 * k), (0.030, 0.0365), Part.TYRE, sides=12)
    elif kind == "cover":
        frustum(
            mesh,
            (-0.1 * k, 0.1 * k, 0.12 * k),
            (-0.07 * k, 0.07 * k, 0.07 * k),
            (0.0, 0.05 * k),
            (Part.PAINT, Part.PAINT, Part.PAINT, Part.ACCENT),
        )
    elif kind == "tape":
        box(mesh, (-0.012, 0.012), (-0.2 * k, 0.2 * k), (0.0, 0.0005), Part.ACCENT)
    elif kind == "box_open":
        box(mesh, (-0.05 * k, 0.05 * k), (-0.05 * k, 0.05 * k), (0.0, 0.03 * k), Part.RIM)
        box(mesh, (-0.042 * k, 0.042 * k), (-0.042 * k, 0.042 * k), (0.03 * k, 0.031 * k), Part.TYRE)
    elif kind == "cone":
        ring(mesh, (0.045 * k, 0.012 * k), (0.0, 0.12 * k), Part.ACCENT, sides=10)
    elif kind == "cable":
        points = [(0.06 * np.sin(1.3 * i) * k, (-0.15 + 0.05 * i) * k, 0.005) for i in range(7)]
        for one, following in itertools.pairwise(points):
            beam(mesh, one, following, 0.009, Part.TYRE)
    elif kind == "stack":
        for level in range(4):
            half = (0.06 - 0.004 * level) * k
            z = (0.02 * level * k, 0.018 * (level + 1) * k)
            box(mesh, (-half, half), (-half, half), z, Part.PAINT if level % 2 else Part.ACCENT)
    else:
        raise ValueError(f"kind: expected one of {CLUTTER_KINDS}, got {kind!r}")
    return mesh


# ------------------------------------------------------------------------------------------------------------- the arm
@cache
def arm_meshes() -> dict[str, Mesh]:
    """The Panda's links by name, each in its own frame, reduced to what an image of half a metre's distance shows."""
    meshes: dict[str, Mesh] = {}
    for link in ElementTree.parse(PANDA / "panda.urdf").getroot().iter("link"):
        visual = link.find("visual")
        if visual is None:
            continue
        file = visual.find("geometry/mesh")
        assert file is not None  # pybullet_data's own file
        origin = visual.find("origin")
        angles = [float(v) for v in (origin.get("rpy", "0 0 0") if origin is not None else "0 0 0").split()]
        turn = np.array(pybullet.getMatrixFromQuaternion(pybullet.getQuaternionFromEuler(angles))).reshape(3, 3)
        path = PANDA / file.get("filename", "").removeprefix("package://")
        found = read_wavefront(path)
        cell = FINE_CELL_M.get(path.stem, LINK_CELL_M)
        reduced = cluster(found.vertices @ turn.T, found.triangles, _arm_columns(found, path), cell)
        meshes[link.get("name", "")] = mesh = Mesh()
        mesh.surface(*reduced)
    return meshes


def _arm_columns(found: Wavefront, path: Path) -> np.ndarray:
    """White shells and dark joints, by the brightness of each triangle's material."""
    dark, name = set(), ""
    library = path.with_suffix(".mtl")
    for line in library.read_text().splitlines() if library.exists() else ():
        words = line.split()
        if words[:1] == ["newmtl"]:
            name = words[1]
        elif words[:1] == ["Kd"] and max(float(v) for v in words[1:4]) < 0.5:
            dark.add(name)
    shade = np.array([int(Part.BUMPER if name in dark else Part.WHITE) for name in found.materials])
    columns: np.ndarray = shade[found.material]
    return columns
