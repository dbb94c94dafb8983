"""Randomised appearance of a cell: light, belt, plate, bins, arm, clutter, camera; training and evaluation apart.

Evaluation draws its hues, light angles, belt patterns and kinds of clutter from ranges that training never sees;
tuning uses the training ranges with other seeds. The colours of the parts are the catalogue's (``sim.cell.parts``).
Everything is a pure function of split and seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np

from visuomotor.sim.looks import SPLIT_RANGES, Bgr, hsv
from visuomotor.sim.mesh import Part

Pair = tuple[float, float]
BELT_PATTERNS: tuple[str, ...] = ("plain", "weave", "slats", "seams", "stripe", "diamonds", "dots")
PLATE_PATTERNS: tuple[str, ...] = ("plain", "brushed", "holes", "tiles")


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """What may be drawn in one split; pairs are low, high; hues in turns."""

    light_azimuth_rad: Pair
    light_elevation_rad: Pair
    ambient: Pair
    warmth: Pair  # red minus blue
    belt_hue: tuple[Pair, ...]
    belt_value: Pair
    belt_patterns: tuple[str, ...]
    plate_value: Pair
    plate_hue: Pair
    plate_patterns: tuple[str, ...]
    bin_hue: tuple[Pair, ...]
    clutter: tuple[str, ...]
    clutter_count: tuple[int, int]
    exposure: Pair
    gamma: Pair
    noise: Pair  # standard deviation, grey levels
    blur_px: Pair


RANGES: dict[str, Ranges] = {
    "train": Ranges(
        light_azimuth_rad=(-1.9, 1.9),
        light_elevation_rad=(0.85, 1.45),
        ambient=(0.48, 0.74),
        warmth=(-0.12, 0.14),
        belt_hue=((0.02, 0.12), (0.28, 0.45), (0.52, 0.68)),
        belt_value=(0.07, 0.62),
        belt_patterns=("plain", "weave", "slats", "seams", "stripe"),
        plate_value=(0.25, 0.90),
        plate_hue=(0.50, 0.70),
        plate_patterns=PLATE_PATTERNS,
        bin_hue=((0.0, 0.10), (0.30, 0.48), (0.55, 0.72)),
        clutter=("carton", "crate", "post", "sheet", "tool", "coil", "tape", "stack", "cable"),
        clutter_count=(1, 7),
        exposure=(0.76, 1.20),
        gamma=(0.85, 1.20),
        noise=(0.5, 4.0),
        blur_px=(0.0, 0.65),
    ),
    "evaluation": Ranges(
        light_azimuth_rad=(1.9, 4.38),
        light_elevation_rad=(0.80, 1.30),
        ambient=(0.46, 0.72),
        warmth=(-0.14, 0.16),
        belt_hue=((0.12, 0.20), (0.45, 0.52)),
        belt_value=(0.08, 0.58),
        belt_patterns=("plain", "weave", "slats", "diamonds", "dots"),
        plate_value=(0.30, 0.85),
        plate_hue=(0.08, 0.16),
        plate_patterns=PLATE_PATTERNS,
        bin_hue=((0.10, 0.16), (0.48, 0.55), (0.88, 0.96)),
        clutter=("carton", "cover", "box_open", "cone", "sheet", "tool", "tape", "cable"),
        clutter_count=(2, 8),
        exposure=(0.74, 1.23),
        gamma=(0.83, 1.22),
        noise=(1.0, 4.5),
        blur_px=(0.1, 0.7),
    ),
}


class CellLooks(msgspec.Struct, frozen=True, kw_only=True):
    """Appearance of one cell; colours BGR 0..255, angles of the light in ``base_``."""

    split: str
    seed: int
    light_azimuth_rad: float
    light_elevation_rad: float
    ambient: float
    diffuse: float
    specular: float
    light_bgr: Bgr  # 1 is neutral
    shadow: float  # how much darker, 0 .. 1
    shadow_blur_px: int
    belt_bgr: Bgr
    belt_pattern: str
    belt_period_m: float
    belt_contrast: float  # grey levels
    belt_noise: float
    belt_dirt: float  # stains per metre
    edge_bgr: Bgr
    edge_width_m: float
    plate_bgr: Bgr
    plate_pattern: str
    plate_contrast: float
    clutter: tuple[str, ...]
    exposure: float
    gamma: float
    tint_bgr: Bgr
    noise: float
    blur_px: float
    vignette: float


def cell_looks(split: str, seed: int) -> CellLooks:
    """Draw the appearance of a cell; raises ValueError with the known names for an unknown split."""
    ranges = _ranges(split)
    rng = _stream(split, seed, 0)

    def draw(pair: Pair) -> float:
        return float(rng.uniform(*pair))

    warmth = draw(ranges.warmth)
    soft = rng.random() < 0.4  # a large lamp or a bright hall
    belt_value = draw(ranges.belt_value)
    belt_saturation = rng.uniform(0.0, 0.12) if rng.random() < 0.6 else rng.uniform(0.12, 0.45)
    count = int(rng.integers(ranges.clutter_count[0], ranges.clutter_count[1] + 1))
    yellow_edges = rng.random() < 0.15
    return CellLooks(
        split=split,
        seed=seed,
        light_azimuth_rad=draw(ranges.light_azimuth_rad),
        light_elevation_rad=draw(ranges.light_elevation_rad),
        ambient=draw(ranges.ambient) + (0.1 if soft else 0.0),
        diffuse=float(rng.uniform(0.2, 0.34) if soft else rng.uniform(0.32, 0.52)),
        specular=float(rng.uniform(0.0, 0.15)),
        light_bgr=(1.0 - warmth / 2, 1.0, 1.0 + warmth / 2),
        shadow=float(rng.uniform(0.06, 0.2) if soft else rng.uniform(0.22, 0.5)),
        shadow_blur_px=int(rng.choice((7, 11, 15)) if soft else rng.choice((3, 5, 7))),
        belt_bgr=hsv(_hue(rng, ranges.belt_hue), belt_saturation, belt_value),
        belt_pattern=str(rng.choice(ranges.belt_patterns)),
        belt_period_m=float(rng.choice((0.02, 0.03, 0.05, 0.075, 0.15, 0.3))),
        belt_contrast=float(rng.uniform(4.0, 26.0)),
        belt_noise=float(rng.uniform(1.0, 7.0)),
        belt_dirt=float(rng.uniform(0.0, 9.0)),
        edge_bgr=hsv(0.14, 0.85, rng.uniform(0.6, 0.95)) if yellow_edges else _grey(rng, 0.12, 0.85),
        edge_width_m=float(rng.uniform(0.012, 0.035)),
        plate_bgr=hsv(draw(ranges.plate_hue), rng.uniform(0.0, 0.22), draw(ranges.plate_value)),
        plate_pattern=str(rng.choice(ranges.plate_patterns)),
        plate_contrast=float(rng.uniform(3.0, 22.0)),
        clutter=tuple(str(kind) for kind in rng.choice(ranges.clutter, count)),
        exposure=draw(ranges.exposure),
        gamma=draw(ranges.gamma),
        tint_bgr=tuple(float(v) for v in rng.uniform(0.94, 1.06, 3)),  # type: ignore[arg-type]
        noise=draw(ranges.noise),
        blur_px=draw(ranges.blur_px),
        vignette=float(rng.uniform(0.0, 0.25)),
    )


def part_palette(colour_bgr: Bgr) -> np.ndarray:
    """Palette of a part, uint8 [16, 3] BGR: its colour, and the duck's beak and eyes."""
    out = np.zeros((len(Part), 3))
    out[Part.PAINT] = colour_bgr
    out[Part.PAINT_DARK] = 0.6 * np.array(colour_bgr)
    out[Part.ACCENT] = (0.25 * colour_bgr[0], 0.45 * colour_bgr[1], 0.92 * colour_bgr[2])
    out[Part.TYRE] = 25.0
    out[Part.WHITE] = 235.0
    return _rounded(out)


