"""What every policy and its node do, whatever the robot: decide once per forecast, remember, keep to the limits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from visuomotor.messages.node import Inputs, Tick
from visuomotor.messages.schema import Episode, Header, Message, PolicyCommand

S = TypeVar("S")  # what a robot knows of its surroundings and itself, for B robots at once
S_contra = TypeVar("S_contra", contravariant=True)


class Policy(Protocol[S_contra]):
    """Decides the action of one robot per tick."""

    name: str
    provider: str

    def reset(self, episode: Episode) -> None:
        """Forget the last episode."""

    def act(self, inputs: S_contra) -> np.ndarray:
        """Action, float32 [B, A] in [-1, 1]."""
        ...


class BaselinePolicy(Generic[S]):
    """A driver by rules, or one that acts at random, as a policy: anything with ``reset`` and ``act`` for B robots."""

    provider = "numpy"

    def __init__(self, name: str, driver: Any, *, seeded: bool = False) -> None:
        """``seeded``: each episode starts the driver's random stream with its own seed."""
        self.name = name
        self._driver = driver
        self._seeded = seeded

    def reset(self, episode: Episode) -> None:
        """Forget the last episode."""
        if self._seeded:
            self._driver.reset(seed=episode.seed)
        else:
            self._driver.reset()

    def act(self, inputs: S) -> np.ndarray:
        """Action, float32 [1, A]."""
        action: np.ndarray = self._driver.act(inputs)
        return action.astype(np.float32)


class RandomActions(Generic[S]):
    """Uniform actions in [-1, 1], one random stream per robot, so that a row does not depend on the others."""

    def __init__(self, action_size: int, count: int = 1, seed: int = 0) -> None:
        self._size = action_size
        self._streams = [np.random.default_rng([seed, index]) for index in range(count)]

    def reset(self, mask: np.ndarray | None = None, seed: int | None = None) -> None:
        """Begin a new episode for the robots of the mask [B] (all by default); ``seed`` restarts their streams."""
        if seed is not None:
            chosen = range(len(self._streams)) if mask is None else np.flatnonzero(mask)
            for index in chosen:
                self._streams[index] = np.random.default_rng([seed, int(index)])

    def act(self, inputs: S) -> np.ndarray:
        """Action [B, A]."""
        return np.stack([stream.uniform(-1.0, 1.0, self._size) for stream in self._streams])


class DecidingNode(ABC, Generic[S]):
    """Runs a ``Policy`` once per forecast; what it sends is already inside the robot's limits."""

    name = "policy"
    outputs = ("policy_command",)
    period_s: float | None = None

    def __init__(self, policy: Policy[S], action_size: int) -> None:
        self.policy = policy
        self.provider = policy.provider
        self._size = action_size
        self._forget()

    def _forget(self) -> None:
        self._action = np.zeros(self._size, np.float32)  # the last one, as it took effect

    @abstractmethod
    def _rest(self) -> S:
        """A robot that stands with nothing around it."""

    @abstractmethod
    def _gather(self, inputs: Inputs) -> S | None:
        """What the messages tell and the last action, None before the first of those it cannot do without."""

    @abstractmethod
    def _obey(self, action: np.ndarray, situation: S) -> Mapping[str, Any]:
        """What an action in [-1, 1] makes the robot do: fields of ``PolicyCommand``."""

    def _settle(self, action: np.ndarray, situation: S) -> np.ndarray:
        """The action as it takes effect and is remembered."""
        return action

    def warm_up(self) -> None:
        """Decide once at rest, so that the first step is as fast as the rest."""
        situation = self._rest()
        self._obey(self.policy.act(situation), situation)
        self.reset(Episode(phase="reset"))

    def reset(self, episode: Episode) -> None:
        """Forget the last episode."""
        self.policy.reset(episode)
        self._forget()

    def step(self, tick: Tick, inputs: Inputs) -> Mapping[str, Message]:
        """One command, valid when the action is finite and all inputs are right."""
        situation = self._gather(inputs)
        if situation is None:
            return {}
        action = self.policy.act(situation)
        finite = bool(np.isfinite(action).all())
        action = self._settle(np.clip(np.nan_to_num(action), -1.0, 1.0), situation)
        wanted = self._obey(action, situation)
        self._action = action[0].astype(np.float32)
        return {
            "policy_command": PolicyCommand(
                header=Header(valid=finite and inputs.all_ok()),
                action_norm=tuple(float(value) for value in action[0]),
                **wanted,
            )
        }

    def close(self) -> None:
        """Nothing to release."""
