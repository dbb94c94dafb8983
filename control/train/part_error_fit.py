"""Fitting the perception error model of parts to assigned pairs of logged shifts: robust spreads, one logistic fit."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from visuomotor.control.arm.config import CLASS_NAMES
from visuomotor.control.train.error_fit import (
    DT_S,
    LEAST_SAMPLES,
    SETTLED_S,
    bounded,
    detection_memory,
    linear_spread,
    logit,
    memory,
    per_class,
    seconds_in,
    spread,
)
from visuomotor.control.train.part_error_pairs import PartPairs
from visuomotor.perception.tasks import PERCEPTION
from visuomotor.sim.cell.error_model import SYMMETRY, PartErrorParameters

CLASSES = len(CLASS_NAMES)
PLAIN = 0.98  # visible share of what nothing hides
MOVING_MPS = 0.03
HIDDEN_EDGES = (0.02, 0.2, 0.4, 0.6, 0.8, 0.95)
AWAY_M = 0.12  # from the tool: nothing is being done to the part
TRACKS_LEAST = 20
LAGS_S = np.geomspace(0.03, 1.0, 22)
CHANGE_MPS2 = 0.05  # of the belt; for AFTER_TICKS its lag can be told
AFTER_TICKS = 8


def fit_parts(pairs: PartPairs, start: PartErrorParameters, source: str) -> PartErrorParameters:
    """Parameters from the pairs; what they don't show keeps the value of ``start``.

    How long tracks coast is the tracker's configuration, whose rule the model follows. ``jump_m`` is for the replay.
    """
    config = PERCEPTION["pick"].tracker
    life = _life(pairs, start)
    fitted = {
        **_detection(pairs, start),
        **life,
        **_position(pairs, start),
        **_lag(pairs, int(life.get("birth_hits", start.birth_hits))),
        **_shape(pairs, start),
        **_false_alarms(pairs),
        "coast_s": config.missed_confirmed_s,
        "coast_hidden_s": config.unseen_max_s,
        "coast_outside_s": config.outside_max_s,
    }
    return msgspec.structs.replace(start, source=source, **fitted)


def _detection(pairs: PartPairs, start: PartErrorParameters) -> dict[str, object]:
    """Chance of a fresh detection of what lies on the belt by its visible share, and its correlation in time."""
    some = pairs.on_belt & (pairs.share > 0.0)
    usable = some & (seconds_in(pairs, some) > SETTLED_S)
    share, fresh, classes = pairs.share[usable], pairs.fresh[usable].astype(float), pairs.class_id[usable]
    present = [c for c in range(CLASSES) if (classes == c).sum() >= LEAST_SAMPLES]
    if not present:
        return {}
    maxima = np.array(start.detection_max)

    def chance(theta: np.ndarray) -> np.ndarray:
        top = maxima.copy()
        top[present] = expit(theta[2:])
        return top[classes] * expit(np.exp(theta[1]) * (share - expit(theta[0])))

    def loss(theta: np.ndarray) -> float:
        p = np.clip(chance(theta), 1e-4, 1.0 - 1e-4)
        return float(-(fresh * np.log(p) + (1.0 - fresh) * np.log(1.0 - p)).mean())

    guess = np.concatenate([[logit(start.visible50), np.log(start.visible_slope)], logit(maxima[present])])
    theta = minimize(loss, guess, method="L-BFGS-B", bounds=[(-6.0, 6.0), (0.0, 4.0), *[(-2.0, 8.0)] * len(present)]).x
    return {
        "visible50": round(float(expit(theta[0])), 4),
        "visible_slope": round(float(np.exp(theta[1])), 3),
        "detection_max": per_class(start.detection_max, {c: float(expit(theta[2 + i])) for i, c in enumerate(present)}),
        "detection_correlation_s": detection_memory(pairs, usable, chance(theta), fresh, start),
    }


def _life(pairs: PartPairs, start: PartErrorParameters) -> dict[str, Any]:
    """Birth delay, switches of identity away from the hand, classes, distractors."""
    found: dict[str, Any] = {}
    tracked, easy = pairs.tracked, pairs.on_belt & (pairs.share > 0.7)
    waited = seconds_in(pairs, easy)
    earlier = np.zeros(len(waited), bool)
    earlier[1:] = (pairs.agent[1:] == pairs.agent[:-1]) & tracked[:-1]
    first = easy & tracked & ~earlier & (waited < 3.0)
    if first.sum() >= TRACKS_LEAST:
        found["birth_hits"] = int(bounded(float(np.median(np.round(waited[first] / DT_S))), 1, 10))
    plain = pairs.on_belt & (pairs.share > PLAIN) & (pairs.tool_m > AWAY_M) & tracked
    follows = pairs.follows & plain[1:] & plain[:-1]
    if follows.sum() >= LEAST_SAMPLES:
        switched = follows & (pairs.track[1:] != pairs.track[:-1])
        found["identity_switches_per_s"] = round(float(switched.sum() / (follows.sum() * DT_S)), 5)
    confusion = {
        c: float((pairs.track_class[mask] != c).mean())
        for c in range(CLASSES)
        if (mask := plain & (pairs.class_id == c)).sum() >= LEAST_SAMPLES
    }
    found["class_confusion"] = per_class(start.class_confusion, confusion)
    if pairs.distractors >= TRACKS_LEAST:
        taken = len(np.unique(pairs.false_ticks[pairs.false_ticks[:, 5] > 0.0, 0]))
        found["distractor_confusion"] = round(min((taken + 0.5) / (pairs.distractors + 1.0), 1.0), 4)
    return found


def _position(pairs: PartPairs, start: PartErrorParameters) -> dict[str, object]:
    """Noise of fresh positions and velocities, its memory, what hiding adds, how late positions are."""
    found: dict[str, object] = {}
    seen = pairs.fresh & pairs.on_belt
    plain = seen & (pairs.share > PLAIN)
    speed2 = (pairs.velocity_mps**2).sum(axis=1)
    moving = plain & (speed2 > MOVING_MPS**2)
    if moving.sum() >= LEAST_SAMPLES:
        behind = -(pairs.error_m * pairs.velocity_mps).sum(axis=1)[moving] / speed2[moving]
        found["latency_s"] = round(bounded(float(np.median(behind)), 0.0, 0.5), 4)
    lag_s = float(found.get("latency_s", start.latency_s))  # type: ignore[arg-type]
    error_m = pairs.error_m + lag_s * pairs.velocity_mps
    error_mps = pairs.track_velocity_mps - pairs.velocity_mps
    line = linear_spread(error_m[plain].ravel(), np.repeat(pairs.from_middle_m[plain], 2))
    if line is None:
        return found
    floor_m, per_m = line
    found.update(position_floor_m=round(floor_m, 5), position_per_m=round(per_m, 5))
    normal = np.clip(error_m / np.maximum(floor_m + per_m * pairs.from_middle_m, 1e-5)[:, None], -6.0, 6.0)
    found["position_correlation_s"] = memory(pairs, normal, plain, start.position_correlation_s)
    found["hidden_noise"] = _hidden_noise(normal[seen], pairs.share[seen], start.hidden_noise)
    per_track = [
        np.sqrt((normal[mask] ** 2).mean())
        for track in np.unique(pairs.track[plain])
        if (mask := plain & (pairs.track == track)).sum() >= 20
    ]
    if len(per_track) >= TRACKS_LEAST:
        found["track_spread"] = round(bounded(float(np.std(np.log(np.maximum(per_track, 0.05)))), 0.0, 0.8), 3)
    calm = plain & (pairs.age_s > 1.0) & (np.abs(pairs.belt_mps2) < 1e-6)
    if calm.sum() >= LEAST_SAMPLES:
        noise_mps = float(np.quantile(np.abs(error_mps[calm]), 0.8)) / 1.2816  # its tails count: a grasp follows them
        found["velocity_noise_mps"] = round(noise_mps, 5)
        normal_mps = np.clip(error_mps / max(noise_mps, 1e-5), -6.0, 6.0)
        found["velocity_correlation_s"] = memory(pairs, normal_mps, calm, start.velocity_correlation_s)
    return found


def _hidden_noise(normal: np.ndarray, share: np.ndarray, start: float) -> float:
    """Slope of the spread of standardised errors [N, 2] over the hidden share, through 1 where nothing is hidden."""
    bins = np.digitize(share, HIDDEN_EDGES)
    used = [b for b in range(1, len(HIDDEN_EDGES)) if (bins == b).sum() >= 30]
    if not used:
        return start
    hidden = np.array([1.0 - share[bins == b].mean() for b in used])
    worse = np.array([spread(normal[bins == b].ravel()) - 1.0 for b in used])
    return round(bounded(float((worse * hidden).sum() / (hidden**2).sum()), 0.0, 30.0), 2)


def _lag(pairs: PartPairs, birth_hits: int) -> dict[str, object]:
    """How true the velocity is at birth, and the lag with which it follows the belt's changes."""
    found: dict[str, object] = {}
    new = pairs.tracked & (pairs.age_s < (birth_hits + 1.5) * DT_S)
    new[1:] &= ~(pairs.tracked[:-1] & pairs.follows)
    seen = pairs.fresh & pairs.on_belt
    new &= seen & (pairs.share > 0.7) & ((pairs.velocity_mps**2).sum(axis=1) > MOVING_MPS**2)
    if new.sum() >= TRACKS_LEAST:
        true = pairs.velocity_mps[new]
        gain = float((pairs.track_velocity_mps[new] * true).sum() / (true**2).sum())
        found["velocity_at_birth"] = round(bounded(gain, 0.0, 1.0), 3)
    # The belt changes within a tick or two: what counts is how the track's velocity comes after.
    gains = 1.0 - np.exp(-DT_S / LAGS_S)[:, None]
    follows = np.concatenate([[False], pairs.follows & (pairs.track[1:] == pairs.track[:-1])])
    loss, count, since, state = np.zeros(len(LAGS_S)), 0, AFTER_TICKS, np.zeros((len(LAGS_S), 2))
    used = seen & (pairs.share > PLAIN) & (pairs.age_s > 1.0)
    for row in range(len(follows)):
        velocity = pairs.velocity_mps[row]
        state = state + gains * (velocity - state) if follows[row] else np.tile(velocity, (len(LAGS_S), 1))
        since = 0 if abs(pairs.belt_mps2[row]) > CHANGE_MPS2 else since + 1 if follows[row] else AFTER_TICKS
        if used[row] and since < AFTER_TICKS:
            loss += np.abs(pairs.track_velocity_mps[row] - state).sum(axis=1)
            count += 1
    if count >= LEAST_SAMPLES:
        found["velocity_lag_s"] = round(float(LAGS_S[loss.argmin()]), 3)
    return found