def bin_palette(split: str, seed: int, index: int) -> np.ndarray:
    """Palette of a bin, uint8 [16, 3] BGR."""
    rng = _stream(split, seed, 1 + index)
    out = np.zeros((len(Part), 3))
    if rng.random() < 0.5:
        out[Part.PAINT] = hsv(_hue(rng, _ranges(split).bin_hue), rng.uniform(0.2, 0.8), rng.uniform(0.25, 0.85))
    else:
        out[Part.PAINT] = _grey(rng, 0.1, 0.9)
    out[Part.PAINT_DARK] = out[Part.PAINT] * rng.uniform(0.5, 0.95)
    return _rounded(out)


def arm_palette(split: str, seed: int) -> np.ndarray:
    """Palette of the arm, uint8 [16, 3] BGR: white shells, dark joints and fingers."""
    rng = _stream(split, seed, 900)
    out = np.zeros((len(Part), 3))
    out[Part.WHITE] = hsv(0.6, rng.uniform(0.0, 0.05), rng.uniform(0.82, 1.0))
    out[Part.BUMPER] = _grey(rng, 0.12, 0.35)
    return _rounded(out)


def clutter_palette(split: str, seed: int, index: int) -> np.ndarray:
    """Palette of one piece of clutter, uint8 [16, 3] BGR: any hue, the parts' own included."""
    rng = _stream(split, seed, 1000 + index)

    def coloured() -> Bgr:
        return hsv(rng.random(), rng.uniform(0.2, 0.9), rng.uniform(0.3, 0.95))

    out = np.zeros((len(Part), 3))
    out[Part.PAINT] = coloured() if rng.random() < 0.4 else _grey(rng, 0.15, 0.9)
    out[Part.ACCENT] = coloured() if rng.random() < 0.6 else _grey(rng, 0.1, 0.95)
    out[Part.RIM] = _grey(rng, 0.4, 0.8)
    out[Part.TYRE] = _grey(rng, 0.05, 0.25)
    out[Part.WHITE] = _grey(rng, 0.8, 1.0)
    return _rounded(out)


def _grey(rng: np.random.Generator, low: float, high: float) -> Bgr:
    return hsv(0.6, rng.uniform(0.0, 0.08), rng.uniform(low, high))


def _hue(rng: np.random.Generator, intervals: tuple[Pair, ...]) -> float:
    return float(rng.uniform(*intervals[int(rng.integers(len(intervals)))]))


def _rounded(colours: np.ndarray) -> np.ndarray:
    return np.clip(np.round(colours), 0, 255).astype(np.uint8)


def _ranges(split: str) -> Ranges:
    if split not in SPLIT_RANGES:
        raise ValueError(f"split: expected one of {tuple(SPLIT_RANGES)}, got {split!r}")
    return RANGES[SPLIT_RANGES[split]]


def _stream(split: str, seed: int, item: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([0xCE11, list(SPLIT_RANGES).index(split), seed, item]))
