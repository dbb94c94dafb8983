from collections.abc import Iterator

import numpy as np
import pytest

from visuomotor.sim.drive import DriveWorlds
from visuomotor.sim.scenario import drive_case
from visuomotor.sim.sensors import HEADING_SIGMA_RAD, LATERAL_SIGMA_M, ROUTE_START_M, Sensors

COUNT = 6
TICKS = 150


class Log:
    """Two hundred ticks of slow driving in six worlds, lane keeping on truth."""

    def __init__(self) -> None:
        self.worlds = DriveWorlds(COUNT)
        self.sensors = Sensors(self.worlds)
        w, s = self.worlds, self.sensors
        for index in range(COUNT):
            w.reset(index, drive_case("drive-v1", "tune", 100 + index))
            s.reset(index)
        s.update()
        self.start = (s.odom_pose.copy(), s.route_m.copy())
        self.rows: dict[str, list[np.ndarray]] = {
            "route_error": [],
            "speed": [],
            "yaw_rate": [],
            "lateral": [],
            "angle": [],
        }
        self.truth_start = w.ego_pose.copy()
        for _ in range(TICKS):
            heading = np.array([r.heading(v) for r, v in zip(w.roads, w.ego_s_m, strict=True)])
            bend = np.array([r.curvature(v) for r, v in zip(w.roads, w.ego_s_m, strict=True)])
            lane = np.array([c.ego_lane * 3.5 for c in w.cases])
            angle = np.arctan(2.7 * bend) - 0.04 * (w.ego_d_m - lane) - 0.6 * (w.ego_pose[:, 2] - heading)
            w.step(0.5 * (6.0 - w.ego_speed_mps), angle)
            w.end[:] = 0
            s.update()
            self.note()

    def note(self) -> None:
        w, s = self.worlds, self.sensors
        self.rows["speed"].append(s.speed_mps - w.ego_speed_mps)
        self.rows["yaw_rate"].append(s.yaw_rate_radps - w.ego_yaw_rate_radps)
        lateral, angle = [], []
        for b in range(COUNT):
            s_m, d_m = w.roads[b].frenet(s.odom_to_map(b, s.route_m[b]))
            lateral.append(d_m[20])
            angle.append((d_m[40] - d_m[20]) / 40.0)
            assert abs(s_m[20] - w.ego_s_m[b]) < 2.0
        self.rows["lateral"].append(np.array(lateral))
        self.rows["angle"].append(np.array(angle))


@pytest.fixture(scope="module")
def log() -> Iterator[Log]:
    log = Log()
    yield log
    log.worlds.close()


def test_odom_starts_at_the_origin_and_drifts_little(log: Log) -> None:
    assert np.all(log.start[0] == 0.0)
    w, s = log.worlds, log.sensors
    for b in range(COUNT):
        c, sn = np.cos(log.truth_start[b, 2]), np.sin(log.truth_start[b, 2])
        moved = w.ego_pose[b, :2] - log.truth_start[b, :2]
        expected = np.array([c * moved[0] + sn * moved[1], c * moved[1] - sn * moved[0]])
        drift = np.hypot(*(s.odom_pose[b, :2] - expected))
        way = np.hypot(*moved)
        assert 0.0 < drift < 0.03 * way + 0.3
        turned = s.odom_pose[b, 2] - (w.ego_pose[b, 2] - log.truth_start[b, 2])
        assert abs(np.arctan2(np.sin(turned), np.cos(turned))) < 0.05


def test_speed_and_yaw_rate_are_noisy_about_the_truth(log: Log) -> None:
    speed, yaw_rate = np.array(log.rows["speed"]), np.array(log.rows["yaw_rate"])
    assert 0.01 < speed.std() < 0.08
    assert np.abs(speed).max() < 0.3
    assert 0.001 < yaw_rate.std() < 0.004


def test_localisation_errors_are_of_the_stated_size_and_wander_slowly(log: Log) -> None:
    lateral = np.array(log.rows["lateral"])
    assert 0.3 * LATERAL_SIGMA_M < np.sqrt((lateral**2).mean()) < 2.0 * LATERAL_SIGMA_M
    assert np.abs(lateral).max() < 5.0 * LATERAL_SIGMA_M
    assert np.abs(np.diff(lateral, axis=0)).max() < LATERAL_SIGMA_M  # no white noise: 0.16 sigma a step
    angle = np.array(log.rows["angle"])
    assert 0.3 * HEADING_SIGMA_RAD < np.sqrt((angle**2).mean()) < 2.0 * HEADING_SIGMA_RAD


def test_the_route_is_the_rightmost_lane_every_two_metres(log: Log) -> None:
    route = log.sensors.route_m
    assert route.shape == (COUNT, 81, 2)
    assert route.dtype == np.float32
    step = np.hypot(*np.moveaxis(np.diff(route, axis=1), -1, 0))
    assert np.abs(step - 2.0).max() < 0.01
    for b in range(COUNT):
        s_m, _ = log.worlds.roads[b].frenet(log.sensors.odom_to_map(b, route[b]))
        assert s_m[0] == pytest.approx(log.worlds.ego_s_m[b] + ROUTE_START_M, abs=2.0)


def test_transforms_invert_each_other_and_fix_the_ego(log: Log) -> None:
    w, s = log.worlds, log.sensors
    points = np.random.default_rng(0).uniform(-50, 50, (4, 5, 2))
    assert np.allclose(s.odom_to_map(2, s.map_to_odom(2, points)), points)
    assert np.allclose(s.map_to_odom(2, w.ego_pose[2, :2]), s.odom_pose[2, :2])


def test_static_facts_come_from_the_case(log: Log) -> None:
    for b, road in enumerate(log.worlds.roads):
        assert log.sensors.lane_count[b] == road.lane_count
        assert log.sensors.speed_limit_mps[b] == road.speed_limit_mps
        assert log.sensors.lane_width_m[b] == 3.5
        assert log.sensors.goal_distance_m[b] == pytest.approx(road.length_m - log.worlds.ego_s_m[b], abs=2.0)


def test_a_second_update_of_the_same_tick_changes_nothing(log: Log) -> None:
    before = log.sensors.odom_pose.copy(), log.sensors.speed_mps.copy(), log.sensors.route_m.copy()
    log.sensors.update()
    assert np.array_equal(before[0], log.sensors.odom_pose)
    assert np.array_equal(before[1], log.sensors.speed_mps)
    assert np.array_equal(before[2], log.sensors.route_m)


def test_standing_still_measures_no_speed_and_no_wander_of_odometry() -> None:
    worlds = DriveWorlds(1)
    sensors = Sensors(worlds)
    worlds.reset(0, drive_case("drive-v1", "tune", 0))
    sensors.reset(0)
    sensors.update()
    for _ in range(40):
        worlds.step(np.array([-8.0]), np.zeros(1))
        sensors.update()
    stood = sensors.odom_pose[0, :2].copy()
    for _ in range(50):
        worlds.step(np.array([-8.0]), np.zeros(1))
        sensors.update()
    assert abs(sensors.speed_mps[0]) < 0.01
    assert np.hypot(*(sensors.odom_pose[0, :2] - stood)) < 0.02
    worlds.close()
