"""A policy bundle as a function: raw observation in, the environment's action out; no torch, no hidden state.

Made for the bundles of ``visuomotor export policy CHECKPOINT.zip``: normaliser, frame stack, network, clip and unscale
are in the graph, so there is nothing left here but checks. State is the caller's: it goes in and comes out by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from visuomotor.deploy.runtime.bundle import META_FILE, Bundle, BundleError, load_bundle
from visuomotor.deploy.runtime.session import Session, make_session
from visuomotor.deploy.runtime.spaces import ArraySpec, SpaceError

State = Mapping[str, np.ndarray]
EPISODE_START = "episode_start"


class StateSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One array that the caller carries from ``output`` of a step to ``input`` of the next; zeros at first.

    ``shape`` has "batch" where the rows are.
    """

    input: str
    output: str
    dtype: str
    shape: tuple[int | str, ...]
    meaning: str = ""

    def make_zeros(self, batch: int) -> np.ndarray:
        """The state before the first step of ``batch`` episodes."""
        return np.zeros([batch if isinstance(n, str) else n for n in self.shape], self.dtype)


class BundlePolicy:
    """Deterministic policy of one bundle on one session.

    ``keys`` are those of a Dict observation (None: one array); ``observation`` and ``action`` say shapes, names, units
    and ranges; ``observation_hash`` stands for all of the observation's. Raises BundleError when the bundle lacks them.
    """

    def __init__(self, bundle: Bundle, session: Session) -> None:
        self.name = bundle.name
        self.task = bundle.meta.task
        self.provider = session.provider
        self.observation = _read(bundle, "observation", tuple[ArraySpec, ...])
        self.action = _read(bundle, "action", ArraySpec)
        self.state = _read(bundle, "state", tuple[StateSpec, ...])
        self.observation_hash: str = bundle.get_extra("observation_hash", str)
        self.keys = tuple(spec.key for spec in self.observation if spec.key is not None) or None
        self._file = bundle.path / META_FILE
        self._session = session

    @property
    def observation_names(self) -> tuple[str, ...]:
        """Every number of the observation, in order."""
        return tuple(name for spec in self.observation for name in spec.names)

    @property
    def observation_units(self) -> tuple[str, ...]:
        """The unit of each, empty for none or unknown."""
        return tuple(unit for spec in self.observation for unit in spec.units)

    def check_fields(self, names: Sequence[str], units: Sequence[str] | None = None) -> None:
        """Raise BundleError that names the first field in which the caller's observation is not the policy's."""
        for what, mine, theirs in (
            ("names", self.observation_names, names),
            ("units", self.observation_units, units),
        ):
            if theirs is None:
                continue
            for index, (expected, found) in enumerate(zip(mine, theirs, strict=False)):
                if expected != found:
                    raise BundleError(
                        f"{self._file}: extra.observation_{what}[{index}]: the policy was trained on {expected!r}, "
                        f"the running observation has {found!r}"
                    )
            if len(mine) != len(theirs):
                raise BundleError(
                    f"{self._file}: extra.observation_{what}: the policy was trained on {len(mine)} fields, "
                    f"the running observation has {len(theirs)}"
                )

    def initial_state(self, batch: int = 1) -> dict[str, np.ndarray] | None:
        """Zeros for ``batch`` episodes; None for a policy without state."""
        return {spec.input: spec.make_zeros(batch) for spec in self.state} or None

    def predict(
        self, observation: Any, state: State | None = None, episode_start: Any = None
    ) -> tuple[np.ndarray, dict[str, np.ndarray] | None]:
        """The action, in the environment's own units and bounds, and the state for the next step.

        ``observation``: what the environment returns, an array or a dict of arrays, with or without a batch dimension;
        the action comes back likewise. ``state``: what the last call returned; None at the start. ``episode_start``:
        bool [B], True where this observation is an episode's first: that row's state is set to zero before it is used.
        Raises SpaceError that names the entry, what was found and what was expected.
        """
        arrays, batched = self._to_arrays(observation)
        batch = len(next(iter(arrays.values())))
        if self.state:
            arrays.update(self._check_state(state, batch))
            arrays[EPISODE_START] = _check_start(episode_start, batch)
        elif state is not None:
            raise SpaceError(f"state: expected None, got {sorted(state)}: {self.name} has no state")
        outputs = self._session.run(arrays)
        action = outputs[self.action.array]
        carried = {spec.input: outputs[spec.output] for spec in self.state} or None
        return (action if batched else action[0]), carried

    def _to_arrays(self, observation: Any) -> tuple[dict[str, np.ndarray], bool]:
        if self.keys is None:
            if isinstance(observation, Mapping):
                raise SpaceError(f"observation: expected one array, got a dict with keys {sorted(observation)}")
            parts = {self.observation[0].array: self.observation[0].to_batch(observation)}
        else:
            found = observation if isinstance(observation, Mapping) else None
            if found is None or set(found) != set(self.keys):
                got = type(observation).__name__ if found is None else sorted(found)
                raise SpaceError(f"observation: expected a dict with keys {sorted(self.keys)}, got {got}")
            parts = {spec.array: spec.to_batch(found[spec.key]) for spec in self.observation}
        rows = {name: len(array) if batched else None for name, (array, batched) in parts.items()}
        if len(set(rows.values())) > 1:
            raise SpaceError(f"observation: expected the same number of rows in every array, got {rows}")
        return {name: array for name, (array, _) in parts.items()}, next(iter(rows.values())) is not None

    def _check_state(self, state: State | None, batch: int) -> dict[str, np.ndarray]:
        zeros = {spec.input: spec.make_zeros(batch) for spec in self.state}
        if state is None:
            return zeros
        if set(state) != set(zeros):
            raise SpaceError(f"state: expected {sorted(zeros)}, got {sorted(state)}")
        for name, zero in zeros.items():
            if state[name].shape != zero.shape or state[name].dtype != zero.dtype:
                raise SpaceError(
                    f"state {name}: expected {zero.dtype} {zero.shape}, got {state[name].dtype} {state[name].shape}"
                )
        return dict(state)


def load_policy(source: str | Path | Bundle, device: str = "auto", threads: int = 1) -> BundlePolicy:
    """The policy of a bundle, given by folder or as loaded, on the device that was asked for (``make_session``)."""
    bundle = source if isinstance(source, Bundle) else load_bundle(source, "policy")
    _read(bundle, "observation", tuple[ArraySpec, ...])  # before the session: it takes longer to be refused there
    return BundlePolicy(bundle, make_session(bundle, device, threads))


def _check_start(episode_start: Any, batch: int) -> np.ndarray:
    if episode_start is None:
        return np.zeros(batch, bool)
    start = np.atleast_1d(np.asarray(episode_start))
    if start.shape != (batch,) or start.dtype.kind not in "bif" or not np.isin(start, (0, 1)).all():
        raise SpaceError(f"{EPISODE_START}: expected bool ({batch},), got {start.dtype} {start.shape}")
    return start.astype(bool)


def _read(bundle: Bundle, key: str, kind: Any) -> Any:
    value = bundle.get_extra(key)
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise BundleError(f"{bundle.path / META_FILE}: extra.{key}: {error}") from error
