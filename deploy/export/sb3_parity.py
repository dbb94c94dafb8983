"""Parity of an exported policy with ``model.predict(normalize_obs(obs), deterministic=True)`` of stable-baselines3.

Differences are in normalised units: of half an action's range, of the greatest score or state of the row where that is
above 1. Rows for which single precision does not decide the answer (stable-baselines3's own answer moves when the
input's last digit does, or two choices are equal to rounding) are left out or excused, and counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.common.vec_env.stacked_observations import StackedObservations

from visuomotor.deploy.export.parity import ParityError, ParityResult, Runs, check_parity
from visuomotor.deploy.export.sb3_cases import UNBOUNDED, Arrays, flatten, make_rows, split_batches, take_rows
from visuomotor.deploy.export.sb3_graph import CELL, HIDDEN, NEXT, SCORE, PolicyGraph
from visuomotor.deploy.export.sb3_spaces import FrameStack
from visuomotor.deploy.runtime.policy import EPISODE_START, BundlePolicy
from visuomotor.deploy.runtime.session import Session

ATOL = 1e-5  # normalised units
TIE = 1e-5  # two scores this close may come in either order
STEADY = 1e-6  # by so much may the reference move with the input's last digit
ROWS = 1000
SPARE = (1.3, 4.0)  # rows drawn for one that is needed


class Original:
    """The trained model behind the arrays of the exported graph, by stable-baselines3's own code."""

    def __init__(
        self,
        model: BaseAlgorithm,
        graph: PolicyGraph,
        normalizer: VecNormalize | None,
        normalize_first: bool,
        stack: FrameStack | None,
    ) -> None:
        self.model, self.graph, self.stack = model, graph, stack
        self._normalizer, self._normalize_first = normalizer, normalize_first

    def run(self, case: Mapping[str, np.ndarray]) -> Arrays:
        """Arrays by input name -> arrays by output name."""
        out: Arrays = {}
        observation = self._see(case, out)
        state = (case[HIDDEN], case[CELL]) if self.graph.lstm is not None else None
        action, after = self.model.predict(observation, state, case.get(EPISODE_START), deterministic=True)
        out[self.graph.head.spec.array] = action
        if after is not None:
            out[HIDDEN + NEXT], out[CELL + NEXT] = after
        if self.graph.head.spec.kind != "box":
            out[SCORE] = self._score(observation, case)
        return out

    def normalize(self, arrays: dict[str | None, np.ndarray]) -> Any:
        """Arrays by key as the observation that VecNormalize makes of them."""
        observation: Any = arrays[None] if None in arrays else {str(k): v for k, v in arrays.items()}
        return observation if self._normalizer is None else self._normalizer.normalize_obs(observation)

    def _see(self, case: Mapping[str, np.ndarray], out: Arrays) -> Any:
        frames: dict[str | None, np.ndarray] = {p.spec.key: case[p.spec.array] for p in self.graph.list_parts()}
        if self.stack is None:
            return self.normalize(frames)
        if self._normalize_first:
            seen = self.normalize(frames)
            frames = {p.spec.key: seen[p.spec.key] if p.spec.key else seen for p in self.graph.list_parts()}
        stacked: dict[str | None, np.ndarray] = {}
        for part in self.graph.list_parts():
            state = part.make_state()[0]
            key = part.spec.key
            stacked[key] = self._push(frames[key], case[state.input], case[EPISODE_START], part.axis == 0)
            out[state.output] = stacked[key]
        if not self._normalize_first:
            return self.normalize(stacked)
        return stacked.get(None, stacked)

    def _push(self, frame: np.ndarray, before: np.ndarray, start: np.ndarray, first: bool) -> np.ndarray:
        assert self.stack is not None
        space = spaces.Box(-np.inf, np.inf, frame.shape[1:], np.float32)
        order = "first" if first else "last"
        theirs: StackedObservations[np.ndarray] = StackedObservations(len(frame), self.stack.frames, space, order)
        theirs.stacked_obs = np.where(start.reshape(-1, *[1] * (before.ndim - 1)), 0, before).astype(before.dtype)
        return theirs.update(frame, np.zeros(len(frame), bool), [{}] * len(frame))[0].copy()

    @torch.no_grad()
    def _score(self, observation: Any, case: Mapping[str, np.ndarray]) -> np.ndarray:
        policy: Any = self.model.policy
        tensors, _ = policy.obs_to_tensor(observation)
        if self.graph.head.values:
            return policy.q_net(tensors).numpy()
        if self.graph.lstm is not None:
            state = tuple(torch.from_numpy(case[name]) for name in (HIDDEN, CELL))
            found = policy.get_distribution(tensors, state, torch.from_numpy(case[EPISODE_START]).float())[0]
        else:
            found = policy.get_distribution(tensors)
        parts = found.distribution if isinstance(found.distribution, list) else [found.distribution]
        return torch.cat([part.logits for part in parts], dim=1).numpy()


