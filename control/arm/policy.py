"""Picking policies behind one protocol: a trained network from its bundle, the scripted picker, and random actions."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from visuomotor.control.arm.config import ACTION_SIZE
from visuomotor.control.arm.inputs import ArmInputs
from visuomotor.control.arm.observation import LAYOUT, observe
from visuomotor.control.arm.picker import RandomPicker, ScriptedPicker
from visuomotor.control.network import Interface, NetworkPolicy
from visuomotor.deploy.runtime.bundle import load_bundle
from visuomotor.deploy.runtime.tuning import Tuning
from visuomotor.messages.schema import Episode

BASELINES = ("scripted", "random")
PICK = Interface(task="pick", layout=LAYOUT, action_size=ACTION_SIZE, observe=observe)


class Policy(Protocol):
    """Decides the action of one cell per tick."""

    name: str
    provider: str

    def reset(self, episode: Episode) -> None:
        """Forget the last episode."""

    def act(self, inputs: ArmInputs) -> np.ndarray:
        """Action, float32 [B, 5] in [-1, 1]."""
        ...


class ScriptedPolicy:
    """The scripted picker as a policy."""

    name = "scripted"
    provider = "numpy"

    def __init__(self) -> None:
        self._picker = ScriptedPicker()

    def reset(self, episode: Episode) -> None:
        """Nothing to forget: the rules have no state."""

    def act(self, inputs: ArmInputs) -> np.ndarray:
        """Action, float32 [B, 5]."""
        return self._picker.act(inputs).astype(np.float32)


class RandomPolicy:
    """Uniform actions from the episode's seed."""

    name = "random"
    provider = "numpy"

    def __init__(self) -> None:
        self._picker = RandomPicker(1)

    def reset(self, episode: Episode) -> None:
        """Start the stream of the episode."""
        self._picker.reset(seed=episode.seed)

    def act(self, inputs: ArmInputs) -> np.ndarray:
        """Action, float32 [1, 5]."""
        return self._picker.act(inputs).astype(np.float32)


def load_policy(name: str | Path, device: str = "auto", threads: int = 1, tuning: Tuning | None = None) -> Policy:
    """A baseline by name ("scripted", "random") or the policy of a bundle, given by folder or shipped name."""
    if name == "scripted":
        return ScriptedPolicy()
    if name == "random":
        return RandomPolicy()
    return NetworkPolicy(load_bundle(name, "policy"), PICK, device, threads, tuning)
