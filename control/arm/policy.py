"""Picking policies: a trained network from its bundle, the scripted picker, and random actions."""

from __future__ import annotations

from pathlib import Path

from visuomotor.control.arm.config import ACTION_SIZE
from visuomotor.control.arm.inputs import ArmInputs
from visuomotor.control.arm.observation import LAYOUT, observe
from visuomotor.control.arm.picker import RandomPicker, ScriptedPicker
from visuomotor.control.deciding import BaselinePolicy, Policy
from visuomotor.control.network import Interface, NetworkPolicy
from visuomotor.deploy.runtime.bundle import load_bundle
from visuomotor.deploy.runtime.tuning import Tuning

BASELINES = ("scripted", "random")
PICK = Interface(task="pick", layout=LAYOUT, action_size=ACTION_SIZE, observe=observe)


class ScriptedPolicy(BaselinePolicy[ArmInputs]):
    """The scripted picker as a policy."""

    def __init__(self) -> None:
        super().__init__("scripted", ScriptedPicker())


class RandomPolicy(BaselinePolicy[ArmInputs]):
    """Uniform actions from the episode's seed."""

    def __init__(self) -> None:
        super().__init__("random", RandomPicker(1), seeded=True)


def load_policy(
    name: str | Path, device: str = "auto", threads: int = 1, tuning: Tuning | None = None
) -> Policy[ArmInputs]:
    """A baseline by name ("scripted", "random") or the policy of a bundle, given by folder or shipped name."""
    if name == "scripted":
        return ScriptedPolicy()
    if name == "random":
        return RandomPolicy()
    return NetworkPolicy(load_bundle(name, "policy"), PICK, device, threads, tuning)
