"""The nodes of a run as data: who they are, what they read and write, how they are configured and in which order."""

from __future__ import annotations

from typing import Any

import msgspec

from visuomotor.launch.profile import CanBus, Profile
from visuomotor.launch.tasks import VEHICLE as VEHICLE_KIND
from visuomotor.launch.tasks import load
from visuomotor.messages.node import Node

SOURCE = "world"  # the node that closes the loop: simulator, or the vehicle's cameras
VEHICLE = "vehicle"  # the car's end of the graph where it is behind a CAN bus
ENDS = frozenset({SOURCE, VEHICLE})  # nodes that touch the world: a replay plays them back and never runs them


class NodeSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One process. ``module`` is "package.module:factory"; the factory takes ``config`` and returns the node.

    The death of one that is not ``vital`` is told, and the drive goes on without it. ``restarted`` are the keys of
    ``config`` that are different when a dead one is started anew.
    """

    name: str
    module: str
    config: dict[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    vital: bool = True
    restarted: dict[str, Any] = {}

    def after_restart(self) -> NodeSpec:
        """The same node as it comes up in place of one that died."""
        return msgspec.structs.replace(self, config=self.config | self.restarted)


def make_table(profile: Profile, *, render: bool | None = None, run_dir: str = "") -> list[NodeSpec]:
    """The nodes of a profile, in the order in which they are started; they are stopped in the reverse one.

    ``render`` False leaves the cameras of the simulator off (default: on where something looks at them).
    """
    parts, cameras = profile.parts, tuple(profile.cameras)
    robot = (parts.task.state, parts.task.context)  # how it is, and what it is told to do
    looked_at = profile.perception.mode == "real" if render is None else render
    frames = cameras if looked_at or profile.task == VEHICLE_KIND else ()
    source = _make_cameras(profile, run_dir) if profile.task == VEHICLE_KIND else _make_world(profile, frames)
    behind_can = [] if profile.can is None else [_make_can_vehicle(profile, profile.can, run_dir)]
    mode = profile.perception.mode
    looks = profile.perception.detectors or dict.fromkeys(cameras, "")
    sees = {"real": tuple(c for c in cameras if c in looks), "truth": ("truth",), "blind": ()}[mode]
    return [
        source,
        *behind_can,
        NodeSpec(
            name="perception",
            module="visuomotor.perception.node:create",
            config={
                "task": parts.name,
                "cameras": [f for c, f in zip(cameras, profile.camera_files, strict=True) if c in looks],
                "detector": profile.perception.detectors,
                "forecaster": profile.perception.forecaster,
                "mode": mode,
                "device": profile.device,
                "threads": profile.threads,
                "runtime": profile.runtime.model_dump(),
            },
            inputs=(*sees, parts.task.state),
            outputs=(*(("detections",) if mode == "real" else ()), "tracks", "forecast"),
        ),
        NodeSpec(
            name="policy",
            module=parts.policy,
            config={
                "policy": profile.policy,
                "device": profile.device,
                "threads": profile.threads,
                "runtime": profile.runtime.model_dump(),
            },
            inputs=(*robot, "tracks", "forecast"),
            outputs=("policy_command",),
        ),
        NodeSpec(
            name="guard",
            module=parts.guard,
            config={"enabled": profile.guard},
            inputs=("policy_command", *robot, "tracks", "operator"),
            outputs=("command",),
            # Nobody knows why it died: a real car, or one with a driver, stands until a person resets the guard.
            restarted={"start_latched": True} if profile.task == VEHICLE_KIND or profile.can is not None else {},
        ),
    ]


def _make_world(profile: Profile, frames: tuple[str, ...]) -> NodeSpec:
    parts = profile.parts
    config: dict[str, Any] = {
        "suite": profile.suite,
        "split": profile.split,
        "cameras": profile.camera_files,
        "render": bool(frames),
        **_limit(profile),
    }
    if profile.can is not None:
        can = profile.can.model_dump()
        return NodeSpec(
            name=SOURCE,
            module=parts.can_world,
            config={**config, "driver": can.pop("driver"), "can": can},
            inputs=(),
            outputs=(*frames, parts.task.context, "truth"),
        )
    if parts.takes_orders:
        config |= {"order": profile.order, "order_changes": [change.model_dump() for change in profile.order_changes]}
    return NodeSpec(
        name=SOURCE,
        module=parts.world,
        config=config,
        inputs=parts.world_inputs,
        outputs=(*frames, parts.task.state, parts.task.context, "truth"),
    )


def _limit(profile: Profile) -> dict[str, float]:
    return {} if profile.max_duration_s is None else {"max_duration_s": profile.max_duration_s}


def _make_can_vehicle(profile: Profile, can: CanBus, run_dir: str) -> NodeSpec:
    outputs = {"summary": f"{run_dir}/can.json", "commands": f"{run_dir}/commands.csv"} if run_dir else {}
    return NodeSpec(
        name=VEHICLE,
        module="visuomotor.deploy.vehicle.can_node:create",
        config={**can.model_dump(exclude={"driver"}), **outputs, "stop_at_goal": profile.task == VEHICLE_KIND},
        inputs=("command", "route"),
        outputs=("vehicle_state", "operator"),
    )


def _make_cameras(profile: Profile, run_dir: str) -> NodeSpec:
    """The source on a vehicle; without a CAN bus it makes up the car's state, too, and takes the commands."""
    read, told = (("command",), ("vehicle_state",)) if profile.can is None else (("vehicle_state",), ())
    return NodeSpec(
        name=SOURCE,
        module="visuomotor.deploy.vehicle.node:create",
        config={
            "calibrations": profile.camera_files,
            "sources": {name: source.model_dump() for name, source in profile.sources.items()},
            "route": profile.route_file,
            "vehicle": None if profile.vehicle is None else profile.vehicle.model_dump(),
            "commands": f"{run_dir}/commands.csv" if run_dir else "",
            **_limit(profile),
            "summary": f"{run_dir}/vehicle.json" if run_dir else "",
        },
        inputs=read,
        outputs=(*profile.cameras, "route", *told),
    )


def create_node(spec: NodeSpec) -> Node:
    """Import the module and make the node. Raises ValueError that names the node when the module string is wrong."""
    module, _, factory = spec.module.partition(":")
    try:
        create = load(spec.module)
    except ModuleNotFoundError as error:
        if error.name != module:  # a dependency of the module is missing: that message is the better one
            raise
        raise ValueError(f"node {spec.name}: no module '{module}'") from error
    except AttributeError as error:
        raise ValueError(
            f"node {spec.name}: '{module}' has no '{factory}'; expected 'package.module:create'"
        ) from error
    node: Node = create(dict(spec.config))
    return node