class InUnits:
    """Both sides of a parity check in normalised units; ``run`` must follow ``reference`` on the same case."""

    def __init__(self, original: Original, found: Runs, *, with_scores: bool = True) -> None:
        self.original, self._found, self._with_scores = original, found, with_scores
        self.provider = found.provider
        self._last: Arrays = {}
        spec = original.graph.head.spec
        low, high = (np.array([np.nan if v is None else v for v in side]) for side in (spec.low, spec.high))
        half = 0.5 * (high - low).reshape(spec.shape)
        self._half = np.where(np.isfinite(half) & (half > 0) & (half < UNBOUNDED), half, np.nan)
        self.undecided = 0

    def reference(self, case: Mapping[str, np.ndarray]) -> Arrays:
        """The original's outputs, scaled."""
        self._last = self.original.run(case)
        return self.scale({name: v for name, v in self._last.items() if self._with_scores or name != SCORE})

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """The export's outputs, by the scale of the original's."""
        found = dict(self._found.run(inputs))
        action = self.original.graph.head.spec.array
        if SCORE in self._last and found[action].shape == self._last[action].shape:
            ties = find_ties(self.original.graph, self._last[SCORE]).reshape(found[action].shape)
            self.undecided += int(ties.sum())
            found[action] = np.where(ties, self._last[action], found[action])
        return self.scale(found)

    def scale(self, outputs: Mapping[str, np.ndarray]) -> Arrays:
        """Outputs by the scale of the last reference."""
        return {name: self._scale_one(name, value) for name, value in outputs.items()}

    def _scale_one(self, name: str, value: np.ndarray) -> np.ndarray:
        spec, reference = self.original.graph.head.spec, self._last.get(name)
        if reference is None or reference.shape != value.shape:
            return value
        if name == spec.array and spec.kind != "box":
            return value.astype(np.int64)
        axes = (0, 2) if name in (HIDDEN + NEXT, CELL + NEXT) else tuple(range(1, value.ndim))
        greatest = np.maximum(np.abs(np.asarray(reference, np.float64)).max(axis=axes, keepdims=True), 1.0)
        if name == spec.array:
            return value / np.where(np.isnan(self._half), greatest, self._half)
        return value / greatest


def find_ties(graph: PolicyGraph, score: np.ndarray) -> np.ndarray:
    """True [B, choices of one action] where rounding decides which choice has the greatest score."""
    scale = np.maximum(np.abs(score).max(axis=1), 1.0)
    if graph.head.spec.kind == "multi_binary":
        return np.abs(score) < TIE * scale[:, None]
    ties = []
    for part in np.split(score, np.cumsum(graph.head.choices)[:-1], axis=1):
        best = np.sort(part, axis=1)
        ties.append(best[:, -1] - best[:, -2] < TIE * scale if part.shape[1] > 1 else np.zeros(len(part), bool))
    return np.stack(ties, axis=1)


