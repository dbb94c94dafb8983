"""Faults put into a run on purpose: how they are written on the command line. ``launch.faulty_node`` does them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Literal

import msgspec

SUPERVISOR = "supervisor"  # may be killed like a node
FORM = "node=KIND[:VALUE][@START[..END]],... as in delay:80ms,drop:5%,freeze:1s@10s,kill@12s"

Kind = Literal[
    "delay", "latency", "drop", "loss", "freeze", "kill", "clock", "full", "mute", "stuck", "black", "nan", "inf",
    "network", "can",
]  # fmt: skip
CAN_FAULTS = ("checksum", "counter", "foreign", "flood")
NETWORK_FAULTS = ("nan", "inf")
HELP = (
    "Faults, repeatable: node=KIND[:VALUE][@START[..END]],... with times of the episode. KIND is delay:80ms (before "
    "each step), latency:200ms (of what it sends), drop:5% (of steps), loss:30% (of messages), freeze:1s@10s, kill@12s "
    "(also of 'supervisor'), clock:+3s@5s (steps by), full@5s (its disk), mute[:SERVICE], stuck[:CAMERA] or "
    "black[:CAMERA] (world), nan or inf (in what it sends), network:nan|inf (policy), "
    f"can:{'|'.join(CAN_FAULTS)} (behind CAN). See docs/faults.md."
)

_TIME = r"\d{1,9}(?:\.\d{1,9})?(?:ms|s)"
_FAULT = re.compile(rf"(?P<kind>[a-z]+)(?::(?P<value>[^@]+))?(?:@(?P<start>{_TIME})(?:\.\.(?P<end>{_TIME}))?)?")
_AT_ONCE = ("freeze", "kill", "clock", "full")  # happen at a moment, which must be said


class Injection(msgspec.Struct, frozen=True, kw_only=True):
    """One fault of one node; times are since the start of an episode, ``end_s`` None is for ever.

    ``amount`` is in seconds (delay, latency, freeze, clock) or a share (drop, loss); ``target`` is a service, or a word
    of CAN_FAULTS or NETWORK_FAULTS; empty stands for all services that can be meant.
    """

    text: str = ""  # as it was written
    kind: Kind
    amount: float = 0.0
    target: str = ""
    start_s: float = 0.0
    end_s: float | None = None

    def acts(self, now_s: float) -> bool:
        """Whether it is on at this time of the episode."""
        return self.start_s <= now_s and (self.end_s is None or now_s < self.end_s)


def parse_injections(texts: Iterable[str], nodes: Mapping[str, Collection[str]]) -> dict[str, tuple[Injection, ...]]:
    """Node -> faults, from texts such as ``perception=delay:80ms,kill@12s`` and the services that each node sends.

    Raises ValueError that quotes what was not understood and the form that is.
    """
    parsed: dict[str, tuple[Injection, ...]] = {}
    for text in texts:
        node, equals, rest = text.partition("=")
        if not equals or not rest:
            raise ValueError(f"--inject: expected {FORM}, got {text!r}")
        if node not in nodes and node != SUPERVISOR:
            raise ValueError(f"--inject: no node {node!r}; expected one of {', '.join(nodes)}, {SUPERVISOR}")
        for part in rest.split(","):
            fault = _parse_fault(part, text)
            _check_target(fault, part, node, nodes.get(node, ()))
            parsed[node] = (*parsed.get(node, ()), fault)
    return parsed


def _parse_fault(part: str, text: str) -> Injection:
    match = _FAULT.fullmatch(part)
    understood = match is not None and _read(match["kind"], match["value"] or "")
    if match is None or not understood or (match["kind"] in _AT_ONCE and (match["start"] is None or match["end"])):
        raise ValueError(f"--inject: {part!r} in {text!r} is not understood; expected {FORM}")
    amount, target = understood
    start_s, end_s = _seconds(match["start"] or "0s"), _seconds(match["end"]) if match["end"] else None
    if end_s is not None and end_s <= start_s:
        raise ValueError(f"--inject: {part!r} in {text!r}: expected an end after the start")
    return Injection(text=part, kind=match["kind"], amount=amount, target=target, start_s=start_s, end_s=end_s)  # type: ignore[arg-type]


def _read(kind: str, value: str) -> tuple[float, str] | None:
    """Amount and target that a kind's value stands for; None when it cannot."""
    match kind:
        case "delay" | "latency" | "freeze" if re.fullmatch(_TIME, value):
            return _seconds(value), ""
        case "clock" if re.fullmatch(rf"[+-]{_TIME}", value):
            return _seconds(value), ""
        case "drop" | "loss" if re.fullmatch(r"\d+(\.\d+)?%", value) and float(value[:-1]) <= 100.0:
            return float(value[:-1]) / 100.0, ""
        case "kill" | "full" | "nan" | "inf" if not value:
            return 0.0, ""
        case "mute" | "stuck" | "black":
            return 0.0, value
        case "can" if value in CAN_FAULTS:
            return 0.0, value
        case "network" if value in NETWORK_FAULTS:
            return 0.0, value
    return None


def _check_target(fault: Injection, part: str, node: str, sends: Collection[str]) -> None:
    if node == SUPERVISOR and fault.kind != "kill":
        raise ValueError(f"--inject: {part!r}: of the {SUPERVISOR} only kill is possible")
    if fault.kind in ("stuck", "black"):
        sends = [service for service in sends if service.startswith("camera_")]
        if not sends:
            raise ValueError(f"--inject: {part!r}: node {node} sends no camera")
    if fault.kind in ("mute", "stuck", "black") and fault.target and fault.target not in sends:
        raise ValueError(f"--inject: {part!r}: node {node} sends no {fault.target}; expected {', '.join(sends)}")


def _seconds(text: str) -> float:
    return float(text[:-2]) * 1e-3 if text.endswith("ms") else float(text[:-1])
