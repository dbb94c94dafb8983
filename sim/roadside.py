"""Where clutter stands beside a road: drawn from the looks of a scene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from visuomotor.sim.looks import Looks
from visuomotor.sim.road import Road

PALETTES = 16  # colourings of clutter in a scene; odd rows are foliage
# clear distance from the shoulder (m) where a kind does not stand anywhere
_DISTANCE_M: dict[str, tuple[float, float]] = {
    "house": (8.0, 22.0),
    "block": (12.0, 28.0),
    "broadleaf": (3.0, 18.0),
    "conifer": (2.5, 18.0),
    "poplar": (2.5, 14.0),
    "post": (0.3, 0.8),
    "sign": (0.9, 2.0),
    "lamp": (0.8, 1.6),
    "board": (3.0, 10.0),
    "kiosk": (3.0, 8.0),
    "gantry_sign": (2.5, 6.0),
}


@dataclass
class Clutter:
    """One object: what, how large, which palette, where; ``body`` is the renderer's, -1 while it is not drawn."""

    kind: str
    scale: float
    row: int
    position_m: np.ndarray
    yaw_rad: float
    body: int = -1


def place_clutter(road: Road, look: Looks) -> list[Clutter]:
    """Objects along the whole road, on both sides, clear of the shoulder."""
    rng = np.random.default_rng(np.random.SeedSequence([0xC1077E4, look.seed]))
    first, last = float(road.line_s_m[0]) + 60.0, float(road.line_s_m[-1]) - 60.0
    placed: list[Clutter] = []
    for _ in range(int(look.clutter_per_100m * (last - first) / 100.0)):
        kind = str(rng.choice(look.clutter))
        away = rng.uniform(*_DISTANCE_M.get(kind, (1.5, 12.0)))
        side = 1 if rng.random() < 0.5 else -1
        edge = (road.left_edge_m if side > 0 else -road.right_edge_m) + road.shoulder_m
        s = float(rng.uniform(first, last))
        position = road.cartesian(np.array([s]), np.array([side * (edge + away)]))[0]
        foliage = kind in ("broadleaf", "conifer", "bush", "poplar")
        yaw = float(road.heading(np.array([s]))[0]) + rng.normal(0.0, 0.1)
        if foliage:
            yaw = rng.uniform(-np.pi, np.pi)
        row = 2 * int(rng.integers(PALETTES // 2)) + int(foliage)
        placed.append(Clutter(kind, float(rng.uniform(0.75, 1.3)), row, position, float(yaw)))
    return placed
