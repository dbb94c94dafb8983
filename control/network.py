"""A trained network as a policy of any task: observation in, action out, checked against what the bundle says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from visuomotor.control.layout import ObservationLayout
from visuomotor.deploy.runtime.bundle import META_FILE, Bundle, BundleError
from visuomotor.deploy.runtime.session import make_session
from visuomotor.deploy.runtime.tuning import Tuning, read_tuning
from visuomotor.messages.schema import Episode

InputsT = TypeVar("InputsT")  # what a task's policy is given


@dataclass(frozen=True)
class Interface(Generic[InputsT]):
    """What a task's policies see and do. ``observe`` takes the task's inputs to an observation [B, D]."""

    task: str
    layout: ObservationLayout
    action_size: int
    observe: Callable[[InputsT], np.ndarray]


class NetworkPolicy(Generic[InputsT]):
    """A network with its normaliser and clipping inside the graph: ``observation`` [B, D] to ``action_norm`` [B, A].

    Raises BundleError when the bundle is not a policy of this task made for this observation layout.
    """

    def __init__(
        self,
        bundle: Bundle,
        interface: Interface[InputsT],
        device: str = "auto",
        threads: int = 1,
        tuning: Tuning | None = None,
    ) -> None:
        check_policy(bundle, interface)
        self.name = bundle.name
        self._observe = interface.observe
        self._session = make_session(bundle, device, threads, tuning)
        self.provider = self._session.placement_text

    def reset(self, episode: Episode) -> None:
        """Nothing to forget: the network has no state."""

    def act(self, inputs: InputsT) -> np.ndarray:
        """Action, float32 [B, A]; the graph clips it to [-1, 1]."""
        return self._session.run({"observation": self._observe(inputs)})["action_norm"]


def check_policy(bundle: Bundle, interface: Interface[InputsT]) -> None:
    """Raise BundleError that names file, key and expectation unless the bundle is a policy for this interface."""
    file = bundle.path / META_FILE
    if bundle.meta.kind != "policy":
        raise BundleError(f"{file}: kind: expected 'policy', got '{bundle.meta.kind}'")
    if bundle.meta.task != interface.task:
        raise BundleError(f"{file}: task: expected '{interface.task}', got '{bundle.meta.task}'")
    found = bundle.get_extra("observation_hash", str)
    if found != interface.layout.hash:
        raise BundleError(
            f"{file}: extra.observation_hash: expected {interface.layout.hash}, got {found}: the policy was trained on "
            "another observation; train it again or use the release that it came with"
        )
    shapes = {spec.name: spec.shape[-1:] for spec in (*bundle.meta.inputs, *bundle.meta.outputs)}
    expected = {"observation": (interface.layout.size,), "action_norm": (interface.action_size,)}
    if shapes != expected:
        raise BundleError(f"{file}: inputs and outputs: expected last dimensions {expected}, got {shapes}")


def read_config(config: Mapping[str, Any]) -> tuple[str, str, int, Tuning]:
    """Policy, device, threads and tuning from a policy node's ``policy``, ``device``, ``threads`` and ``runtime``.

    Raises ValueError that names the unknown or missing key.
    """
    known = {"policy", "device", "threads", "runtime"}
    unknown = set(config) - known
    if unknown or not config.get("policy"):
        what = f"unknown key {sorted(unknown)[0]!r}" if unknown else "key 'policy' is missing"
        raise ValueError(f"policy: {what}; expected {', '.join(sorted(known))}")
    device, threads = str(config.get("device", "auto")), int(config.get("threads", 1))
    return config["policy"], device, threads, read_tuning(config.get("runtime"))