def check_random(original: Original, session: Session, count: int = ROWS, seed: int = 0) -> dict[str, Any]:
    """Parity of the graph on ``count`` random and edge rows in batches of 1 to 8; raises ParityError.

    What goes into ``bundle.json``: the figures of ``ParityResult`` and ``rows``, ``left_out``, ``undecided``.
    """
    graph = original.graph
    for spare in SPARE:
        drawn = int(spare * count)
        rows = make_rows(graph, drawn, seed)
        steady = np.flatnonzero(find_steady(original, rows, drawn))
        if len(steady) >= count:
            break
    else:
        raise ParityError(
            f"single precision decides the action of only {len(steady)} of {drawn} random observations; "
            "was the policy trained on these ranges, and with this --vecnormalize?"
        )
    pair = InUnits(original, session)
    cases = list(split_batches(graph, take_rows(graph, rows, steady), count))
    result = _check(pair, cases).raise_if_failed()
    return {**result.to_meta(), "rows": count, "left_out": drawn - len(steady), "undecided": pair.undecided}


def check_recorded(original: Original, policy: BundlePolicy, episodes: list[Arrays]) -> dict[str, Any]:
    """Parity of the runtime's ``predict`` on whole episodes, each side carrying its own state; raises ParityError."""
    pair = InUnits(_Carried(original), _Predicts(policy, original.graph), with_scores=False)
    cases = []
    for episode in episodes:
        length = len(next(iter(episode.values())))
        for step in range(length):
            case = {name: array[step : step + 1] for name, array in episode.items()}
            cases.append({**case, EPISODE_START: np.array([step == 0])})
    result = _check(pair, cases).raise_if_failed()
    return {**result.to_meta(), "episodes": len(episodes), "undecided": pair.undecided}


def find_steady(original: Original, rows: Arrays, count: int) -> np.ndarray:
    """True [count] where the original's floats hold still when the inputs' last digit turns."""
    if not list(flatten(rows)):
        return np.ones(count, bool)
    steady = []
    for part in np.array_split(np.arange(count), max(1, count // 64)):
        case = take_rows(original.graph, rows, part)
        keep = np.ones(len(part), bool)
        pair = InUnits(original, _Nothing())
        base = pair.reference(case)
        for limit in (-np.inf, np.inf):
            turned = {**case, **{name: np.nextafter(a, a.dtype.type(limit)) for name, a in flatten(case)}}
            moved = pair.scale(original.run(turned))
            for name, value in base.items():
                if value.dtype.kind == "f":
                    axis = 1 if name in (HIDDEN + NEXT, CELL + NEXT) else 0
                    change = np.moveaxis(np.abs(moved[name] - value), axis, 0).reshape(len(part), -1)
                    keep &= change.max(axis=1) <= STEADY
        steady.append(keep)
    return np.concatenate(steady)


def _check(pair: InUnits, cases: list[Arrays]) -> ParityResult:
    action = pair.original.graph.head.spec
    constant = (action.array,) if action.kind != "box" else ()
    return check_parity(pair.reference, pair, cases, atol=ATOL, rtol=0.0, may_be_constant=constant)


class _Nothing:
    provider = "none"

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        return {}


class _Carried(Original):
    """The original with the state of its own last step."""

    def __init__(self, original: Original) -> None:
        self.__dict__.update(original.__dict__)
        self._state = {spec.input: spec.make_zeros(1) for spec in self.graph.state}

    def run(self, case: Mapping[str, np.ndarray]) -> Arrays:
        out = super().run({**case, **self._state})
        self._state = {spec.input: out[spec.output] for spec in self.graph.state}
        return out


class _Predicts:
    """``BundlePolicy.predict`` as a graph: raw observations in, action and carried state out."""

    def __init__(self, policy: BundlePolicy, graph: PolicyGraph) -> None:
        self.provider = policy.provider
        self._policy, self._graph = policy, graph
        self._state: dict[str, np.ndarray] | None = None

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        parts = {p.spec.key: inputs[p.spec.array] for p in self._graph.list_parts()}
        observation = parts.get(None, parts)
        start = inputs[EPISODE_START] if self._graph.state else None
        action, self._state = self._policy.predict(observation, self._state, start)
        carried = {spec.output: (self._state or {})[spec.input] for spec in self._graph.state}
        return {self._policy.action.array: action, **carried}
