"""Meshes of what stands beside the road and is no agent: trees, lamps, signs, houses and other distractors."""

from __future__ import annotations

from visuomotor.sim.mesh import Mesh, Part, beam, box, frustum, ring

CLUTTER_KINDS: tuple[str, ...] = (
    "broadleaf", "conifer", "bush", "lamp", "sign", "board", "house", "block", "post", "bin", "hydrant", "poplar",
    "gantry_sign", "kiosk", "rock",
)  # fmt: skip


def clutter(kind: str, scale: float = 1.0) -> Mesh:
    """Roadside object that is not an agent. Raises ValueError for an unknown kind."""
    mesh = Mesh()
    k = scale
    if kind == "broadleaf":
        ring(mesh, (0.16 * k, 0.12 * k), (0.0, 2.2 * k), Part.PAINT_DARK, sides=5, cover=False)
        ring(mesh, (0.8 * k, 1.9 * k), (1.8 * k, 3.2 * k), Part.PAINT, sides=7, cover=False)
        ring(mesh, (1.9 * k, 1.0 * k), (3.2 * k, 5.2 * k), Part.ACCENT, sides=7)
    elif kind == "conifer":
        ring(mesh, (0.14 * k, 0.12 * k), (0.0, 1.2 * k), Part.PAINT_DARK, sides=5, cover=False)
        for z0, z1, radius in ((0.9, 3.2, 1.4), (2.2, 4.6, 1.1), (3.6, 6.2, 0.75)):
            ring(mesh, (radius * k, 0.0), (z0 * k, z1 * k), Part.PAINT, sides=7)
    elif kind == "poplar":
        ring(mesh, (0.18 * k, 0.16 * k), (0.0, 1.0 * k), Part.PAINT_DARK, sides=5, cover=False)
        ring(mesh, (0.5 * k, 1.0 * k), (0.7 * k, 3.0 * k), Part.PAINT, sides=6, cover=False)
        ring(mesh, (1.0 * k, 0.2 * k), (3.0 * k, 8.0 * k), Part.PAINT, sides=6)
    elif kind == "bush":
        ring(mesh, (0.7 * k, 0.85 * k), (0.0, 0.5 * k), Part.PAINT, sides=6, cover=False)
        ring(mesh, (0.85 * k, 0.4 * k), (0.5 * k, 1.0 * k), Part.ACCENT, sides=6)
    elif kind == "rock":
        ring(mesh, (0.7 * k, 0.5 * k), (0.0, 0.35 * k), Part.RIM, sides=5, cover=False)
        ring(mesh, (0.5 * k, 0.15 * k), (0.35 * k, 0.6 * k), Part.RIM, sides=5)
    elif kind == "lamp":
        beam(mesh, (0.0, 0.0, 0.0), (0.0, 0.0, 7.0 * k), 0.16, Part.RIM)
        beam(mesh, (0.0, 0.0, 6.9 * k), (0.0, 1.8 * k, 7.1 * k), 0.12, Part.RIM)
    elif kind == "sign":
        beam(mesh, (0.0, 0.0, 0.0), (0.0, 0.0, 2.6 * k), 0.07, Part.RIM)
        box(mesh, (-0.06, -0.04), (-0.4 * k, 0.4 * k), (1.9 * k, 2.7 * k), Part.ACCENT)
        box(mesh, (-0.075, -0.055), (-0.28 * k, 0.28 * k), (2.02 * k, 2.58 * k), Part.WHITE)
    elif kind == "gantry_sign":
        for side in (-1, 1):
            beam(mesh, (0.0, side * 1.2 * k, 0.0), (0.0, side * 1.2 * k, 3.0 * k), 0.12, Part.RIM)
        box(mesh, (-0.1, 0.0), (-1.6 * k, 1.6 * k), (2.0 * k, 3.6 * k), Part.ACCENT)
    elif kind == "board":
        box(mesh, (-0.1, 0.1), (-1.8 * k, 1.8 * k), (1.2 * k, 3.2 * k), Part.PAINT)
        box(mesh, (-0.12, 0.12), (-1.2 * k, 0.3 * k), (1.6 * k, 2.8 * k), Part.ACCENT)
        for side in (-1, 1):
            beam(mesh, (0.0, side * 1.4 * k, 0.0), (0.0, side * 1.4 * k, 1.3 * k), 0.12, Part.RIM)
    elif kind == "house":
        box(mesh, (-4.0 * k, 4.0 * k), (-3.5 * k, 3.5 * k), (0.0, 3.2 * k), Part.PAINT)
        frustum(
            mesh, (-4.3 * k, 4.3 * k, 7.6 * k), (-3.6 * k, 3.6 * k, 0.3 * k), (3.2 * k, 5.6 * k), (Part.ACCENT,) * 4
        )
        _windows(mesh, 4.0 * k, 3.5 * k, [(1.0 * k, 2.2 * k)], 3)
    elif kind == "block":
        box(mesh, (-7.0 * k, 7.0 * k), (-5.0 * k, 5.0 * k), (0.0, 9.5 * k), Part.PAINT)
        _windows(mesh, 7.0 * k, 5.0 * k, [(1.0 * k, 2.4 * k), (4.0 * k, 5.4 * k), (7.0 * k, 8.4 * k)], 1)
    elif kind == "kiosk":
        box(mesh, (-1.2 * k, 1.2 * k), (-1.0 * k, 1.0 * k), (0.0, 2.3 * k), Part.PAINT)
        box(mesh, (-1.5 * k, 1.5 * k), (-1.3 * k, 1.3 * k), (2.3 * k, 2.5 * k), Part.ACCENT)
        _windows(mesh, 1.2 * k, 1.0 * k, [(1.0 * k, 1.8 * k)], 1)
    elif kind == "post":
        box(mesh, (-0.06, 0.06), (-0.06, 0.06), (0.0, 0.75 * k), Part.WHITE)
        box(mesh, (-0.062, 0.062), (-0.062, 0.062), (0.75 * k, 1.0 * k), Part.BUMPER)
    elif kind == "bin":
        ring(mesh, (0.28 * k, 0.32 * k), (0.0, 0.95 * k), Part.PAINT, sides=6)
    elif kind == "hydrant":
        ring(mesh, (0.14 * k, 0.12 * k), (0.0, 0.65 * k), Part.ACCENT, sides=6, cover=False)
        ring(mesh, (0.16 * k, 0.05 * k), (0.65 * k, 0.85 * k), Part.ACCENT, sides=6)
    else:
        raise ValueError(f"kind: expected one of {CLUTTER_KINDS}, got {kind!r}")
    return mesh


def _windows(mesh: Mesh, half_x: float, half_y: float, rows: list[tuple[float, float]], per_side: int) -> None:
    """Strips or rows of window panes, a little proud of the walls of a building."""
    for z in rows:
        for i in range(per_side):
            x0 = -half_x + (i + 0.2) * 2 * half_x / per_side
            y0 = -half_y + (i + 0.2) * 2 * half_y / per_side
            x = (x0, x0 + 1.2 * half_x / per_side)
            y = (y0, y0 + 1.2 * half_y / per_side)
            for side in (-1, 1):
                wall_y, wall_x = (
                    sorted((side * half_y, side * (half_y + 0.03))),
                    sorted((side * half_x, side * (half_x + 0.03))),
                )
                box(mesh, x, (wall_y[0], wall_y[1]), z, Part.GLASS)
                box(mesh, (wall_x[0], wall_x[1]), y, z, Part.GLASS)
