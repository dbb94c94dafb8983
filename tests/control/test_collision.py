"""The guard's geometry beside a second, slow account of it, one track and one moment at a time, and at its edges."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest

from visuomotor.control.collision import COLLISION, CollisionSettings, Threat, find_threat
from visuomotor.control.config import VEHICLE
from visuomotor.control.inputs import DriveInputs
from visuomotor.messages.schema import CAR, CONE, PEDESTRIAN

Make = Callable[..., DriveInputs]
OLD = np.full(32, 5.0)
SHORT = CollisionSettings(horizon_s=2.0, step_s=0.2, arc_s=0.9, lateral_s=0.6, delay_s=0.3, margin_m=0.8)


def account(inputs: DriveInputs, angle: float, settings: CollisionSettings) -> Threat:
    """What ``find_threat`` says in words: for each track, go through the moments, and see what it takes."""
    scene, speed = inputs.scene, float(inputs.speed_mps[0])
    tangent = math.tan(angle)
    bend = tangent / math.hypot(1.0, 0.5 * tangent) / VEHICLE.wheelbase_m - float(scene.curvature_pm[0])
    moments = [settings.step_s * k for k in range(1, round(settings.horizon_s / settings.step_s) + 1)]
    worst = Threat()
    for slot in np.flatnonzero(scene.present[0]):
        s, half_s = float(scene.s_m[0, slot]), float(scene.half_s_m[0, slot])
        gap = s - half_s - VEHICLE.length_m / 2
        if gap <= -1.0:
            continue
        gap = max(gap, 0.0)
        closing = speed - float(scene.s_speed_mps[0, slot])
        contact, last = math.inf, 0.0
        for t in moments:
            swaying, curving = min(t, settings.lateral_s), min(t, settings.arc_s)
            sway = float(scene.ego_d_m[0]) + float(scene.lateral_velocity_mps[0]) * swaying
            sway += bend * speed**2 * (curving**2 / 2 + curving * max(swaying - curving, 0.0))
            away = float(scene.d_m[0, slot]) + float(scene.d_speed_mps[0, slot]) * swaying - sway
            if abs(away) >= float(scene.half_d_m[0, slot]) + VEHICLE.width_m / 2 + settings.side_margin_m:
                continue
            last = t
            if contact == math.inf and 0.0 < closing * t - gap < VEHICLE.length_m + 2 * half_s:
                contact = t
        if contact == math.inf:
            continue
        margin = min(settings.margin_m, 0.3 * gap)
        required = closing**2 / (2 * max(gap - margin - closing * settings.delay_s, 0.05))
        if last < moments[-1]:
            clear = last + settings.step_s
            time_left = max(clear - settings.delay_s, 0.05)
            required = min(required, 2 * (closing * clear - gap + margin) / time_left**2)
        if required > worst.required_mps2:
            worst = Threat(required, contact, int(slot))
    return worst


@pytest.mark.parametrize("settings", [COLLISION, SHORT])
@pytest.mark.parametrize("seed", range(40))
def test_threat_is_that_of_the_slow_account(make_inputs: Make, seed: int, settings: CollisionSettings):
    rng = np.random.default_rng(seed)
    agents = [
        {
            "s": rng.uniform(1.0, 30.0),
            "d": 3.5 + rng.normal(0.0, 2.0),
            "speed": rng.choice([0.0, rng.uniform(-3.0, 8.0)]),
            "across": rng.choice([0.0, rng.normal(0.0, 3.0)]),
            "kind": int(rng.choice([CAR, PEDESTRIAN, CONE])),
        }
        for _ in range(int(rng.integers(1, 5)))
    ]
    yaw, steering, angle = rng.normal(0.0, 0.06), rng.normal(0.0, 0.05), float(rng.normal(0.0, 0.05))
    inputs = make_inputs(
        agents,
        speed=float(rng.uniform(1.0, 14.0)),
        curvature=float(rng.choice([0.0, 0.015, -0.015])),
        odom_pose=np.array([[0.0, rng.normal(0.0, 0.3), yaw]]),
        steering_angle_rad=np.array([steering]),
    )
    found, expected = find_threat(inputs, angle, OLD, settings), account(inputs, angle, settings)
    assert found.slot == expected.slot
    assert found.time_s == pytest.approx(expected.time_s)
    assert found.required_mps2 == pytest.approx(expected.required_mps2, rel=1e-4)


def ahead(make_inputs: Make, s: float, speed: float = 10.0, **agent: float) -> DriveInputs:
    return make_inputs([{"s": s, "d": 3.5, **agent}], speed=speed)


def test_contact_begins_past_the_bumper(make_inputs: Make):
    assert find_threat(ahead(make_inputs, 14.5), 0.0, OLD).time_s == pytest.approx(1.1)  # a gap of 10 m
    assert find_threat(ahead(make_inputs, 14.4), 0.0, OLD).time_s == pytest.approx(1.0)


def test_who_crosses_as_the_car_has_just_passed_is_no_threat(make_inputs: Make):
    crossing = {"d": 3.5 - 100.0, "across": 100.0}  # in the way at 1.0 s alone, when 10 m are driven
    assert find_threat(ahead(make_inputs, 5.5, **crossing), 0.0, OLD) == Threat()  # 1 m, and both lengths
    assert find_threat(ahead(make_inputs, 5.75, **crossing), 0.0, OLD).slot == 0


@pytest.mark.parametrize(("s", "threat"), [(3.5, False), (3.75, True)])
def test_what_overlaps_by_a_metre_is_beside(make_inputs: Make, s: float, threat: bool):
    assert (find_threat(ahead(make_inputs, s), 0.0, OLD) != Threat()) is threat


@pytest.mark.parametrize("s", [0.0, -4.0])
def test_what_is_behind_is_no_threat_whatever_size_it_claims(make_inputs: Make, s: float):
    inputs = dataclasses.replace(ahead(make_inputs, s), track_size_m=np.full((1, 32, 2), -30.0))
    assert find_threat(inputs, 0.0, OLD) == Threat()


@pytest.mark.parametrize(("speed", "slot"), [(0.05, -1), (0.1, 0), (-5.0, -1)])
def test_a_car_that_hardly_moves_threatens_nobody(make_inputs: Make, speed: float, slot: int):
    assert find_threat(ahead(make_inputs, 4.6, speed), 0.0, OLD).slot == slot


def test_the_edge_of_the_way_is_beside_it(make_inputs: Make):
    # half a car's width each, and 0.1 m: representable, so that the edge can be met
    settings = CollisionSettings(side_margin_m=0.25)
    wide = dataclasses.replace(ahead(make_inputs, 10.0), track_size_m=np.full((1, 32, 2), 0.7))
    for d, slot in ((1.5, -1), (1.4375, 0)):
        beside = dataclasses.replace(wide, track_position_m=np.tile(np.array([10.0, d]), (1, 32, 1)))
        assert find_threat(beside, 0.0, OLD, settings).slot == slot, d


def test_a_gap_of_nothing_at_all_requires_all(make_inputs: Make):
    threat = find_threat(ahead(make_inputs, 4.0), 0.0, OLD)  # overlaps by half a metre
    assert threat.required_mps2 == pytest.approx(100.0 / (2 * 0.05))
    assert threat.time_s == pytest.approx(0.1)


def test_who_drives_away_from_an_overlap_is_no_threat(make_inputs: Make):
    assert find_threat(ahead(make_inputs, 4.0, speed=10.0), 0.0, OLD).slot == 0
    assert find_threat(make_inputs([{"s": 4.0, "d": 3.5, "speed": 11.0}], speed=10.0), 0.0, OLD) == Threat()


def test_age_and_time_unseen_at_their_edges(make_inputs: Make):
    inputs = ahead(make_inputs, 14.0)
    settings = CollisionSettings(min_age_s=0.25, max_unseen_s=0.25)
    for unseen, age, slot in ((0.25, 0.25, 0), (0.2501, 0.25, -1), (0.25, 0.2499, -1)):
        unseen_for = dataclasses.replace(inputs, track_unseen_s=np.full((1, 32), unseen))
        assert find_threat(unseen_for, 0.0, np.full(32, age), settings).slot == slot, (unseen, age)


def test_who_has_left_by_the_last_moment_need_only_be_arrived_late_for(make_inputs: Make):
    settings = CollisionSettings(lateral_s=3.0)
    inputs = ahead(make_inputs, 29.5, across=1.9 / 2.95)  # a gap of 25 m; in the way until 2.9 s, out of it at 3.0 s
    late = 2.0 * (10.0 * 3.0 - 25.0 + 0.5) / (3.0 - 0.2) ** 2
    assert find_threat(inputs, 0.0, OLD, settings).required_mps2 == pytest.approx(late, rel=1e-4)
    stays = ahead(make_inputs, 29.5, across=1.9 / 3.05)
    short = 10.0**2 / (2.0 * (25.0 - 0.5 - 2.0))
    assert find_threat(stays, 0.0, OLD, settings).required_mps2 == pytest.approx(short, rel=1e-4)


def test_who_leaves_at_once_is_given_the_least_time(make_inputs: Make):
    threat = find_threat(ahead(make_inputs, 5.5, 15.0, across=15.0), 0.0, OLD)  # in the way for 0.1 s, a gap of 1 m
    assert threat.required_mps2 == pytest.approx(2.0 * (3.0 - 1.0 + 0.3) / 0.05**2, rel=1e-4)
