"""Visible shares by hand: alone, behind a car, behind a cone, at the edge of the view, behind the car's back."""

from types import SimpleNamespace

import numpy as np
import pytest

from visuomotor.sim.visibility import CameraArrays, visible

CAMERAS = CameraArrays(
    position_m=np.array([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]),
    height_m=np.array([1.4, 1.4, 1.4]),
    yaw_rad=np.array([0.0, 0.75 * np.pi, -0.75 * np.pi]),
    half_fov_rad=np.radians([40.0, 50.0, 50.0]),
    focal_px=np.array([229.0, 134.0, 134.0]),
)
CAR, CONE, PERSON = (4.5, 1.8, 1.5), (0.4, 0.4, 0.7), (0.5, 0.5, 1.7)


def scene(*agents, ego=(0.0, 0.0, 0.0), slots=6):
    """Agents as (x, y, yaw, size) in the map."""
    n = len(agents)
    present = np.zeros((1, slots), bool)
    present[0, :n] = True
    position, yaw, size = np.zeros((1, slots, 2)), np.zeros((1, slots)), np.ones((1, slots, 3))
    for i, (x, y, angle, extent) in enumerate(agents):
        position[0, i], yaw[0, i], size[0, i] = (x, y), angle, extent
    return SimpleNamespace(
        ego_pose=np.array([ego]), agent_present=present, agent_position_m=position, agent_yaw_rad=yaw, agent_size_m=size
    )


def test_agent_alone_is_wholly_visible_in_one_camera():
    shares = visible(scene((20.0, 0.0, 0.0, CAR)), CAMERAS)
    assert shares.shape == (1, 6, 3)
    assert shares.dtype == np.float32
    np.testing.assert_allclose(shares[0, 0], [1.0, 0.0, 0.0])
    assert not shares[0, 1:].any()


@pytest.mark.parametrize(
    ("bearing_deg", "camera"), [(0, 0), (35, 0), (-35, 0), (135, 1), (170, 1), (-135, 2), (100, 1)]
)
def test_camera_that_sees_a_bearing(bearing_deg, camera):
    angle = np.radians(bearing_deg)
    shares = visible(scene((20 * np.cos(angle), 20 * np.sin(angle), 0.0, PERSON)), CAMERAS)[0, 0]
    assert shares.argmax() == camera
    assert shares[camera] == pytest.approx(1.0)


def test_gap_between_the_cameras_is_blind():
    angle = np.radians(63.0)  # front ends at 40 degrees, left begins at 85
    assert not visible(scene((20 * np.cos(angle), 20 * np.sin(angle), 0.0, PERSON)), CAMERAS).any()


def test_agent_on_the_edge_of_the_view_is_half_visible():
    angle = np.radians(40.0)
    share = visible(scene((20 * np.cos(angle), 20 * np.sin(angle), 0.0, PERSON)), CAMERAS)[0, 0, 0]
    assert share == pytest.approx(0.5, abs=1e-3)


def test_car_hides_what_is_right_behind_it():
    shares = visible(scene((15.0, 0.0, 0.0, CAR), (30.0, 0.0, 0.0, PERSON)), CAMERAS)[0, :, 0]
    assert shares[0] == 1.0
    assert shares[1] < 0.1  # a head's breadth over the roof


def test_car_hides_half_of_a_neighbour_by_angle():
    # The near car spans +-0.9 m at 10 m, so +-1.8 m at 20 m; the far one reaches from 0.9 to 2.7 m.
    shares = visible(scene((10.0, 0.0, 0.0, CAR), (20.0, 1.8, 0.0, CAR)), CAMERAS)[0, :, 0]
    assert shares[1] == pytest.approx(0.5, abs=0.06)


def test_cone_hides_only_the_foot_of_a_person():
    shares = visible(scene((10.0, 0.0, 0.0, CONE), (14.0, 0.0, 0.0, PERSON)), CAMERAS)[0, :, 0]
    hidden = (1.4 - 0.7 * 14.0 / 10.0) / 1.7 * (0.4 / 10.0) / (0.5 / 14.0)
    assert shares[1] == pytest.approx(1.0 - min(hidden, 1.0), abs=0.06)
    assert shares[1] > 0.6


def test_farther_agent_hides_nothing_and_slots_do_not_matter():
    a = visible(scene((30.0, 0.0, 0.0, PERSON), (15.0, 0.0, 0.0, CAR)), CAMERAS)[0, :2, 0]
    b = visible(scene((15.0, 0.0, 0.0, CAR), (30.0, 0.0, 0.0, PERSON)), CAMERAS)[0, :2, 0]
    np.testing.assert_allclose(a, b[::-1])
    assert a[1] == 1.0


def test_view_turns_with_the_ego():
    moved = scene((5.0, 25.0, 0.3, CAR), ego=(5.0, 5.0, 0.5 * np.pi))
    np.testing.assert_allclose(visible(moved, CAMERAS)[0, 0], [1.0, 0.0, 0.0])


def test_agent_straight_behind_wraps_around():
    shares = visible(scene((-20.0, 0.0, 0.0, CAR), (-40.0, 0.0, 0.0, CAR)), CAMERAS)[0]
    assert shares[0, 1] == pytest.approx(1.0)
    assert shares[1, 1] < 0.35


def test_no_agents():
    empty = scene()
    assert not visible(empty, CAMERAS).any()
