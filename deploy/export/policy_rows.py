"""What a policy of each task sees, does and must keep to, as data: one row per task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from visuomotor.control.arm.config import ACTION_NAMES, LIMITS
from visuomotor.control.arm.policy import PICK
from visuomotor.control.arm.policy_node import PolicyNode as ArmPolicyNode
from visuomotor.control.config import ENVELOPE
from visuomotor.control.network import Interface
from visuomotor.control.policy import DRIVE
from visuomotor.control.policy_node import PolicyNode
from visuomotor.messages.node import Node


@dataclass(frozen=True, kw_only=True)
class PolicyRow:
    """One row."""

    interface: Interface[Any]
    node: Callable[[Any], Node]  # of a policy
    environment: str  # whose spaces a policy of this task was trained on
    action: str  # meaning of ``action_norm``
    limits: msgspec.Struct
    title: str


POLICIES: dict[str, PolicyRow] = {
    row.interface.task: row
    for row in (
        PolicyRow(
            interface=DRIVE,
            node=PolicyNode,
            environment="visuomotor/Drive-v1",
            action="acceleration, lateral target: control.action.decode",
            limits=ENVELOPE,
            title="Driving policy",
        ),
        PolicyRow(
            interface=PICK,
            node=ArmPolicyNode,
            environment="visuomotor/Pick-v1",
            action=f"{', '.join(ACTION_NAMES)}: control.arm.action.decode",
            limits=LIMITS,
            title="Picking policy",
        ),
    )
}


def get_policy_row(name: str) -> PolicyRow:
    """The row of a task; ValueError with the known names when there is none."""
    if name not in POLICIES:
        raise ValueError(f"task: expected one of {', '.join(POLICIES)}, got {name!r}")
    return POLICIES[name]
