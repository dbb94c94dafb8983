"""The fixed standardisation of observations: fitted once to demonstrations, saved with every checkpoint, exported."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from visuomotor.control.layout import ObservationLayout
from visuomotor.control.observation import LAYOUT

CLIP = 6.0
LEAST_SHARE_OF_RANGE = 0.02  # a feature that hardly varied in the demonstrations must not explode later


class Normalizer(msgspec.Struct, frozen=True, kw_only=True):
    """``clip((x - mean) / deviation, -clip, clip)`` per feature, for the layout with this hash."""

    layout_hash: str
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    clip: float = CLIP

    @classmethod
    def fit(cls, observations: np.ndarray, layout: ObservationLayout = LAYOUT) -> Normalizer:
        """From observations [M, D]. Raises ValueError when D is not the layout's."""
        if observations.ndim != 2 or observations.shape[1] != layout.size:
            raise ValueError(f"observations: expected shape (M, {layout.size}), got {observations.shape}")
        floor = LEAST_SHARE_OF_RANGE * (layout.high - layout.low)
        deviation = np.maximum(observations.std(axis=0, dtype=np.float64), floor)
        mean = observations.mean(axis=0, dtype=np.float64)
        return cls(
            layout_hash=layout.hash,
            mean=tuple(float(np.float32(v)) for v in mean),
            deviation=tuple(float(np.float32(v)) for v in deviation),
        )

    def apply(self, observations: np.ndarray) -> np.ndarray:
        """Standardised observations, float32 of the same shape."""
        mean, deviation = np.array(self.mean, np.float32), np.array(self.deviation, np.float32)
        return np.clip((observations - mean) / deviation, -self.clip, self.clip)

    def save(self, path: Path) -> None:
        """Write JSON."""
        path.write_bytes(msgspec.json.encode(self))


def load_normalizer(path: Path, layout: ObservationLayout = LAYOUT) -> Normalizer:
    """Read JSON; ValueError names the file, and the hashes when it was fitted to another layout."""
    try:
        normalizer = msgspec.json.decode(path.read_bytes(), type=Normalizer)
    except (OSError, msgspec.DecodeError) as error:
        raise ValueError(f"{path}: not a normaliser ({error})") from error
    if normalizer.layout_hash != layout.hash:
        raise ValueError(f"{path}: observation layout {normalizer.layout_hash}, expected {layout.hash}: train anew")
    return normalizer
