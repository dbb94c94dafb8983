"""Fitting the perception error model to logged runs of the real perception, by moments and one logistic regression."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec
import numpy as np
from scipy.optimize import minimize, nnls
from scipy.special import expit

from visuomotor.control.train.error_pairs import DT_S, Pairs, Scenes, collect, polar, tracks_of
from visuomotor.messages.schema import CLASS_NAMES, Tracks, Truth
from visuomotor.sim.error_parameters import ErrorParameters, TrackErrorParameters
from visuomotor.sim.visibility import CameraArrays

LEAST_SAMPLES = 200  # below this a class keeps the value it started from
HIDDEN_RANGE_M = 25.0  # nearer than this, what is hidden matters
STANDING_MPS = 1.0
SETTLED_S = 0.6  # an agent must have been in view this long before a miss counts
CLASSES = len(CLASS_NAMES)


class Rows(Protocol):
    """What is read of the pairs of any task: rows by agent and tick."""

    agent: np.ndarray
    tick: np.ndarray
    track: np.ndarray


def fit_errors(
    episodes: Iterable[Sequence[tuple[Truth, Tracks]]],
    cameras: CameraArrays,
    start: ErrorParameters | None = None,
    source: str = "fitted to logged runs",
) -> ErrorParameters:
    """Parameters from episodes of (truth, tracks) of the same tick. Raises ValueError when there is no episode.

    Robust spreads throughout (1.48 times the median absolute deviation); what the logs don't show keeps the value of
    ``start``. The optics must be those of the runs: ``cameras`` in the order of the profile.
    """
    logs = [(Scenes.of([t for t, _ in pairs]), [tracks_of(k) for _, k in pairs]) for pairs in episodes]
    return fit_pairs(collect(logs, cameras), start or ErrorParameters(), source)


def fit_pairs(pairs: Pairs, start: ErrorParameters, source: str) -> ErrorParameters:
    """The same from assigned pairs."""
    fitted = {
        **_detection(pairs, start),
        **_life(pairs, start),
        **_position(pairs, start),
        **_velocity(pairs, start),
        **_shape(pairs, start),
        **_false_alarms(pairs, start),
    }
    return msgspec.structs.replace(start, source=source, **fitted)


def spread(values: np.ndarray) -> float:
    """Robust standard deviation about zero: 1.48 times the median absolute value."""
    return float(1.4826 * np.median(np.abs(values))) if len(values) else 0.0


def bounded(value: float, low: float, high: float) -> float:
    """The value, or the bound that it is beyond."""
    return float(np.clip(value, low, high))


def per_class(start: tuple[float, ...], found: dict[int, float]) -> tuple[float, ...]:
    """What was found, else what there was."""
    return tuple(round(found.get(index, value), 4) for index, value in enumerate(start))


def seconds_in(pairs: Rows, mask: np.ndarray) -> np.ndarray:
    """Seconds that each agent-tick has been in an unbroken run of the mask."""
    seconds = np.zeros(len(mask))
    same = (pairs.agent[1:] == pairs.agent[:-1]) & (pairs.tick[1:] == pairs.tick[:-1] + 1)
    for index in np.flatnonzero(mask):
        joined = index > 0 and same[index - 1] and mask[index - 1]
        seconds[index] = seconds[index - 1] + DT_S if joined else DT_S
    return seconds


def _detection(pairs: Pairs, start: ErrorParameters) -> dict[str, object]:
    """Chance of a fresh detection by apparent height and visible share, and its correlation in time."""
    usable = (seconds_in(pairs, pairs.share > 0.05) > SETTLED_S) & (pairs.share > 0.05)
    height, share, fresh = pairs.height_px[usable], pairs.share[usable], pairs.fresh[usable].astype(float)
    classes = pairs.class_id[usable]
    present = [c for c in range(CLASSES) if (classes == c).sum() >= LEAST_SAMPLES]
    if not present:
        return {}
    maxima, px50 = np.array(start.detection_max), np.array(start.detection_px50)

    def chance(theta: np.ndarray) -> np.ndarray:
        top, half = maxima.copy(), px50.copy()
        top[present] = expit(theta[3 : 3 + len(present)])
        half[present] = np.exp(theta[3 + len(present) :])
        seen = expit(np.exp(theta[1]) * (share - expit(theta[0])))
        return top[classes] / (1.0 + (half[classes] / height) ** np.exp(theta[2])) * seen

    def loss(theta: np.ndarray) -> float:
        p = np.clip(chance(theta), 1e-3, 1.0 - 1e-3)
        return float(-(fresh * np.log(p) + (1.0 - fresh) * np.log(1.0 - p)).mean())

    guess = np.concatenate(
        [
            [logit(start.visible50), np.log(start.visible_slope), np.log(start.detection_slope)],
            logit(maxima[present]),
            np.log(px50[present]),
        ]
    )
    theta = minimize(loss, guess, method="L-BFGS-B", bounds=[(-6.0, 6.0)] * len(guess)).x
    return {
        "visible50": round(float(expit(theta[0])), 4),
        "visible_slope": round(float(np.exp(theta[1])), 3),
        "detection_slope": round(float(np.exp(theta[2])), 3),
        "detection_max": per_class(
            start.detection_max,
            {c: float(expit(theta[3 + i])) for i, c in enumerate(present)},
        ),
        "detection_px50": per_class(
            start.detection_px50, {c: float(np.exp(theta[3 + len(present) + i])) for i, c in enumerate(present)}
        ),
        "detection_correlation_s": detection_memory(pairs, usable, chance(theta), fresh, start),
    }


def logit(p: np.ndarray | float) -> np.ndarray:
    """Of shares, kept a hundredth away from 0 and 1."""
    clipped = np.clip(p, 0.01, 0.99)
    return np.log(clipped / (1.0 - clipped))


def detection_memory(
    pairs: Rows, usable: np.ndarray, chance: np.ndarray, fresh: np.ndarray, start: TrackErrorParameters
) -> float:
    """Correlation time of the latent behind the misses; tetrachoric approximation sin(pi / 2 * r) at one tick."""
    residual = np.zeros(len(usable))
    residual[usable] = fresh - chance
    follows = (pairs.agent[1:] == pairs.agent[:-1]) & (pairs.tick[1:] == pairs.tick[:-1] + 1) & usable[1:] & usable[:-1]
    variance = float((residual[1:][follows] ** 2).mean()) if follows.any() else 0.0
    if variance < 1e-6:
        return start.detection_correlation_s
    r = float((residual[1:][follows] * residual[:-1][follows]).mean()) / variance
    latent = bounded(np.sin(0.5 * np.pi * max(r, 0.0)), 0.05, 0.98)
    return round(bounded(-DT_S / np.log(latent), 0.05, 3.0), 3)


def _life(pairs: Pairs, start: ErrorParameters) -> dict[str, object]:
    """Birth delay, coasting and identity switches."""
    found: dict[str, object] = {}
    easy = (pairs.share > 0.7) & (pairs.height_px > 1.5 * np.array(start.detection_px50)[pairs.class_id])
    waited = seconds_in(pairs, easy)
    first = np.zeros(len(waited), bool)
    tracked = pairs.tracked
    starts = easy & tracked & (waited > 0.0)
    earlier = np.zeros(len(waited), bool)
    earlier[1:] = (pairs.agent[1:] == pairs.agent[:-1]) & tracked[:-1]
    first = starts & ~earlier & (waited < 3.0)
    if first.sum() >= 20:
        found["birth_hits"] = int(bounded(np.median(np.round(waited[first] / DT_S)), 1, 10))
    last = np.ones(len(tracked), bool)
    last[:-1] = ~((pairs.agent[1:] == pairs.agent[:-1]) & (pairs.track[1:] == pairs.track[:-1]))
    # Out of view, what counts is how long a car beside the ego is kept, not one far off behind others.
    beside = (pairs.share <= 0.05) & (pairs.range_m < HIDDEN_RANGE_M)
    for name, mask in (("coast_s", pairs.share > 0.5), ("coast_hidden_s", beside)):
        ends = pairs.unseen_s[last & tracked & mask & (pairs.unseen_s > 0.15)]
        if len(ends) >= 20:
            found[name] = round(bounded(np.percentile(ends, 60), DT_S, 6.0), 2)
    follows = (pairs.agent[1:] == pairs.agent[:-1]) & (pairs.tick[1:] == pairs.tick[:-1] + 1)
    follows &= tracked[1:] & tracked[:-1]
    if follows.sum() >= LEAST_SAMPLES:
        switched = follows & (pairs.track[1:] != pairs.track[:-1])
        found["identity_switches_per_s"] = round(float(switched.sum() / (follows.sum() * DT_S)), 4)
    # Only tracks that lie where the agent is: farther off, the pair may be a false track beside an unseen agent.
    close = np.linalg.norm(np.nan_to_num(pairs.error_m, nan=np.inf), axis=1) < 0.8 + 0.03 * pairs.range_m
    newest = tracked & (pairs.age_s < 0.6) & close & (pairs.share > 0.3)
    confusion = {
        c: float((pairs.track_class[mask] != c).mean())
        for c in range(CLASSES)
        if (mask := newest & (pairs.class_id == c)).sum() >= 50
    }
    found["class_confusion"] = per_class(start.class_confusion, confusion)
    return found


def linear_spread(values: np.ndarray, scale: np.ndarray, bins: int = 10) -> tuple[float, float] | None:
    """Robust spread as floor + slope * scale, by non-negative least squares over bins of equal count."""
    if len(values) < LEAST_SAMPLES:
        return None
    edges = np.quantile(scale, np.linspace(0.0, 1.0, bins + 1))
    index = np.clip(np.searchsorted(edges, scale, side="right") - 1, 0, bins - 1)
    used = [b for b in range(bins) if (index == b).sum() >= 20]
    x = np.array([scale[index == b].mean() for b in used])
    y = np.array([spread(values[index == b]) for b in used])
    weight = 1.0 / np.maximum(y, 0.05)  # relative errors count alike
    (floor, slope), _ = nnls(np.stack([weight, weight * x], axis=1), weight * y)
    return float(floor), float(slope)


def _position(pairs: Pairs, start: ErrorParameters) -> dict[str, object]:
    """Noise of fresh positions by metres per pixel, its memory and spread between tracks, the lag behind motion."""
    fresh = pairs.fresh
    found: dict[str, object] = {}
    speed2 = (pairs.velocity_mps**2).sum(axis=1)
    moving = fresh & (speed2 > 9.0)
    if moving.sum() >= LEAST_SAMPLES:
        behind = -(pairs.error_odom_m * pairs.velocity_mps).sum(axis=1)[moving] / speed2[moving]
        found["latency_s"] = round(bounded(np.median(behind), 0.0, 0.5), 3)
    lag_s = float(found.get("latency_s", start.latency_s))  # type: ignore[arg-type]
    error_m = polar(pairs.error_odom_m + lag_s * pairs.velocity_mps, pairs.sight)
    radial = linear_spread(error_m[fresh, 0], pairs.metres_per_px[fresh])
    lateral = linear_spread(error_m[fresh, 1], pairs.lateral_per_px[fresh])
    if radial is None or lateral is None:
        return found
    found.update(radial_floor_m=round(radial[0], 4), radial_px=round(radial[1], 4))
    found.update(lateral_floor_m=round(lateral[0], 4), lateral_px=round(lateral[1], 4))
    sigma = np.stack(
        [radial[0] + radial[1] * pairs.metres_per_px, lateral[0] + lateral[1] * pairs.lateral_per_px], axis=1
    )
    normal = np.clip(error_m / np.maximum(sigma, 1e-3), -6.0, 6.0)
    found["position_correlation_s"] = memory(pairs, normal, fresh, start.position_correlation_s)
    per_track = [
        np.sqrt((normal[mask] ** 2).mean())
        for track in np.unique(pairs.track[fresh])
        if (mask := fresh & (pairs.track == track)).sum() >= 20
    ]
    if len(per_track) >= 20:
        found["track_spread"] = round(bounded(float(np.std(np.log(np.maximum(per_track, 0.05)))), 0.0, 0.8), 3)
    return found


def memory(pairs: Rows, normal: np.ndarray, mask: np.ndarray, start: float, lag: int = 5) -> float:
    """Correlation time (s) from the correlation of standardised errors ``lag`` ticks apart in one track."""
    follows = (pairs.track[lag:] == pairs.track[:-lag]) & (pairs.tick[lag:] == pairs.tick[:-lag] + lag)
    follows &= mask[lag:] & mask[:-lag] & (pairs.track[lag:] >= 0)
    if follows.sum() < LEAST_SAMPLES:
        return start
    a, b = normal[lag:][follows], normal[:-lag][follows]
    r = float((a * b).mean() / max(float((0.5 * (a**2 + b**2)).mean()), 1e-9))
    return round(bounded(-lag * DT_S / np.log(bounded(r, 0.02, 0.97)), 0.1, 5.0), 3)


def _velocity(pairs: Pairs, start: ErrorParameters) -> dict[str, object]:
    """Noise of the velocity by range, its lag behind changes, and how true it is at birth."""
    fresh = pairs.fresh & (pairs.age_s > 1.0)
    found: dict[str, object] = {}
    along = linear_spread(pairs.error_mps[fresh, 0], pairs.range_m[fresh])
    across = linear_spread(pairs.error_mps[fresh, 1], pairs.range_m[fresh])
    if along and across:
        found["velocity_floor_mps"], found["velocity_per_m"] = round(along[0], 4), round(along[1], 5)
        typical = along[0] + along[1] * 25.0
        share = (across[0] + across[1] * 25.0) / max(typical, 1e-3)
        found["velocity_lateral_share"] = round(bounded(share, 0.0, 1.0), 3)
        sigma = (along[0] + along[1] * pairs.range_m)[:, None] * np.array([1.0, max(share, 0.05)])
        normal = np.clip(pairs.error_mps / np.maximum(sigma, 1e-3), -6.0, 6.0)
        found["velocity_correlation_s"] = memory(pairs, normal, fresh, start.velocity_correlation_s)
    error = pairs.track_velocity_mps - pairs.velocity_mps
    size2 = (pairs.acceleration_mps2**2).sum(axis=1)
    changing = fresh & (size2 > 0.5) & (size2 < 100.0)
    if changing.sum() >= LEAST_SAMPLES:
        lag = -(error * pairs.acceleration_mps2).sum(axis=1)[changing].sum() / size2[changing].sum()
        found["velocity_lag_s"] = round(bounded(lag, 0.05, 2.0), 3)
    new = pairs.fresh & (pairs.age_s < 0.45) & ((pairs.velocity_mps**2).sum(axis=1) > 4.0)
    if new.sum() >= 50:
        gain = (pairs.track_velocity_mps[new] * pairs.velocity_mps[new]).sum() / (pairs.velocity_mps[new] ** 2).sum()
        found["velocity_at_birth"] = round(bounded(gain, 0.0, 1.0), 3)
    return found


def _shape(pairs: Pairs, start: ErrorParameters) -> dict[str, object]:
    """Heading noise by class and relative size noise."""
    heading = {
        c: spread(pairs.heading_error_rad[mask])
        for c in range(CLASSES)
        if (mask := pairs.fresh & (pairs.class_id == c)).sum() >= LEAST_SAMPLES
    }
    found: dict[str, object] = {"heading_noise_rad": per_class(start.heading_noise_rad, heading)}
    if pairs.fresh.sum() >= LEAST_SAMPLES:
        ratio = np.log(np.clip(pairs.size_ratio[pairs.fresh], 0.2, 5.0))
        found["size_noise"] = round(bounded(spread(ratio.ravel()), 0.0, 0.6), 4)
    return found


def _false_alarms(pairs: Pairs, start: ErrorParameters) -> dict[str, object]:
    """Rate, life, kind and place of tracks that belong to no agent for most of their time."""
    false = pairs.false_ticks
    seconds = pairs.ticks * DT_S
    if seconds < 60.0:
        return {}
    names, index = np.unique(false[:, 0], return_inverse=True) if len(false) else (np.zeros(0), np.zeros(0, int))
    matched = np.array([(pairs.track == int(name)).sum() for name in names])
    alone = np.bincount(index, minlength=len(names)) if len(names) else np.zeros(0)
    truly = alone > 2 * matched if len(names) else np.zeros(0, bool)
    found: dict[str, object] = {"false_alarms_per_s": round(float(truly.sum() / seconds), 4)}
    if truly.sum() < 10:
        return found
    rows = truly[index]
    found["false_alarm_life_s"] = round(bounded(alone[truly].mean() * DT_S, DT_S, 5.0), 3)
    found["false_alarm_near_share"] = round(float(false[rows, 4].mean()), 3)
    found["false_alarm_standing"] = round(float((false[rows, 5] < STANDING_MPS).mean()), 3)
    counts = np.bincount(false[rows, 2].astype(int), minlength=CLASSES) + 0.5
    shares = np.round(counts / counts.sum(), 3)
    shares[int(shares.argmax())] += 1.0 - shares.sum()
    found["false_alarm_class"] = tuple(float(round(v, 3)) for v in shares)
    found["false_alarm_range_m"] = round(bounded(np.percentile(false[rows, 3], 95), 10.0, 80.0), 1)
    return found
