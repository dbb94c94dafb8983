"""Faults put into a node on purpose: what is written on the command line, and the node that does it."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import numpy as np

from visuomotor.messages.node import Inputs, Node, Tick
from visuomotor.messages.schema import Episode, Message

FORM = "node=delay:80ms,drop:5%,freeze:1s@10s,kill@12s"
_TIME = r"(\d{1,9}(?:\.\d{1,9})?)(ms|s)"


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """What happens to one node; times are since the start of an episode."""

    delay_s: float = 0.0  # before each step
    drop_share: float = 0.0  # of steps whose outputs are lost
    freeze_s: float = 0.0
    freeze_at_s: float | None = None
    kill_at_s: float | None = None


def parse_injections(texts: Iterable[str], nodes: Iterable[str]) -> dict[str, Faults]:
    """Node -> faults from texts such as ``perception=delay:80ms,kill@12s``.

    Raises ValueError that quotes what was not understood and the form that is.
    """
    known = list(nodes)
    parsed: dict[str, Faults] = {}
    for text in texts:
        node, equals, rest = text.partition("=")
        if not equals or not rest:
            raise ValueError(f"--inject: expected {FORM}, got {text!r}")
        if node not in known:
            raise ValueError(f"--inject: no node {node!r}; expected one of {', '.join(known)}")
        fields: dict[str, Any] = msgspec.structs.asdict(parsed.get(node, Faults()))
        for part in rest.split(","):
            fields |= _parse_fault(part, text)
        parsed[node] = Faults(**fields)
    return parsed


def _parse_fault(part: str, text: str) -> dict[str, float]:
    if match := re.fullmatch(rf"delay:{_TIME}", part):
        return {"delay_s": _seconds(*match.groups())}
    if (match := re.fullmatch(r"drop:(\d+(?:\.\d+)?)%", part)) and float(match[1]) <= 100.0:
        return {"drop_share": float(match[1]) / 100.0}
    if match := re.fullmatch(rf"freeze:{_TIME}@{_TIME}", part):
        return {"freeze_s": _seconds(match[1], match[2]), "freeze_at_s": _seconds(match[3], match[4])}
    if match := re.fullmatch(rf"kill@{_TIME}", part):
        return {"kill_at_s": _seconds(*match.groups())}
    raise ValueError(f"--inject: {part!r} in {text!r} is not understood; expected {FORM}")


def _seconds(number: str, unit: str) -> float:
    return float(number) * (1e-3 if unit == "ms" else 1.0)


class FaultyNode:
    """A node with faults; to the loop it looks like the node itself."""

    def __init__(self, node: Node, faults: Faults) -> None:
        self._node = node
        self._faults = faults
        self.name = node.name
        self.inputs = node.inputs
        self.outputs = node.outputs
        self.period_s = node.period_s
        self._start_ns: int | None = None
        self._frozen = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)  # stages, provider, finished: whatever the loop looks for

    def warm_up(self) -> None:
        """As the node."""
        self._node.warm_up()

    def reset(self, episode: Episode) -> None:
        """As the node; the faults' own clock and random stream start anew."""
        self._start_ns = None
        self._frozen = False
        self._random = np.random.default_rng([episode.seed, len(self.name), *self.name.encode()])
        self._node.reset(episode)

    def step(self, tick: Tick, inputs: Inputs) -> Mapping[str, Message]:
        """As the node, after what the faults do."""
        if self._start_ns is None:
            self._start_ns = tick.t_ns
        now_s = (tick.t_ns - self._start_ns) * 1e-9
        faults = self._faults
        if faults.kill_at_s is not None and now_s >= faults.kill_at_s:
            os.kill(os.getpid(), signal.SIGKILL)
        if faults.freeze_at_s is not None and now_s >= faults.freeze_at_s and not self._frozen:
            self._frozen = True
            time.sleep(faults.freeze_s)
        if faults.delay_s > 0.0:
            time.sleep(faults.delay_s)
        outputs = self._node.step(tick, inputs)
        return {} if self._random.random() < faults.drop_share else outputs

    def close(self) -> None:
        """As the node."""
        self._node.close()
