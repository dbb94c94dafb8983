"""A node with faults put into it on purpose; to the loop it looks like the node itself."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from visuomotor.launch.faulty_can import BadFrames
from visuomotor.launch.inject import Injection
from visuomotor.messages.node import Inputs, Node, Tick
from visuomotor.messages.schema import CameraFrame, Episode, Header, Message

JITTER_S = 0.02  # a step that comes so much early still releases what latency holds back
SPARED = "truth"  # no message of a vehicle: what measures a fault must not be hit by it


class SteppingClock:
    """The monotonic clock of one process, which can be set."""

    def __init__(self, now_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._now_ns = now_ns
        self.offset_ns = 0

    def __call__(self) -> int:
        """Nanoseconds."""
        return self._now_ns() + self.offset_ns


class BrokenNetwork:
    """A policy whose network returns numbers that are none while ``broken``."""

    def __init__(self, policy: Any, number: float) -> None:
        self._policy = policy
        self._number = number
        self.broken = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    def act(self, inputs: Any) -> np.ndarray:
        """As the policy."""
        action: np.ndarray = self._policy.act(inputs)
        return np.full_like(action, self._number) if self.broken else action


class FaultyNode:
    """Wraps a node. Raises ValueError for a fault that this node cannot have."""

    def __init__(self, node: Node, faults: Sequence[Injection], clock: SteppingClock | None = None) -> None:
        self._node = node
        self._faults = tuple(faults)
        self.name = node.name
        self.inputs = node.inputs
        self.outputs = node.outputs
        self.period_s = node.period_s
        self._clock = clock or SteppingClock()
        self._networks = {f: self._break_network(f) for f in self._faults if f.kind == "network"}
        self._frames = {f: self._break_can(f) for f in self._faults if f.kind == "can"}
        self._forget()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)  # stages, provider, finished: whatever the loop looks for

    def _break_network(self, fault: Injection) -> BrokenNetwork:
        if not hasattr(self._node, "policy"):
            raise ValueError(f"--inject: network:{fault.target}: node {self.name} has no network of a policy")
        self._node.policy = BrokenNetwork(self._node.policy, float(fault.target))
        return self._node.policy

    def _break_can(self, fault: Injection) -> BadFrames:
        link = getattr(self._node, "link", None)
        if link is None:
            raise ValueError(f"--inject: can:{fault.target}: node {self.name} is on no CAN bus")
        frames = BadFrames(link.transmit, fault.target)
        link.transmit = frames
        return frames

    def _forget(self) -> None:
        self._start_ns: int | None = None
        self._done: set[Injection] = set()
        self._held: deque[tuple[float, dict[str, Message]]] = deque()
        self._images: dict[str, np.ndarray] = {}
        for broken in self._networks.values():
            broken.broken = False
        for frames in self._frames.values():
            frames.bad = False

    def warm_up(self) -> None:
        """As the node."""
        self._node.warm_up()

    def reset(self, episode: Episode) -> None:
        """As the node; the faults' own clock and random stream start anew."""
        self._forget()
        self._random = np.random.default_rng([episode.seed, len(self.name), *self.name.encode()])
        self._node.reset(episode)

    def step(self, tick: Tick, inputs: Inputs) -> Mapping[str, Message]:
        """As the node, under the faults that are on now."""
        t_ns = tick.t_ns - (self._clock.offset_ns if tick.clock == "realtime" else 0)
        if self._start_ns is None:
            self._start_ns = t_ns
        now_s = (t_ns - self._start_ns) * 1e-9
        acting = [f for f in self._faults if f.acts(now_s)]
        for fault in acting:
            self._happen(fault)
        for fault, broken in self._networks.items():
            broken.broken = fault in acting
        for fault, frames in self._frames.items():
            frames.bad = fault in acting
        outputs = dict(self._node.step(tick, inputs))
        truth = outputs.pop(SPARED, None)
        for fault in acting:
            outputs = self._spoil(fault, outputs)
        self._keep_images(outputs)
        latency_s = max((f.amount for f in acting if f.kind == "latency"), default=0.0)
        if latency_s > 0.0 or self._held:
            outputs = self._hold(outputs, now_s, latency_s, _stamp(self._node, tick, inputs))
        return outputs if truth is None else outputs | {SPARED: truth}

    def _happen(self, fault: Injection) -> None:
        """What befalls the process, before the node's step."""
        if fault.kind == "delay":
            time.sleep(fault.amount)
        if fault in self._done:
            return
        self._done.add(fault)
        match fault.kind:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "freeze":
                time.sleep(fault.amount)
            case "clock":
                self._clock.offset_ns += round(fault.amount * 1e9)
            case "full":
                fill_disk()

    def _spoil(self, fault: Injection, outputs: dict[str, Message]) -> dict[str, Message]:
        """What is left of the messages of one step."""
        meant = {s: m for s, m in outputs.items() if fault.target in ("", s)}
        match fault.kind:
            case "drop":
                return {} if self._random.random() < fault.amount else outputs
            case "loss":
                return {s: m for s, m in outputs.items() if self._random.random() >= fault.amount}
            case "mute":
                return {s: m for s, m in outputs.items() if s not in meant}
            case "nan" | "inf":
                for message in outputs.values():
                    _fill_numbers(message, float(fault.kind))
            case "stuck" | "black":
                for service, message in meant.items():
                    if isinstance(message, CameraFrame):
                        image = np.asarray(message.image)
                        shown = np.zeros_like(image) if fault.kind == "black" else self._images.get(service, image)
                        outputs[service] = CameraFrame(header=message.header, image=shown)
        return outputs

    def _keep_images(self, outputs: Mapping[str, Message]) -> None:
        if any(f.kind == "stuck" for f in self._faults):
            self._images |= {s: np.asarray(m.image) for s, m in outputs.items() if isinstance(m, CameraFrame)}

    def _hold(self, outputs: dict[str, Message], now_s: float, latency_s: float, header: Header) -> dict[str, Message]:
        """Put the messages of this step aside and return those whose time has come, of one step at a time."""
        for message in outputs.values():
            message.header.t_capture_ns = message.header.t_capture_ns or header.t_capture_ns
            message.header.parents = message.header.parents or header.parents
        self._held.append((now_s + latency_s - JITTER_S, outputs))
        return self._held.popleft()[1] if self._held[0][0] <= now_s else {}

    def close(self) -> None:
        """As the node."""
        self._node.close()


