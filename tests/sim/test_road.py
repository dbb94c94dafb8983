import numpy as np
import pytest

from visuomotor.sim.road import (
    LEAD_IN_M,
    MAX_LATERAL_ACCELERATION_MPS2,
    Road,
    RoadBatch,
    RoadParameters,
    random_road,
)

SEEDS = range(40)


def make(seed: int) -> Road:
    return Road(random_road(np.random.default_rng(seed)))


def straight(**changes: object) -> Road:
    fields: dict = {"lane_count": 2, "length_m": 400.0, "speed_limit_mps": 12.0, "segments": ((900.0, 0.0, 0.0),)}
    return Road(RoadParameters(**{**fields, **changes}))


def test_the_same_stream_makes_the_same_road_and_another_does_not() -> None:
    assert random_road(np.random.default_rng(3)) == random_road(np.random.default_rng(3))
    assert random_road(np.random.default_rng(3)) != random_road(np.random.default_rng(4))


def test_roads_are_within_the_stated_ranges() -> None:
    roads = [make(seed) for seed in SEEDS]
    assert {road.lane_count for road in roads} == {2, 3, 4}
    for road in roads:
        assert 400.0 <= road.length_m <= 800.0
        assert 8.0 <= road.speed_limit_mps <= 15.0
        assert road.line_s_m[0] == -LEAD_IN_M
        assert np.all(np.diff(road.line_s_m) == 1.0)
        assert road.left_edge_m - road.right_edge_m == pytest.approx(3.5 * road.lane_count)


def test_lateral_acceleration_at_the_limit_is_bounded_on_every_lane() -> None:
    worst = []
    for seed in SEEDS:
        road = make(seed)
        for lane in range(road.lane_count):
            curvature = road.line_curvature / (1.0 - road.line_curvature * lane * road.lane_width_m)
            worst.append(np.abs(curvature).max() * road.speed_limit_mps**2)
    assert max(worst) <= MAX_LATERAL_ACCELERATION_MPS2 + 1e-6
    assert max(worst) > 0.8 * MAX_LATERAL_ACCELERATION_MPS2  # and curves are really there


def test_curvature_is_continuous() -> None:
    for seed in SEEDS:
        road = make(seed)
        jerk = np.abs(np.diff(road.line_curvature)) * road.speed_limit_mps**3
        assert jerk.max() < 3.2  # m/s3 along a clothoid at the limit: no jump of curvature


def test_the_line_has_the_heading_and_curvature_that_it_states() -> None:
    for seed in range(8):
        road = make(seed)
        s = np.arange(-100.0, road.length_m + 100.0, 0.37)
        ahead, behind = road.cartesian(s + 0.05, np.zeros_like(s)), road.cartesian(s - 0.05, np.zeros_like(s))
        step = ahead - behind
        assert np.allclose(np.hypot(step[:, 0], step[:, 1]), 0.1, atol=1e-4)
        turned = np.arctan2(step[:, 1], step[:, 0]) - road.heading(s)
        assert np.abs(np.arctan2(np.sin(turned), np.cos(turned))).max() < 2e-3
        assert np.allclose(np.gradient(road.heading(s), s)[1:-1], road.curvature(s)[1:-1], atol=1e-3)


def test_frenet_inverts_cartesian_over_the_whole_road() -> None:
    for seed in SEEDS:
        road = make(seed)
        rng = np.random.default_rng(seed)
        s = rng.uniform(-150.0, road.length_m + 200.0, 300)
        d = rng.uniform(road.right_edge_m - 3.0, road.left_edge_m + 3.0, 300)
        back_s, back_d = road.frenet(road.cartesian(s, d))
        assert np.abs(back_s - s).max() < 2e-3
        assert np.abs(back_d - d).max() < 1e-3


def test_shapes_are_kept_and_empty_input_is_fine() -> None:
    road = make(0)
    xy = road.cartesian(np.zeros((3, 4)), np.ones((3, 4)))
    assert xy.shape == (3, 4, 2)
    s, d = road.frenet(xy)
    assert s.shape == d.shape == (3, 4)
    assert road.cartesian(5.0, 0.0).shape == (2,)
    s, d = road.frenet(np.zeros((0, 2)))
    assert s.shape == d.shape == (0,)


def test_a_straight_road_runs_along_x_from_the_origin() -> None:
    road = straight()
    assert np.allclose(road.cartesian(np.array([0.0, 10.5]), np.array([0.0, 3.5])), [[0.0, 0.0], [10.5, 3.5]])


def test_the_road_never_turns_back_on_itself() -> None:
    for seed in SEEDS:
        heading = make(seed).line_heading_rad
        assert heading.max() - heading.min() < np.pi


def test_a_batch_gives_each_world_its_own_road() -> None:
    roads = [make(seed) for seed in range(5)]
    batch = RoadBatch(5)
    for index, road in enumerate(roads):
        batch.set_road(index, road)
    s = np.linspace(-100.0, 500.0, 7)[None].repeat(5, axis=0)
    xy = batch.cartesian(s, np.full_like(s, 2.0))
    for index, road in enumerate(roads):
        assert np.array_equal(xy[index], road.cartesian(s[index], np.full(7, 2.0)))
    back_s, back_d = batch.frenet(xy, s + 3.0)
    assert np.abs(back_s - s).max() < 1e-3
    assert np.abs(back_d - 2.0).max() < 1e-3
    again = RoadBatch(5)
    again.set_road(3, roads[3])
    assert np.array_equal(again.line(s)[0][3], batch.line(s)[0][3])  # whatever stands in the other rows
