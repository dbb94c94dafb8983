"""Triangle meshes and the primitives that models are built from: frusta, boxes, outlines, rings, wheels, bars.

Coordinates are metres with z up; faces are counter-clockwise seen from outside. Colours are palette cells (``Part``),
painted by ``sim.looks``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np


class Part(IntEnum):
    """Column of the palette texture that colours a face."""

    PAINT = 0
    PAINT_DARK = 1
    GLASS = 2
    TYRE = 3
    RIM = 4
    HEADLIGHT = 5
    TAILLIGHT = 6
    PLATE = 7
    BUMPER = 8
    SKIN = 9
    HAIR = 10
    SHIRT = 11
    TROUSERS = 12
    SHOES = 13
    ACCENT = 14
    WHITE = 15


@dataclass
class Mesh:
    """Triangles with one normal and one palette column per vertex (faces share no vertices, so shading is flat)."""

    vertices: list[np.ndarray] = field(default_factory=list)  # blocks [n, 3]
    normals: list[np.ndarray] = field(default_factory=list)
    parts: list[int] = field(default_factory=list)  # one per block
    indices: list[np.ndarray] = field(default_factory=list)  # blocks [m, 3]
    count: int = 0

    def polygon(self, points: np.ndarray | list[tuple[float, float, float]], part: int) -> None:
        """Add one convex polygon [n, 3], counter-clockwise seen from outside."""
        points = np.asarray(points, np.float64)
        (x0, y0, z0), (x1, y1, z1), (x2, y2, z2) = points[:3].tolist()  # numpy's cross is slow for single vectors
        ax, ay, az, bx, by, bz = x1 - x0, y1 - y0, z1 - z0, x2 - x0, y2 - y0, z2 - z0
        nx, ny, nz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
        length = max(math.sqrt(nx * nx + ny * ny + nz * nz), 1e-12)
        normal = np.array([[nx / length, ny / length, nz / length]])
        n = len(points)
        self.vertices.append(points)
        self.normals.append(np.repeat(normal, n, axis=0))
        self.parts.extend([int(part)] * n)
        self.indices.append(np.array([(0, i, i + 1) for i in range(1, n - 1)]) + self.count)
        self.count += n

    def surface(self, vertices: np.ndarray, normals: np.ndarray, parts: np.ndarray, triangles: np.ndarray) -> None:
        """Add triangles [T, 3] of a smooth surface: vertices [V, 3], their normals [V, 3] and palette columns [V]."""
        self.vertices.append(vertices)
        self.normals.append(normals)
        self.parts.extend(parts.tolist())
        self.indices.append(triangles + self.count)
        self.count += len(vertices)

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Vertices [V, 3], normals [V, 3], palette columns [V], triangles [T, 3]."""
        return (
            np.concatenate(self.vertices),
            np.concatenate(self.normals),
            np.array(self.parts, np.int64),
            np.concatenate(self.indices),
        )


@dataclass
class Limb:
    """Part of a model; it swings about the y axis through (0, 0, ``hinge_z_m``) by up to ``swing_rad``."""

    mesh: Mesh
    hinge_z_m: float = 0.0
    swing_rad: float = 0.0


# ---------------------------------------------------------------------------------------------------------- primitives
def frustum(
    mesh: Mesh,
    bottom: tuple[float, float, float],
    top: tuple[float, float, float],
    z_m: tuple[float, float],
    parts: tuple[int, int, int, int],
    *,
    y_m: float = 0.0,
) -> None:
    """Box whose lower and upper rectangles are (x rear, x front, width); ``parts`` colour front, rear, sides, top."""
    (r0, f0, w0), (r1, f1, w1), (z0, z1) = bottom, top, z_m
    h0, h1 = w0 / 2, w1 / 2
    b = [(f0, y_m - h0, z0), (f0, y_m + h0, z0), (r0, y_m + h0, z0), (r0, y_m - h0, z0)]
    t = [(f1, y_m - h1, z1), (f1, y_m + h1, z1), (r1, y_m + h1, z1), (r1, y_m - h1, z1)]
    front, rear, sides, cover = parts
    mesh.polygon([b[0], b[1], t[1], t[0]], front)
    mesh.polygon([b[2], b[3], t[3], t[2]], rear)
    mesh.polygon([b[1], b[2], t[2], t[1]], sides)
    mesh.polygon([b[3], b[0], t[0], t[3]], sides)
    mesh.polygon([t[0], t[1], t[2], t[3]], cover)


def box(mesh: Mesh, x: tuple[float, float], y: tuple[float, float], z: tuple[float, float], part: int) -> None:
    """Axis-aligned box without a floor."""
    width, middle = y[1] - y[0], (y[0] + y[1]) / 2
    frustum(mesh, (x[0], x[1], width), (x[0], x[1], width), z, (part,) * 4, y_m=middle)


def solid(mesh: Mesh, size_m: tuple[float, float, float], part: int) -> None:
    """Closed box of length, width and height around the origin."""
    x, y, z = (0.5 * side for side in size_m)
    box(mesh, (-x, x), (-y, y), (-z, z), part)
    mesh.polygon([(-x, -y, -z), (-x, y, -z), (x, y, -z), (x, -y, -z)], part)