def _stamp(node: Node, tick: Tick, inputs: Inputs) -> Header:
    """Capture time and parents that the loop would give to what is sent now."""
    found = [inputs[i.service].message for i in sorted(node.inputs, key=lambda i: not i.trigger) if i.lag == 0]
    origin = next((m for m in found if m is not None), None)
    parents = {s: sample.message.header.seq for s, sample in inputs.items() if sample.message is not None}
    return Header(t_capture_ns=tick.t_ns if origin is None else origin.header.t_capture_ns, parents=parents)


def _fill_numbers(message: Message, number: float) -> None:
    """Overwrite every floating-point number of a message, whatever its shape."""
    for field in message.__struct_fields__:
        value = getattr(message, field)
        if isinstance(value, float):
            setattr(message, field, number)
        elif isinstance(value, tuple) and value and all(isinstance(v, float) for v in value):
            setattr(message, field, (number,) * len(value))
        elif isinstance(value, np.ndarray) and value.dtype.kind == "f":
            setattr(message, field, np.full_like(value, number))


def fill_disk() -> None:
    """From here on every write to a file that this process has open fails as on a full disk, with ENOSPC."""
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        for entry in os.listdir("/proc/self/fd"):
            descriptor = int(entry)
            with contextlib.suppress(OSError):  # the one that listed them is closed by now
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    continue
                with open(f"/proc/self/fdinfo/{descriptor}") as info:
                    flags = next(int(line.split()[1], 8) for line in info if line.startswith("flags"))
                if flags & os.O_ACCMODE != os.O_RDONLY:
                    os.dup2(full, descriptor)
    finally:
        os.close(full)
