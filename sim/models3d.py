"""Meshes of everything that stands on the road, built from a few primitives.

Every model has its origin on the ground under the centre of its footprint, x forward, y left, z up, metres, and fills
exactly the length, width and height asked for. Colours are palette cells (``Part``), painted by ``sim.looks``.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

from visuomotor.messages.schema import CAR, CONE, CYCLIST, PEDESTRIAN, TRUCK


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


# ------------------------------------------------------------------------------------------------------------ vehicles
CAR_STYLES: tuple[str, ...] = ("sedan", "hatch", "suv", "van", "wagon")
# greenhouse: rear and front of its bottom and of its top (shares of the length), waistline (share of the height)
_GREENHOUSE: dict[str, tuple[float, float, float, float, float]] = {
    "sedan": (-0.40, 0.22, -0.26, 0.06, 0.60),
    "hatch": (-0.47, 0.24, -0.38, 0.08, 0.58),
    "suv": (-0.48, 0.22, -0.42, 0.10, 0.60),
    "van": (-0.485, 0.36, -0.47, 0.20, 0.52),
    "wagon": (-0.48, 0.22, -0.43, 0.08, 0.58),
}


def car(size_m: tuple[float, float, float], style: str) -> Mesh:
    """Passenger car: white lights and a grille in front, red lights behind."""
    length, width, height = size_m
    rear0, front0, rear1, front1, waist = _GREENHOUSE[style]
    mesh = Mesh()
    end = 0.492 * length  # the lights reach the full length
    hood = waist - (0.02 if style == "van" else 0.07)
    boot = waist if style != "sedan" else waist - 0.03
    outline = [
        (-end, 0.16), (end, 0.16), (end, 0.40), (0.46 * length, hood - 0.05), (front0 * length, waist),
        (rear0 * length, waist), (-0.47 * length, boot), (-end, boot - 0.10),
    ]  # fmt: skip
    profile(mesh, [(x, z * height) for x, z in outline], width, Part.PAINT)
    frustum(
        mesh,
        (rear0 * length, front0 * length, 0.95 * width),
        (rear1 * length, front1 * length, (0.86 if style == "van" else 0.76) * width),
        (waist * height, height),
        (Part.GLASS, Part.GLASS, Part.GLASS, Part.PAINT),
    )
    pillars = [(-0.10, 0.025)] if style != "van" else [(-0.26, 0.20), (0.06, 0.02)]
    pillars += [(-0.36, 0.05)] if style in ("suv", "wagon", "hatch") else []
    top = (0.86 if style == "van" else 0.76) * width
    for x, thick in pillars:
        frustum(
            mesh,
            ((x - thick) * length, (x + thick) * length, 0.957 * width),
            ((x - thick) * length, (x + thick) * length, top + 0.007 * width),
            (waist * height, 0.985 * height),
            (Part.PAINT,) * 4,
        )
    _ends(mesh, length, width, height, hood, boot)
    radius = min(0.225 * height, 0.36)
    for x in (-0.30 * length, 0.31 * length):
        for side in (-1, 1):
            wheel(mesh, x, side * (width / 2 - 0.09), radius, 0.19)
    return mesh


def _ends(mesh: Mesh, length: float, width: float, height: float, hood: float, boot: float) -> None:
    """Lights, plates, grille and bumpers of a car."""
    half, inner = length / 2, 0.49 * length
    for side in (-1, 1):
        y = sorted((side * 0.30 * width, side * 0.485 * width))
        box(mesh, (inner, half), (y[0], y[1]), (0.36 * height, (hood - 0.06) * height), Part.HEADLIGHT)
        box(mesh, (-half, -inner), (y[0], y[1]), (0.36 * height, (boot - 0.08) * height), Part.TAILLIGHT)
    box(mesh, (inner, 0.498 * length), (-0.27 * width, 0.27 * width), (0.30 * height, 0.40 * height), Part.BUMPER)
    for x in ((inner, half), (-half, -inner)):
        box(mesh, x, (-0.47 * width, 0.47 * width), (0.15 * height, 0.23 * height), Part.BUMPER)
        box(mesh, x, (-0.14 * width, 0.14 * width), (0.24 * height, 0.31 * height), Part.PLATE)


TRUCK_STYLES: tuple[str, ...] = ("box", "tanker", "flatbed", "bus")


def truck(size_m: tuple[float, float, float], style: str) -> Mesh:
    """Lorry with a cab in front and a load area behind, or a bus."""
    length, width, height = size_m
    half = length / 2
    mesh = Mesh()
    inner = half - 0.05
    if style == "bus":
        box(mesh, (-inner, inner), (-width / 2, width / 2), (0.10 * height, height), Part.PAINT)
        for side in (-1, 1):
            y = sorted((side * 0.49 * width, side * 0.503 * width))
            for i in range(5):
                x0 = -inner + (i + 0.15) * 2 * inner / 5
                box(mesh, (x0, x0 + 1.5 * inner / 5), (y[0], y[1]), (0.50 * height, 0.82 * height), Part.GLASS)
        box(mesh, (inner, half), (-0.46 * width, 0.46 * width), (0.40 * height, 0.90 * height), Part.GLASS)
        box(mesh, (-half, -inner), (-0.42 * width, 0.42 * width), (0.55 * height, 0.85 * height), Part.GLASS)
        cab = 0.0
    else:
        cab = min(2.1, 0.3 * length)
        cab_top = 0.82 * height if style != "box" else 0.78 * height
        frustum(
            mesh,
            (inner - cab, inner, 0.96 * width),
            (inner - cab, inner - 0.12 * cab, 0.92 * width),
            (0.14 * height, cab_top),
            (Part.PAINT,) * 4,
        )
        slope = 0.12 * cab
        frustum(  # windscreen and side windows, a little proud of the cab
            mesh,
            (inner - 0.62 * cab, inner - 0.42 * slope, 0.965 * width),
            (inner - 0.62 * cab, inner - 0.85 * slope, 0.945 * width),
            (0.48 * height, 0.74 * height),
            (Part.GLASS, Part.PAINT_DARK, Part.GLASS, Part.PAINT),
        )
        box(mesh, (inner - 0.04, half), (-0.36 * width, 0.36 * width), (0.24 * height, 0.38 * height), Part.BUMPER)
        box(mesh, (-inner, inner - cab), (-0.36 * width, 0.36 * width), (0.16 * height, 0.28 * height), Part.BUMPER)
        back = (-inner, inner - cab - 0.15)
        if style == "box":
            box(mesh, back, (-width / 2, width / 2), (0.27 * height, height), Part.ACCENT)
            box(mesh, (-half, -inner), (-0.02 * width, 0.02 * width), (0.29 * height, 0.97 * height), Part.BUMPER)
        elif style == "tanker":
            points = [(0.5 * np.cos(a), 0.5 * np.sin(a)) for a in np.linspace(0, 2 * np.pi, 9)[:-1] + np.pi / 8]
            middle, radius = 0.62 * height, 0.76 * height
            rear = np.array([(back[0], y * width, middle + z * radius) for y, z in points])
            front = rear + (back[1] - back[0], 0.0, 0.0)
            for i in range(8):
                j = (i + 1) % 8
                mesh.polygon([rear[i], front[i], front[j], rear[j]], Part.ACCENT)
            mesh.polygon(rear[::-1], Part.ACCENT)
            mesh.polygon(front, Part.ACCENT)
        else:
            box(mesh, back, (-width / 2, width / 2), (0.27 * height, 0.34 * height), Part.PAINT_DARK)
            box(mesh, (back[0] + 0.3, back[1]), (-0.4 * width, 0.4 * width), (0.34 * height, 0.7 * height), Part.ACCENT)
            box(mesh, (back[1] - 0.2, back[1]), (-width / 2, width / 2), (0.34 * height, height), Part.PAINT_DARK)
    for side in (-1, 1):
        y = sorted((side * 0.30 * width, side * 0.47 * width))
        box(mesh, (inner, half), (y[0], y[1]), (0.16 * height, 0.24 * height), Part.HEADLIGHT)
        box(mesh, (-half, -inner), (y[0], y[1]), (0.17 * height, 0.27 * height), Part.TAILLIGHT)
    box(mesh, (-half, -inner), (-0.12 * width, 0.12 * width), (0.17 * height, 0.23 * height), Part.PLATE)
    radius = min(0.16 * height, 0.5)
    for x in (half - 0.45 * max(cab, 1.8), -half + 0.16 * length, -half + 0.16 * length + 2.4 * radius):
        for side in (-1, 1):
            wheel(mesh, x, side * (width / 2 - 0.15), radius, 0.28)
    return mesh


# ------------------------------------------------------------------------------------------------------ people, cones
def cyclist(size_m: tuple[float, float, float], style: str) -> Mesh:
    """Bicycle and rider leaning forward over the handlebar; ``style`` "helmet" or "bare"."""
    length, width, height = size_m
    mesh = Mesh()
    radius = min(0.19 * length, 0.36)
    rear, front = -length / 2 + radius, length / 2 - radius
    for x in (rear, front):
        wheel(mesh, x, 0.0, radius, 0.07, sides=10)
    hub = radius
    seat, bar = (-0.12 * length, 0.56 * height), (0.24 * length, 0.60 * height)
    crank = (0.0, 0.9 * hub)
    frame = [((rear, hub), crank), (crank, seat), (crank, bar), (seat, bar), (bar, (front, hub)), (seat, (rear, hub))]
    for (x0, z0), (x1, z1) in frame:
        beam(mesh, (x0, 0.0, z0), (x1, 0.0, z1), 0.05, Part.ACCENT)
    half = width / 2
    beam(mesh, (bar[0], -half, bar[1]), (bar[0], half, bar[1]), 0.05, Part.BUMPER)
    box(
        mesh,
        (rear - 0.5 * radius, rear - 0.5 * radius + 0.06),
        (-0.05, 0.05),
        (0.44 * height, 0.48 * height),
        Part.TAILLIGHT,
    )
    hip, shoulder = (-0.09 * length, 0.58 * height), (0.06 * length, 0.85 * height)
    for side, foot_z in ((-1, 0.16 * height), (1, 0.30 * height)):
        y = side * 0.11
        knee = (0.10 * length, 0.40 * height + 0.4 * (foot_z - 0.16 * height))
        foot = (0.02 * length, foot_z)
        beam(mesh, (hip[0], y, hip[1]), (knee[0], y, knee[1]), 0.13, Part.TROUSERS)
        beam(mesh, (knee[0], y, knee[1]), (foot[0], y, foot[1]), 0.10, Part.TROUSERS)
        box(mesh, (foot[0] - 0.07, foot[0] + 0.16), (y - 0.04, y + 0.04), (foot[1] - 0.06, foot[1] + 0.02), Part.SHOES)
        beam(mesh, (shoulder[0], side * 0.19, shoulder[1]), (bar[0], side * (half - 0.04), bar[1]), 0.085, Part.SHIRT)
    lean = (hip[0] - 0.12, hip[0] + 0.10, 0.30), (shoulder[0] - 0.13, shoulder[0] + 0.09, min(0.44, width))
    frustum(mesh, lean[0], lean[1], (hip[1] - 0.06, shoulder[1] + 0.02), (Part.SHIRT,) * 4)
    head = shoulder[0] + 0.05
    box(mesh, (head - 0.10, head + 0.11), (-0.09, 0.09), (0.855 * height, 0.96 * height), Part.SKIN)
    cap = Part.WHITE if style == "helmet" else Part.HAIR
    frustum(
        mesh, (head - 0.14, head + 0.13, 0.21), (head - 0.08, head + 0.08, 0.12), (0.93 * height, height), (cap,) * 4
    )
    return mesh


def pedestrian(size_m: tuple[float, float, float], style: str) -> list[Limb]:
    """Walking person: torso and head, then two legs and two arms that swing. ``style``: "trousers" or "coat"."""
    length, width, height = size_m
    hip, shoulder, chin = 0.50 * height, 0.82 * height, 0.86 * height
    depth = min(0.24, 0.6 * length)
    body = Mesh()
    low = 0.30 * height if style == "coat" else hip - 0.03
    torso = (-depth / 2, depth / 2, 0.72 * width if style == "coat" else 0.62 * width)
    frustum(body, torso, (-depth / 2, depth / 2, 0.80 * width), (low, shoulder), (Part.SHIRT,) * 4)
    box(body, (-0.05, 0.05), (-0.05, 0.05), (shoulder, chin), Part.SKIN)
    ring(body, (0.085, 0.10), (chin - 0.02, 0.95 * height), Part.SKIN, sides=6)
    frustum(body, (-0.12, 0.07, 0.22), (-0.09, 0.05, 0.15), (0.91 * height, height), (Part.HAIR,) * 4)
    box(body, (-0.125, -0.06), (-0.10, 0.10), (0.87 * height, 0.95 * height), Part.HAIR)
    limbs = [Limb(body)]
    reach = 0.5 * length - 0.12  # how far a foot goes forward
    swing = float(np.arctan2(max(reach, 0.05), hip))
    for side in (-1, 1):
        leg, y = Mesh(), side * 0.19 * width
        beam(leg, (0.0, y, hip + 0.03), (0.0, y, 0.27 * height), 0.155, Part.TROUSERS)
        beam(leg, (0.0, y, 0.28 * height), (0.0, y, 0.04 * height), 0.12, Part.TROUSERS)
        box(leg, (-0.08, 0.17), (y - 0.05, y + 0.05), (0.0, 0.05 * height), Part.SHOES)
        limbs.append(Limb(leg, hinge_z_m=hip, swing_rad=side * swing))
        arm, y = Mesh(), side * (width / 2 - 0.055)
        beam(arm, (0.0, y * 0.95, shoulder - 0.02), (0.0, y, 0.62 * height), 0.10, Part.SHIRT)
        beam(arm, (0.0, y, 0.63 * height), (0.03, y, 0.47 * height), 0.08, Part.SKIN)
        limbs.append(Limb(arm, hinge_z_m=shoulder, swing_rad=-side * swing))
    return limbs


def cone(size_m: tuple[float, float, float], style: str) -> Mesh:
    """Traffic cone on a square foot with one or two white bands; ``style``: "one" or "two"."""
    length, width, height = size_m
    mesh = Mesh()
    base = min(length, width)
    box(mesh, (-length / 2, length / 2), (-width / 2, width / 2), (0.0, 0.06 * height), Part.BUMPER)
    levels = [0.06, 0.45, 0.72, 1.0] if style == "one" else [0.06, 0.30, 0.48, 0.62, 0.80, 1.0]
    for i, (z0, z1) in enumerate(itertools.pairwise(levels)):
        radius = tuple(base * (0.40 - 0.32 * z) for z in (z0, z1))
        part = Part.ACCENT if i % 2 == 0 else Part.WHITE
        ring(mesh, radius, (z0 * height, z1 * height), part, cover=i == len(levels) - 2)
    return mesh


STYLES: dict[int, tuple[str, ...]] = {
    CAR: CAR_STYLES,
    TRUCK: TRUCK_STYLES,
    CYCLIST: ("helmet", "bare"),
    PEDESTRIAN: ("trousers", "coat"),
    CONE: ("one", "two"),
}


def agent_model(class_id: int, size_m: tuple[float, float, float], style: str) -> list[Limb]:
    """The limbs of one agent, the first one fixed; raises ValueError for an unknown style of its class."""
    if style not in STYLES[class_id]:
        raise ValueError(f"style: expected one of {STYLES[class_id]}, got {style!r}")
    if class_id == PEDESTRIAN:
        return pedestrian(size_m, style)
    return [Limb({CAR: car, TRUCK: truck, CYCLIST: cyclist, CONE: cone}[class_id](size_m, style))]
