"""Driving policies behind one protocol: a trained network from its bundle, IDM + MOBIL, and random actions."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from visuomotor.control.action import ACTION_SIZE
from visuomotor.control.baselines import IdmMobilDriver, RandomDriver
from visuomotor.control.inputs import DriveInputs
from visuomotor.control.network import Interface, NetworkPolicy
from visuomotor.control.observation import LAYOUT, observe
from visuomotor.deploy.runtime.bundle import Bundle, load_bundle
from visuomotor.deploy.runtime.tuning import Tuning
from visuomotor.messages.schema import Episode

BASELINES = ("idm", "random")


class Policy(Protocol):
    """Decides the action of one world per tick."""

    name: str
    provider: str

    def reset(self, episode: Episode) -> None:
        """Forget the last episode."""

    def act(self, inputs: DriveInputs) -> np.ndarray:
        """Action, float32 [B, 2] in [-1, 1]."""
        ...


DRIVE = Interface(task="drive", layout=LAYOUT, action_size=ACTION_SIZE, observe=observe)


class OnnxPolicy(NetworkPolicy[DriveInputs]):
    """A driving network. Raises BundleError when the bundle is not a driving policy made for this observation."""

    def __init__(self, bundle: Bundle, device: str = "auto", threads: int = 1, tuning: Tuning | None = None) -> None:
        super().__init__(bundle, DRIVE, device, threads, tuning)


class IdmPolicy:
    """IDM + MOBIL as a policy."""

    name = "idm"
    provider = "numpy"

    def __init__(self) -> None:
        self._driver = IdmMobilDriver(1)

    def reset(self, episode: Episode) -> None:
        """Forget the lane change under way."""
        self._driver.reset()

    def act(self, inputs: DriveInputs) -> np.ndarray:
        """Action, float32 [1, 2]."""
        return self._driver.act(inputs).astype(np.float32)


class RandomPolicy:
    """Uniform actions from the episode's seed."""

    name = "random"
    provider = "numpy"

    def __init__(self) -> None:
        self._driver = RandomDriver(1)

    def reset(self, episode: Episode) -> None:
        """Start the stream of the episode."""
        self._driver.reset(seed=episode.seed)

    def act(self, inputs: DriveInputs) -> np.ndarray:
        """Action, float32 [1, 2]."""
        return self._driver.act(inputs).astype(np.float32)


def load_policy(name: str | Path, device: str = "auto", threads: int = 1, tuning: Tuning | None = None) -> Policy:
    """A baseline by name ("idm", "random") or the policy of a bundle, given by folder or shipped name."""
    if name == "idm":
        return IdmPolicy()
    if name == "random":
        return RandomPolicy()
    return OnnxPolicy(load_bundle(name, "policy"), device, threads, tuning)
