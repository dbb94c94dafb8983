"""Intervals: Wilson for shares, bootstrap for means and paired differences; the resampling seed is fixed."""

from __future__ import annotations

import math

import msgspec
import numpy as np

_RESAMPLES = 4000
_SEED = 20_260_101
_Z95 = 1.959964


class Estimate(msgspec.Struct, frozen=True):
    """A mean with its 95 % interval over n independent cases."""

    mean: float
    low: float
    high: float
    n: int

    def as_percent(self) -> str:
        """For tables: ``93.0 % [86.2, 96.6]``."""
        return f"{100 * self.mean:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"

    def as_points(self) -> str:
        """A difference of shares, for tables: ``+5.9 [-2.0, 12.1]``."""
        return f"{100 * self.mean:+.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"

    def as_number(self, digits: int = 2) -> str:
        """For tables: ``9.31 [9.10, 9.52]``."""
        return f"{self.mean:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def share(flags: np.ndarray) -> Estimate:
    """Share of true cases [n] with its Wilson score interval (Wilson 1927)."""
    n = len(flags)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    p = float(np.mean(flags))
    centre = (p + _Z95**2 / (2 * n)) / (1 + _Z95**2 / n)
    half = _Z95 * math.sqrt(p * (1 - p) / n + _Z95**2 / (4 * n * n)) / (1 + _Z95**2 / n)
    return Estimate(p, max(0.0, centre - half), min(1.0, centre + half), n)


def bootstrap_mean(values: np.ndarray) -> Estimate:
    """Mean of [n] values with its percentile bootstrap interval (Efron 1979); NaN values are left out."""
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    n = len(values)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    return _interval(float(values.mean()), values[_draw(n)].mean(axis=1), n)


def pooled_share(above: np.ndarray, below: np.ndarray) -> Estimate:
    """Share of all parts of n cases, the sum of ``above`` [n] over that of ``below`` [n]; bootstrap over the cases.

    The parts of one case are not independent of each other, so the cases are drawn, with all of their parts. NaN where
    there is no part at all.
    """
    above, below = np.asarray(above, np.float64), np.asarray(below, np.float64)
    n = len(below)
    if below.sum() == 0.0:
        return Estimate(math.nan, math.nan, math.nan, n)
    return _interval(float(above.sum() / below.sum()), _resampled_share(above, below, _draw(n)), n)


def paired_shares(
    our_above: np.ndarray, our_below: np.ndarray, their_above: np.ndarray, their_below: np.ndarray
) -> Estimate:
    """Difference of two pooled shares over the same n cases, ours less theirs; bootstrap over the pairs."""
    n = len(our_below)
    if len(their_below) != n:
        raise ValueError(f"paired comparison: expected equally many cases, got {n} and {len(their_below)}")
    if our_below.sum() == 0.0 or their_below.sum() == 0.0:
        return Estimate(math.nan, math.nan, math.nan, n)
    mean = float(our_above.sum() / our_below.sum() - their_above.sum() / their_below.sum())
    drawn = _draw(n)
    resampled = _resampled_share(our_above, our_below, drawn) - _resampled_share(their_above, their_below, drawn)
    return _interval(mean, resampled, n)


def _draw(n: int) -> np.ndarray:
    return np.random.default_rng(_SEED).integers(0, n, (_RESAMPLES, n))


def _resampled_share(above: np.ndarray, below: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """A share per resample; NaN for one without any part."""
    sums = below[drawn].sum(axis=1)
    return np.where(sums > 0.0, above[drawn].sum(axis=1) / np.maximum(sums, 1e-12), np.nan)


def _interval(mean: float, resampled: np.ndarray, n: int) -> Estimate:
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    return Estimate(mean, float(low), float(high), n)


def paired_difference(ours: np.ndarray, theirs: np.ndarray) -> Estimate:
    """Mean of ``ours - theirs`` over the same cases [n], bootstrap over the pairs."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape:
        raise ValueError(f"paired comparison: expected equally many cases, got {ours.shape} and {theirs.shape}")
    return bootstrap_mean(ours - theirs)
