"""Models of the agents: cars, trucks, cyclists, pedestrians, cones.

Every model has its origin on the ground under the centre of its footprint, x forward, y left, z up, metres, and fills
the length, width and height asked for.
"""

from __future__ import annotations

import itertools

import numpy as np

from visuomotor.messages.schema import CAR, CONE, CYCLIST, PEDESTRIAN, TRUCK
from visuomotor.sim.mesh import Limb, Mesh, Part, beam, box, frustum, profile, ring, wheel

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
            middle, radius = 0.62 * height, 0.82 * height  # the octagon is flat on top
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
        radius = (base * (0.40 - 0.32 * z0), base * (0.40 - 0.32 * z1))
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
