"""Randomised appearance of a scene: light, sky, ground, clutter, camera; separate ranges for training and evaluation.

Evaluation draws its hues, light angles, clutter kinds and camera settings from ranges that training never sees; tuning
uses the training ranges with other seeds. Everything is a pure function of split and seed.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np

from visuomotor.sim.mesh import Part
from visuomotor.sim.models3d import STYLES

Bgr = tuple[float, float, float]  # 0 .. 255
SPLIT_RANGES: dict[str, str] = {"train": "train", "tune": "train", "evaluation": "evaluation"}


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """What may be drawn in one split; pairs are low, high; hues in turns."""

    hues: tuple[tuple[float, float], ...]
    sun_azimuth_rad: tuple[float, float]
    sun_elevation_rad: tuple[float, float]
    ambient: tuple[float, float]
    grass_hue: tuple[float, float]
    asphalt: tuple[float, float]
    asphalt_tint: tuple[float, float]  # blue minus red
    sky_hue: tuple[float, float]
    cloud_share: tuple[float, float]
    verges: tuple[str, ...]
    clutter: tuple[str, ...]
    clutter_per_100m: tuple[float, float]
    exposure: tuple[float, float]
    gamma: tuple[float, float]
    noise: tuple[float, float]  # standard deviation, grey levels
    blur_px: tuple[float, float]


RANGES: dict[str, Ranges] = {
    "train": Ranges(
        hues=((0.0, 0.27), (0.37, 0.70), (0.80, 1.0)),
        sun_azimuth_rad=(-1.9, 1.9),
        sun_elevation_rad=(0.45, 1.35),
        ambient=(0.48, 0.75),
        grass_hue=(0.17, 0.33),
        asphalt=(62.0, 150.0),
        asphalt_tint=(-14.0, 6.0),
        sky_hue=(0.53, 0.62),
        cloud_share=(0.0, 0.65),
        verges=("grass", "gravel", "pavement"),
        clutter=("broadleaf", "conifer", "bush", "lamp", "sign", "board", "house", "block", "post", "bin", "hydrant"),
        clutter_per_100m=(3.0, 11.0),
        exposure=(0.78, 1.20),
        gamma=(0.85, 1.18),
        noise=(0.5, 4.0),
        blur_px=(0.0, 0.65),
    ),
    "evaluation": Ranges(
        hues=((0.27, 0.37), (0.70, 0.80)),
        sun_azimuth_rad=(1.9, 4.38),
        sun_elevation_rad=(0.35, 1.05),
        ambient=(0.45, 0.72),
        grass_hue=(0.13, 0.19),
        asphalt=(70.0, 162.0),
        asphalt_tint=(6.0, 14.0),
        sky_hue=(0.49, 0.53),
        cloud_share=(0.55, 0.85),
        verges=("grass", "gravel", "pavement"),
        clutter=("poplar", "rock", "gantry_sign", "kiosk", "lamp", "house", "post", "bush"),
        clutter_per_100m=(4.0, 12.0),
        exposure=(0.75, 1.25),
        gamma=(0.83, 1.2),
        noise=(1.0, 4.5),
        blur_px=(0.1, 0.7),
    ),
}


class Looks(msgspec.Struct, frozen=True, kw_only=True):
    """Appearance of one scene; colours BGR 0..255, angles of the sun in the map frame."""

    split: str
    seed: int
    sun_azimuth_rad: float
    sun_elevation_rad: float
    ambient: float
    diffuse: float
    specular: float
    light_bgr: Bgr  # 1 is neutral
    shadow: float  # how much darker, 0 .. 1
    sky_top_bgr: Bgr
    sky_horizon_bgr: Bgr
    cloud_share: float
    skyline: Literal["hills", "trees", "town", "none"]
    asphalt_bgr: Bgr
    asphalt_noise: float
    patches: float  # repairs per 10 m
    marking_bgr: Bgr
    marking_width_m: float
    marking_wear: float
    dash_m: float
    period_m: float
    verge: str
    verge_bgr: Bgr
    grass_bgr: Bgr
    clutter: tuple[str, ...]
    clutter_per_100m: float
    exposure: float
    gamma: float
    tint_bgr: Bgr
    noise: float
    blur_px: float
    vignette: float


def looks(split: str, seed: int) -> Looks:
    """Draw the appearance of a scene; raises ValueError with the known names for an unknown split."""
    ranges = _ranges(split)
    rng = _stream(split, seed, 0)

    def draw(pair: tuple[float, float]) -> float:
        return float(rng.uniform(*pair))

    cloud = draw(ranges.cloud_share)
    overcast = cloud > 0.5
    warm = rng.uniform(-0.08, 0.08)
    grey, tint = draw(ranges.asphalt), draw(ranges.asphalt_tint)
    dash, period = ((3.0, 12.0), (3.0, 9.0), (6.0, 12.0), (4.0, 8.0), (2.0, 6.0))[int(rng.integers(5))]
    skyline: Literal["hills", "trees", "town", "none"] = ("hills", "trees", "town", "none")[int(rng.integers(4))]
    verge = str(rng.choice(ranges.verges))
    paving = rng.uniform(95, 185)
    yellow = rng.random() < 0.12
    white = rng.uniform(185, 250)
    return Looks(
        split=split,
        seed=seed,
        sun_azimuth_rad=draw(ranges.sun_azimuth_rad),
        sun_elevation_rad=draw(ranges.sun_elevation_rad),
        ambient=draw(ranges.ambient) + (0.12 if overcast else 0.0),
        diffuse=float(rng.uniform(0.2, 0.35) if overcast else rng.uniform(0.35, 0.55)),
        specular=float(rng.uniform(0.0, 0.08)),
        light_bgr=(1.0 - warm, 1.0, 1.0 + warm),
        shadow=float(rng.uniform(0.05, 0.2) if overcast else rng.uniform(0.3, 0.6)),
        sky_top_bgr=hsv(
            draw(ranges.sky_hue), rng.uniform(0.25, 0.65) * (0.4 if overcast else 1.0), rng.uniform(0.65, 0.95)
        ),
        sky_horizon_bgr=hsv(draw(ranges.sky_hue), rng.uniform(0.02, 0.15), rng.uniform(0.8, 1.0)),
        cloud_share=cloud,
        skyline=skyline,
        asphalt_bgr=(grey + tint / 2, grey, grey - tint / 2),
        asphalt_noise=float(rng.uniform(2.0, 10.0)),
        patches=float(rng.uniform(0.0, 1.2)),
        marking_bgr=(60.0, 190.0, 235.0) if yellow else (white, white, white),
        marking_width_m=float(rng.uniform(0.12, 0.2)),
        marking_wear=float(rng.uniform(0.0, 0.45)),
        dash_m=dash,
        period_m=period,
        verge=verge,
        verge_bgr=(paving * 0.92, paving, paving * 1.05) if verge == "gravel" else (paving, paving, paving),
        grass_bgr=hsv(draw(ranges.grass_hue), rng.uniform(0.2, 0.6), rng.uniform(0.28, 0.62)),
        clutter=tuple(str(k) for k in rng.permutation(list(ranges.clutter))[: int(rng.integers(3, 7))]),
        clutter_per_100m=draw(ranges.clutter_per_100m),
        exposure=draw(ranges.exposure),
        gamma=draw(ranges.gamma),
        tint_bgr=tuple(float(v) for v in rng.uniform(0.95, 1.05, 3)),  # type: ignore[arg-type]
        noise=draw(ranges.noise),
        blur_px=draw(ranges.blur_px),
        vignette=float(rng.uniform(0.0, 0.25)),
    )


def agent_look(split: str, seed: int, agent_id: int, class_id: int) -> tuple[str, np.ndarray]:
    """Style of an agent (see ``models3d.STYLES``) and its palette, uint8 [16, 3] BGR, one row per ``Part``."""
    rng = _stream(split, seed, 1 + agent_id)
    style = str(rng.choice(STYLES[class_id]))
    return style, palette(_ranges(split), rng, class_id)


def clutter_palette(split: str, seed: int, row: int) -> np.ndarray:
    """Palette of clutter, uint8 [16, 3] BGR; foliage and walls take the place of paint."""
    rng = _stream(split, seed, 1_000_000 + row)
    ranges = _ranges(split)
    colours = palette(ranges, rng, 0)
    if row % 2:  # foliage
        hue = rng.uniform(*ranges.grass_hue) + rng.uniform(-0.02, 0.06)
        saturation, value = rng.uniform(0.25, 0.6), rng.uniform(0.22, 0.5)
        colours[Part.PAINT] = hsv(hue, saturation, value)
        colours[Part.ACCENT] = hsv(hue + 0.02, saturation, value * 1.15)
        colours[Part.PAINT_DARK] = hsv(0.08, 0.4, rng.uniform(0.2, 0.4))
    else:  # walls, boards
        colours[Part.PAINT] = hsv(rng.uniform(0.0, 0.15), rng.uniform(0.05, 0.45), rng.uniform(0.4, 0.95))
        colours[Part.ACCENT] = hsv(rng.random(), rng.uniform(0.2, 0.8), rng.uniform(0.3, 0.8))
        colours[Part.GLASS] = hsv(0.6, 0.2, rng.uniform(0.15, 0.45))
    return colours


def palette(ranges: Ranges, rng: np.random.Generator, class_id: int) -> np.ndarray:
    """Random colours for every ``Part``, uint8 [16, 3] BGR."""

    def hue() -> float:
        low, high = ranges.hues[int(rng.integers(len(ranges.hues)))]
        return float(rng.uniform(low, high))

    def coloured() -> Bgr:
        return hsv(hue(), rng.uniform(0.35, 0.95), rng.uniform(0.25, 0.95))

    def neutral(low: float, high: float) -> Bgr:
        return hsv(0.6, rng.uniform(0.0, 0.08), rng.uniform(low, high))

    out = np.zeros((len(Part), 3))
    out[Part.PAINT] = coloured() if rng.random() < 0.5 else neutral(0.08, 0.97)
    out[Part.PAINT_DARK] = np.array(out[Part.PAINT]) * 0.5
    out[Part.GLASS] = hsv(0.58, rng.uniform(0.05, 0.3), rng.uniform(0.08, 0.32))
    out[Part.TYRE] = neutral(0.06, 0.16)
    out[Part.RIM] = neutral(0.35, 0.75)
    out[Part.HEADLIGHT] = hsv(0.15, rng.uniform(0.0, 0.15), rng.uniform(0.88, 1.0))
    out[Part.TAILLIGHT] = hsv(rng.uniform(0.98, 1.02), rng.uniform(0.8, 1.0), rng.uniform(0.55, 0.95))
    out[Part.PLATE] = neutral(0.8, 1.0) if rng.random() < 0.7 else hsv(0.14, 0.8, 0.9)
    out[Part.BUMPER] = neutral(0.08, 0.28)
    out[Part.SKIN] = hsv(rng.uniform(0.04, 0.09), rng.uniform(0.3, 0.55), rng.uniform(0.3, 0.92))
    out[Part.HAIR] = hsv(rng.uniform(0.05, 0.12), rng.uniform(0.1, 0.6), rng.uniform(0.06, 0.6))
    out[Part.SHIRT] = coloured() if rng.random() < 0.65 else neutral(0.1, 0.95)
    out[Part.TROUSERS] = hsv(0.61, rng.uniform(0.0, 0.6), rng.uniform(0.1, 0.5)) if rng.random() < 0.7 else coloured()
    out[Part.SHOES] = neutral(0.05, 0.8)
    out[Part.ACCENT] = coloured() if rng.random() < 0.5 else neutral(0.3, 0.98)
    out[Part.WHITE] = neutral(0.8, 1.0)
    if STYLES.get(class_id) == STYLES[4]:  # cones are orange in every split
        out[Part.ACCENT] = hsv(rng.uniform(0.02, 0.065), rng.uniform(0.85, 1.0), rng.uniform(0.75, 1.0))
        out[Part.BUMPER] = out[Part.ACCENT] * 0.8 if rng.random() < 0.5 else neutral(0.1, 0.25)
    return np.clip(np.round(out), 0, 255).astype(np.uint8)


def hsv(hue: float, saturation: float, value: float) -> Bgr:
    """Hue in turns, saturation and value 0..1, to BGR 0..255."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return (255.0 * blue, 255.0 * green, 255.0 * red)


def _ranges(split: str) -> Ranges:
    if split not in SPLIT_RANGES:
        raise ValueError(f"split: expected one of {tuple(SPLIT_RANGES)}, got {split!r}")
    return RANGES[SPLIT_RANGES[split]]


def _stream(split: str, seed: int, item: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([0x100C5, list(SPLIT_RANGES).index(split), seed, item]))
