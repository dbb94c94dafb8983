"""Driving policies: a trained network from its bundle, IDM + MOBIL, and random actions."""

from __future__ import annotations

from pathlib import Path

from visuomotor.control.action import ACTION_SIZE
from visuomotor.control.baselines import IdmMobilDriver, RandomDriver
from visuomotor.control.deciding import BaselinePolicy, Policy
from visuomotor.control.inputs import DriveInputs
from visuomotor.control.network import Interface, NetworkPolicy
from visuomotor.control.observation import LAYOUT, observe
from visuomotor.deploy.runtime.bundle import Bundle, load_bundle
from visuomotor.deploy.runtime.tuning import Tuning

BASELINES = ("idm", "random")
DRIVE = Interface(task="drive", layout=LAYOUT, action_size=ACTION_SIZE, observe=observe)


class OnnxPolicy(NetworkPolicy[DriveInputs]):
    """A driving network. Raises BundleError when the bundle is not a driving policy made for this observation."""

    def __init__(self, bundle: Bundle, device: str = "auto", threads: int = 1, tuning: Tuning | None = None) -> None:
        super().__init__(bundle, DRIVE, device, threads, tuning)


class IdmPolicy(BaselinePolicy[DriveInputs]):
    """IDM + MOBIL as a policy."""

    def __init__(self) -> None:
        super().__init__("idm", IdmMobilDriver(1))


class RandomPolicy(BaselinePolicy[DriveInputs]):
    """Uniform actions from the episode's seed."""

    def __init__(self) -> None:
        super().__init__("random", RandomDriver(1), seeded=True)


def load_policy(
    name: str | Path, device: str = "auto", threads: int = 1, tuning: Tuning | None = None
) -> Policy[DriveInputs]:
    """A baseline by name ("idm", "random") or the policy of a bundle, given by folder or shipped name."""
    if name == "idm":
        return IdmPolicy()
    if name == "random":
        return RandomPolicy()
    return OnnxPolicy(load_bundle(name, "policy"), device, threads, tuning)