def _shape(pairs: PartPairs, start: PartErrorParameters) -> dict[str, object]:
    """Heading noise by class and how many headings are anything; relative size noise."""
    noise: dict[int, float] = {}
    wrong: dict[int, float] = {}
    plain = pairs.fresh & pairs.on_belt & (pairs.share > PLAIN)
    for c in range(CLASSES):
        error = np.abs(pairs.heading_error_rad[plain & (pairs.class_id == c)])
        if len(error) < LEAST_SAMPLES or SYMMETRY[c] == 0:
            continue
        half = np.pi / SYMMETRY[c]
        limit = bounded(3.0 * spread(error), 0.2, 0.4 * half)
        noise[c] = spread(error[error < limit])
        wrong[c] = min(float((error >= limit).mean()) / float(1.0 - limit / half), 1.0)
    found: dict[str, object] = {
        "heading_noise_rad": per_class(start.heading_noise_rad, noise),
        "heading_wrong": per_class(start.heading_wrong, wrong),
    }
    if plain.sum() >= LEAST_SAMPLES:
        found["size_noise"] = round(
            bounded(spread(np.log(np.clip(pairs.size_ratio[plain], 0.2, 5.0)).ravel()), 0, 0.6), 4
        )
    return found


def _false_alarms(pairs: PartPairs) -> dict[str, object]:
    """Rate, life, kind and place of tracks on the belt that were no part's, ever."""
    false, seconds = pairs.false_ticks, pairs.ticks * DT_S
    if seconds < 60.0:
        return {}
    ours = set(np.unique(pairs.track).tolist()) | set(false[(false[:, 5] > 0.0) | (false[:, 6] > 0.0), 0].tolist())
    rows = np.array([name not in ours for name in false[:, 0].tolist()], bool) & (false[:, 4] > 0.0)
    names = np.unique(false[rows, 0])
    found: dict[str, object] = {"false_alarms_per_s": round(len(names) / seconds, 5)}
    if len(names) < 10:
        return found
    found["false_alarm_life_s"] = round(bounded(rows.sum() / len(names) * DT_S, DT_S, 5.0), 3)
    found["false_alarm_near_share"] = round(float(false[rows, 2].mean()), 3)
    counts = np.bincount(false[rows, 1].astype(int), minlength=CLASSES) + 0.5
    shares = np.round(counts / counts.sum(), 3)
    shares[int(shares.argmax())] += 1.0 - shares.sum()
    found["false_alarm_class"] = tuple(float(round(v, 3)) for v in shares)
    return found