def ball(mesh: Mesh, radius_m: float, part: int, *, sides: int = 12) -> None:
    """Sphere around the origin, shaded smoothly."""
    rings = sides // 2
    polar, turn = np.meshgrid(np.linspace(0, np.pi, rings + 1), np.arange(sides) * 2 * np.pi / sides, indexing="ij")
    normal = np.stack([np.sin(polar) * np.cos(turn), np.sin(polar) * np.sin(turn), np.cos(polar)], axis=-1)
    row, column = np.meshgrid(np.arange(rings), np.arange(sides), indexing="ij")
    beside = (column + 1) % sides
    above, below = row * sides, (row + 1) * sides
    triangles = np.concatenate(
        [
            np.stack([above + column, below + column, below + beside], axis=-1).reshape(-1, 3),
            np.stack([above + column, below + beside, above + beside], axis=-1).reshape(-1, 3),
        ]
    )
    normal = normal.reshape(-1, 3)
    mesh.surface(radius_m * normal, normal, np.full(len(normal), int(part)), triangles)


def profile(mesh: Mesh, outline: list[tuple[float, float]], width_m: float, part: int) -> None:
    """Side outline (x, z), convex and counter-clockwise seen from the right, pulled out to ``width_m``."""
    points = np.array(outline, np.float64)
    half = width_m / 2
    right = np.column_stack([points[:, 0], np.full(len(points), -half), points[:, 1]])
    left = right * (1.0, -1.0, 1.0)
    mesh.polygon(right, part)
    mesh.polygon(left[::-1], part)
    for i in range(len(points)):
        j = (i + 1) % len(points)
        if points[i, 1] > points[:, 1].min() + 1e-9 or points[j, 1] > points[:, 1].min() + 1e-9:  # no floor
            mesh.polygon([right[j], right[i], left[i], left[j]], part)


def ring(
    mesh: Mesh,
    radius_m: tuple[float, float],
    z_m: tuple[float, float],
    part: int,
    *,
    sides: int = 8,
    centre: tuple[float, float] = (0.0, 0.0),
    cover: bool = True,
) -> None:
    """Upright truncated cone."""
    angle = np.arange(sides) * 2 * np.pi / sides
    c, s = np.cos(angle), np.sin(angle)
    low = np.column_stack([centre[0] + radius_m[0] * c, centre[1] + radius_m[0] * s, np.full(sides, z_m[0])])
    high = np.column_stack([centre[0] + radius_m[1] * c, centre[1] + radius_m[1] * s, np.full(sides, z_m[1])])
    for i in range(sides):
        j = (i + 1) % sides
        if radius_m[1] > 1e-6:
            mesh.polygon([low[i], low[j], high[j], high[i]], part)
        else:
            mesh.polygon([low[i], low[j], high[i]], part)
    if cover and radius_m[1] > 1e-6:
        mesh.polygon(high, part)


def wheel(mesh: Mesh, x: float, y: float, radius_m: float, width_m: float, *, sides: int = 8) -> None:
    """Wheel around the y axis at (x, y), standing on the ground, with a rim on both faces."""
    angle = (np.arange(sides) + 0.5) * 2 * np.pi / sides
    px, pz = x + radius_m * np.cos(angle), radius_m * (1 + np.sin(angle))
    pz = pz - pz.min()
    left = np.column_stack([px, np.full(sides, y + width_m / 2), pz])
    right = left - (0.0, width_m, 0.0)
    for i in range(sides):
        j = (i + 1) % sides
        mesh.polygon([right[i], left[i], left[j], right[j]], Part.TYRE)
    mesh.polygon(right, Part.TYRE)
    mesh.polygon(left[::-1], Part.TYRE)
    centre = np.array([x, y, radius_m])
    for face, sign in ((right, -1.0), (left[::-1], 1.0)):
        small = centre + (face - centre) * (0.55, 1.0, 0.55) + (0.0, sign * 0.01, 0.0)
        mesh.polygon(small[::2], Part.RIM)


def beam(
    mesh: Mesh, start: tuple[float, float, float], end: tuple[float, float, float], thick: float, part: int
) -> None:
    """Square bar between two points."""
    a, b = np.array(start, float), np.array(end, float)
    axis = (b - a) / max(float(np.linalg.norm(b - a)), 1e-9)
    side = np.cross(axis, (0.0, 1.0, 0.0) if abs(axis[1]) < 0.9 else (1.0, 0.0, 0.0))
    side *= thick / 2 / np.linalg.norm(side)
    up = np.cross(axis, side)
    corners = [side + up, -side + up, -side - up, side - up]
    for i in range(4):
        j = (i + 1) % 4
        mesh.polygon([a + corners[i], a + corners[j], b + corners[j], b + corners[i]], part)
    mesh.polygon([b + q for q in corners], part)
    mesh.polygon([a + q for q in corners[::-1]], part)
