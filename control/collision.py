"""Whether the car is about to run into a track, and how hard it would have to brake: the guard's geometry."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np

from visuomotor.control.config import VEHICLE
from visuomotor.control.inputs import DriveInputs
from visuomotor.control.kinematics import curvature_for_steering


class CollisionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How far and how sharply the guard looks ahead."""

    horizon_s: float = 3.0
    step_s: float = 0.1
    arc_s: float = 0.5  # the commanded curvature is believed this long, then the course is
    lateral_s: float = 1.5  # lateral motion of car and tracks is extrapolated this long, then held
    delay_s: float = 0.2  # until brakes bite
    margin_m: float = 0.5  # bumper to bumper at the end
    side_margin_m: float = 0.1
    min_age_s: float = 0.25  # younger tracks may be ghosts
    max_unseen_s: float = 0.35  # longer unseen ones are guesses


COLLISION = CollisionSettings()


@dataclass(frozen=True)
class Threat:
    """The worst conflict on the predicted path: the deceleration it requires, and when it hits at present speed."""

    required_mps2: float = 0.0
    time_s: float = float("inf")
    slot: int = -1


def find_threat(
    inputs: DriveInputs,
    steering_angle_rad: float,
    age_s: np.ndarray,
    settings: CollisionSettings = COLLISION,
) -> Threat:
    """The track of the one world of ``inputs`` (B = 1) that requires the hardest braking, if any does.

    The car goes on along its arc and then its course, relative to the road; tracks keep their velocity in road
    coordinates. Passing before a crossing object, or after it, is no conflict. ``age_s`` [N] is the tracks' age.
    """
    scene = inputs.scene
    speed = inputs.speed_mps.item()
    (present,), (unseen_s,), (gap,) = scene.present, inputs.track_unseen_s, scene.gap_ahead_m
    solid = present & (age_s >= settings.min_age_s) & (unseen_s <= settings.max_unseen_s)
    slots = np.flatnonzero(solid & (gap > -1.0))  # what overlaps lengthwise is beside the car, not ahead of it
    if not len(slots) or speed < 0.1:
        return Threat()
    gap = np.maximum(gap[slots], 0.0)
    along, d, across, half_s, half_d = (
        row[slots] for (row,) in (scene.s_speed_mps, scene.d_m, scene.d_speed_mps, scene.half_s_m, scene.half_d_m)
    )

    time = np.arange(settings.step_s, settings.horizon_s + 1e-6, settings.step_s)
    sideways = np.minimum(time, settings.lateral_s)
    bend = float(curvature_for_steering(steering_angle_rad)) - scene.curvature_pm.item()
    arc = np.minimum(time, settings.arc_s)
    turned = bend * speed * speed * (0.5 * arc * arc + arc * np.maximum(sideways - arc, 0.0))
    ego_d = scene.ego_d_m.item() + scene.lateral_velocity_mps.item() * sideways + turned

    reach = half_d + VEHICLE.width_m / 2 + settings.side_margin_m
    abreast = np.abs(d[:, None] + across[:, None] * sideways - ego_d) < reach[:, None]
    closing = speed - along
    past = closing[:, None] * time - gap[:, None]  # how far the front bumper is past the near end
    length = VEHICLE.length_m + 2.0 * half_s
    hit = abreast & (past > 0.0) & (past < length[:, None])
    found = np.flatnonzero(hit.any(axis=1))
    if not len(found):
        return Threat()
    contact = time[hit[found].argmax(axis=1)]
    gap, closing, abreast = gap[found], closing[found], abreast[found]  # who is run into is closed in on
    margin = np.minimum(settings.margin_m, 0.3 * gap)  # a car that creeps up to a bumper is no emergency
    room = np.maximum(gap - margin - closing * settings.delay_s, 0.05)
    stop_short = np.square(closing) / (2.0 * room)
    # A crossing object may have left by the time a slower car arrives.
    steps = len(time)
    last = steps - 1 - abreast[:, ::-1].argmax(axis=1)
    clear = time[last] + settings.step_s
    braking = np.maximum(clear - settings.delay_s, 0.05)
    arrive_late = 2.0 * (closing * clear - gap + margin) / np.square(braking)
    required = np.where(last < steps - 1, np.minimum(stop_short, arrive_late), stop_short)
    worst = int(required.argmax())
    return Threat(float(required[worst]), float(contact[worst]), int(slots[found[worst]]))
