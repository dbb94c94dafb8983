"""What this stack runs for each task, as data: modules of its nodes, suites, baselines, measures, pictures.

The only module of ``launch`` that names the tasks, beside the profiles and the commands that bear their names. Modules
are strings, so that a robot's computer needs nothing of what only the simulator has.
"""

from __future__ import annotations

import importlib
from typing import Any

import msgspec

from visuomotor.messages.tasks import DEFAULT_TASK, TASKS, Task

VEHICLE = "vehicle"  # a profile of real hardware, whose robot is that of the task which names it among its kinds


class TaskParts(msgspec.Struct, frozen=True, kw_only=True):
    """One row. "module:name" strings are imported when they are needed, see ``load``."""

    task: Task
    robot: str  # what sentences call it
    does: str  # what its command does, in one
    kinds: tuple[str, ...] = ()  # of profiles of the same robot outside the simulator
    profile: str  # shipped; what its commands start from
    suite: str  # what is run when none is said
    suites: str  # mapping of suites by name
    world: str
    can_world: str = ""  # the simulated robot behind a CAN bus; empty: has none
    world_inputs: tuple[str, ...] = ("command",)
    policy: str
    guard: str
    baseline_policies: tuple[str, ...]
    check_order: str = ""  # function that raises ValueError on the text of an order; empty: takes none
    metrics: str  # class as in ``evaluate.metrics.Metrics``
    report: str  # class as in ``report.parts.ReportPart``
    camera_tilt_rad: float  # pitch or roll of a camera that is still likely

    @property
    def name(self) -> str:
        """The task's."""
        return self.task.name

    @property
    def takes_orders(self) -> bool:
        """Whether it is told what to do in words."""
        return bool(self.check_order)


PARTS: dict[str, TaskParts] = {
    row.name: row
    for row in (
        TaskParts(
            task=TASKS["drive"],
            robot="car",
            does="Drive in simulated traffic on what the cameras see",
            kinds=(VEHICLE,),
            profile="drive",
            suite="drive-v1",
            suites="visuomotor.sim.scenario:SUITES",
            world="visuomotor.sim.node:create",
            can_world="visuomotor.sim.can_plant:create",
            policy="visuomotor.control.policy_node:create",
            guard="visuomotor.control.guard_node:create",
            baseline_policies=("idm", "random"),
            metrics="visuomotor.launch.evaluate.car:CarMetrics",
            report="visuomotor.launch.report.road:RoadPart",
            camera_tilt_rad=0.6,
        ),
        TaskParts(
            task=TASKS["pick"],
            robot="arm",
            does="Pick ordered parts off a running belt on what the camera sees",
            profile="pick",
            suite="pick-v1",
            suites="visuomotor.sim.cell.scenario:SUITES",
            world="visuomotor.sim.cell.node:create",
            world_inputs=("command", "operator"),
            policy="visuomotor.control.arm.policy_node:create",
            guard="visuomotor.control.arm.guard_node:create",
            baseline_policies=("scripted", "random"),
            check_order="visuomotor.control.arm.order:parse_order",
            metrics="visuomotor.launch.evaluate.arm:ArmMetrics",
            report="visuomotor.launch.report.cell:CellPart",
            camera_tilt_rad=1.7,  # they look down
        ),
    )
}
DEFAULT = PARTS[DEFAULT_TASK]  # what a command means that names no task
KINDS = tuple(dict.fromkeys([*PARTS, *(kind for row in PARTS.values() for kind in row.kinds)]))


def parts_of(kind: str) -> TaskParts:
    """The row of a task or of a profile's kind; ValueError with the known names when there is none."""
    for row in PARTS.values():
        if kind == row.name or kind in row.kinds:
            return row
    raise ValueError(f"task: expected one of {', '.join(KINDS)}, got {kind!r}")


def parts_of_suite(suite: str) -> TaskParts:
    """The row of the task that has this suite; ValueError with all suites when none has."""
    known: list[str] = []
    for row in PARTS.values():
        suites = load(row.suites)
        if suite in suites:
            return row
        known += suites
    raise ValueError(f"suite: expected one of {', '.join(known)}, got {suite!r}")


def load(name: str) -> Any:
    """The module "package.module", or what "package.module:name" names in it."""
    module, _, attribute = name.partition(":")
    found = importlib.import_module(module)
    return getattr(found, attribute) if attribute else found
