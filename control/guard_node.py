"""The car's guard as a node: policy_command in, command out, on each policy command and at least once per period."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from visuomotor.control.guard import Guard, GuardDecision, GuardSettings, GuardSituation
from visuomotor.control.guarding import GuardingNode
from visuomotor.control.inputs import DriveInputs, inputs_from_messages
from visuomotor.control.supervision import read_guard_settings
from visuomotor.messages.node import Input, Inputs
from visuomotor.messages.schema import Operator, PolicyCommand, Route, Tracks, VehicleState

LARGEST = 1e9  # of any number of a pose, a route or a track: past it float32 loses the metre, and sums overflow


class GuardNode(GuardingNode[Guard]):
    """Runs ``Guard``, which brakes when it does not know what to do."""

    inputs = (
        Input("policy_command", trigger=True),
        Input("vehicle_state"),
        Input("route"),
        Input("tracks"),
        Input("operator", optional=True),
    )

    def __init__(self, settings: GuardSettings | None = None) -> None:
        super().__init__(Guard(settings))

    def _move(self, decision: GuardDecision) -> Mapping[str, Any]:
        return {
            "acceleration_mps2": decision.acceleration_mps2,
            "steering_angle_rad": decision.steering_angle_rad,
        }

    def _situation(self, inputs: Inputs, dt_s: float) -> GuardSituation:
        wanted = inputs.get_message("policy_command", PolicyCommand)
        vehicle = self._get_fresh(inputs, "vehicle_state", VehicleState)
        route = self._get_fresh(inputs, "route", Route)
        tracks = self._get_fresh(inputs, "tracks", Tracks)
        if vehicle is not None and not _is_finite(vehicle):
            vehicle = None
        driving, age = None, None
        if vehicle is not None and route is not None and _is_line(route):
            driving, age = _gather(vehicle, route, tracks)
        return GuardSituation(
            command=None if wanted is None else (wanted.acceleration_mps2, wanted.steering_angle_rad),
            command_valid=wanted is not None and wanted.header.valid,
            command_age_s=inputs["policy_command"].age_s,
            vehicle_ok=vehicle is not None,
            inputs=driving,
            speed_mps=math.nan if vehicle is None else vehicle.speed_mps,
            track_age_s=age,
            operator=tuple(word.kind for word in inputs.drain("operator", Operator)),
            dt_s=dt_s,
        )


def _is_finite(vehicle: VehicleState) -> bool:
    values = (
        vehicle.speed_mps,
        vehicle.acceleration_mps2,
        vehicle.yaw_rate_radps,
        vehicle.steering_angle_rad,
        vehicle.odom_x_m,
        vehicle.odom_y_m,
        vehicle.odom_yaw_rad,
    )
    return bool((np.abs(values) <= LARGEST).all())  # False for NaN


def _is_line(route: Route) -> bool:
    return len(route.odom_reference_m) >= 2 and bool((np.abs(route.odom_reference_m) <= LARGEST).all())


def _gather(vehicle: VehicleState, route: Route, tracks: Tracks | None) -> tuple[DriveInputs, np.ndarray]:
    """Inputs of the core and the age of each track slot, NaN where there is none; only tracks that are finite."""
    ages: dict[float, float] = {}
    if tracks is not None:
        tracks = _sane(tracks)
        for track, seconds in np.column_stack([tracks.track_id, tracks.age_s]).tolist():
            ages[track] = max(seconds, ages.get(track, seconds))  # a second one of that id must not make it a ghost
    driving = inputs_from_messages(vehicle, route, tracks, None)
    return driving, np.array([ages.get(track, math.nan) for track in driving.track_id.ravel().tolist()])


def _sane(tracks: Tracks) -> Tracks:
    numbers = np.concatenate(
        [
            tracks.odom_position_m,
            tracks.odom_velocity_mps,
            tracks.size_m,
            tracks.odom_heading_rad[:, None],
            tracks.age_s[:, None],
            tracks.unseen_s[:, None],
        ],
        axis=1,
    )
    keep = (np.abs(numbers) <= LARGEST).all(axis=1)
    if keep.all():
        return tracks
    rows = {
        field: value[keep]
        for field in tracks.__struct_fields__
        if isinstance(value := getattr(tracks, field), np.ndarray)
    }
    return msgspec.structs.replace(tracks, **rows)


def create(config: dict[str, Any]) -> GuardNode:
    """Node from ``GuardSettings`` fields. Raises ValueError that names a wrong key."""
    return GuardNode(read_guard_settings(config, GuardSettings))
