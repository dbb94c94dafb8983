"""Driving policies behind one protocol: a trained network from its bundle, IDM + MOBIL, and random actions."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from visuomotor.control.action import ACTION_SIZE
from visuomotor.control.baselines import IdmMobilDriver, RandomDriver
from visuomotor.control.inputs import DriveInputs
from visuomotor.control.observation import LAYOUT, observe
from visuomotor.deploy.runtime.bundle import META_FILE, Bundle, BundleError, load_bundle
from visuomotor.deploy.runtime.session import make_session
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


class OnnxPolicy:
    """A network with its normaliser and clipping inside the graph: ``observation`` [B, D] to ``action_norm`` [B, 2].

    Raises BundleError when the bundle is not a driving policy made for this observation layout.
    """

    def __init__(self, bundle: Bundle, device: str = "auto", threads: int = 1, tuning: Tuning | None = None) -> None:
        check_policy(bundle)
        self.name = bundle.name
        self._session = make_session(bundle, device, threads, tuning)
        self.provider = self._session.placement_text

    def reset(self, episode: Episode) -> None:
        """Nothing to forget: the network has no state."""

    def act(self, inputs: DriveInputs) -> np.ndarray:
        """Action, float32 [B, 2]; the graph clips it to [-1, 1]."""
        return self._session.run({"observation": observe(inputs)})["action_norm"]


def check_policy(bundle: Bundle) -> None:
    """Raise BundleError that names file, key and expectation unless the bundle is a policy for this observation."""
    file = bundle.path / META_FILE
    if bundle.meta.kind != "policy":
        raise BundleError(f"{file}: kind: expected 'policy', got '{bundle.meta.kind}'")
    if bundle.meta.task != "drive":
        raise BundleError(f"{file}: task: expected 'drive', got '{bundle.meta.task}'")
    found = bundle.get_extra("observation_hash", str)
    if found != LAYOUT.hash:
        raise BundleError(
            f"{file}: extra.observation_hash: expected {LAYOUT.hash}, got {found}: the policy was trained on another "
            "observation; train it again or use the release that it came with"
        )
    shapes = {spec.name: spec.shape[-1:] for spec in (*bundle.meta.inputs, *bundle.meta.outputs)}
    expected = {"observation": (LAYOUT.size,), "action_norm": (ACTION_SIZE,)}
    if shapes != expected:
        raise BundleError(f"{file}: inputs and outputs: expected last dimensions {expected}, got {shapes}")


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
