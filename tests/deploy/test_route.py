"""Routes of a real car: files with waypoints, what is refused, and what is published around a pose."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from visuomotor.deploy.vehicle.route import COLUMNS, POINTS, RouteError, StraightRoad, load_route

HEADER = ",".join(COLUMNS)
Waypoints = list[tuple[float, float]]
STRAIGHT_ON: Waypoints = [(20.0 * i, 0.0) for i in range(11)]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(waypoints: Waypoints, rules: str = "2,3.5,10.0", name: str = "route.csv") -> Path:
        rows = [f"{x},{y}," + (rules if i == 0 else ",,") for i, (x, y) in enumerate(waypoints)]
        path = tmp_path / name
        path.write_text("\n".join([HEADER, *rows]) + "\n")
        return path

    return write


def test_a_straight_file_is_the_line_itself(write: Callable[..., Path]):
    route = load_route(write(STRAIGHT_ON))
    ahead = route.ahead((50.0, 1.0, 0.1))
    assert ahead.line_m.shape == (POINTS, 2)
    assert ahead.line_m.dtype == np.float32
    assert ahead.line_m[0] == pytest.approx((10.0, 0.0), abs=0.01)  # 40 m behind
    assert np.diff(ahead.line_m[:, 0]) == pytest.approx(2.0, abs=0.01)
    assert ahead.goal_distance_m == pytest.approx(150.0, abs=0.05)
    assert (ahead.lane_count, ahead.lane_width_m, ahead.speed_limit_mps) == (2, 3.5, 10.0)


def test_it_goes_straight_on_before_its_start_and_beyond_its_goal(write: Callable[..., Path]):
    route = load_route(write(STRAIGHT_ON))
    assert route.ahead((0.0, 0.0, 0.0)).line_m[0] == pytest.approx((-40.0, 0.0), abs=0.01)
    for x in range(0, 201, 5):
        ahead = route.ahead((float(x), 0.0, 0.0))
    assert ahead.line_m[-1] == pytest.approx((320.0, 0.0), abs=0.05)
    assert ahead.goal_distance_m == pytest.approx(0.0, abs=0.01)
    assert route.ahead((205.0, 0.0, 0.0)).goal_distance_m == 0.0


def test_few_waypoints_of_a_circle_become_a_circle(write: Callable[..., Path]):
    radius = 40.0
    angles = np.linspace(0.0, math.pi, 13)
    circle = [(radius * math.sin(a), radius * (1.0 - math.cos(a))) for a in angles]
    route = load_route(write(circle))
    assert route.length_m == pytest.approx(math.pi * radius, rel=2e-3)
    for a in np.linspace(0.5, 2.0, 8):
        pose = (radius * math.sin(a), radius * (1.0 - math.cos(a)), a)
        ahead = route.ahead(pose)
        from_centre = np.hypot(ahead.line_m[20:30, 0], ahead.line_m[20:30, 1] - radius)
        assert from_centre == pytest.approx(radius, abs=0.1)
        assert ahead.goal_distance_m == pytest.approx(radius * (math.pi - a), abs=0.3)


def test_limits_hold_from_their_waypoint_on_and_are_braked_for(tmp_path: Path):
    path = tmp_path / "route.yaml"
    path.write_text(
        "lane_count: 3\nlane_width_m: 3.25\nspeed_limit_mps: 13.0\nwaypoints:\n"
        + "".join(f"  - {{map_x_m: {20 * i}, map_y_m: 0}}\n" for i in range(10))
        + "  - {map_x_m: 200, map_y_m: 0, speed_limit_mps: 5.0, lane_count: 1}\n"
        + "  - {map_x_m: 260, map_y_m: 0}\n"
    )
    route = load_route(path)
    seen = {x: route.ahead((float(x), 0.0, 0.0)) for x in range(0, 260, 5)}
    assert (seen[0].lane_count, seen[0].lane_width_m, seen[0].speed_limit_mps) == (3, 3.25, 13.0)
    assert seen[180].speed_limit_mps == pytest.approx(math.sqrt(5.0**2 + 2 * 0.8 * 20.0), abs=0.1)
    assert seen[205].speed_limit_mps == seen[255].speed_limit_mps == 5.0
    assert seen[205].lane_count == 1


def test_a_road_driven_both_ways_is_taken_on_this_side_and_never_jumped_on(write: Callable[..., Path]):
    loop = [*STRAIGHT_ON, *[(200.0 + 20 * math.sin(a), 20 - 20 * math.cos(a)) for a in (0.8, 1.6, 2.4)]]
    there_and_back = [*loop, *[(x, 40.0) for x in range(200, -1, -20)]]
    route = load_route(write(there_and_back))
    back = route.ahead((100.0, 19.0, math.pi))
    assert back.goal_distance_m == pytest.approx(100.0, abs=1.0)
    route = load_route(write(there_and_back))
    route.ahead((90.0, 2.0, 0.0))
    assert route.ahead((100.0, 21.0, 0.0)).goal_distance_m > 200.0, "nearer to the other side, but that is far on"


def test_a_car_that_has_left_the_route_is_told(write: Callable[..., Path]):
    route = load_route(write(STRAIGHT_ON))
    assert route.ahead((50.0, 3.5, 0.0)).on_route
    assert route.ahead((50.0, 18.0, 0.0)).on_route, "15 m beyond the left lane"
    assert not route.ahead((50.0, 20.0, 0.0)).on_route
    assert not route.ahead((50.0, -16.0, 0.0)).on_route
    assert not route.ahead((150.0, 0.0, 0.0)).on_route, "positioning jumped by 100 m"


@pytest.mark.parametrize(
    ("pose", "message"),
    [
        ((500.0, 0.0, 0.0), r"not near the car, which is at \(500.0, 0.0\) m heading 0 deg"),
        ((201.0, 0.0, 0.0), "expected within"),
        ((-11.0, 0.0, 0.0), "expected within"),
        ((50.0, -11.0, 0.0), "expected within 10 m and 57 deg"),
        ((50.0, 0.0, 2.0), "turned by 115 deg"),
        ((50.0, 0.0, math.pi), "turned by 180 deg"),
    ],
)
def test_a_start_elsewhere_is_refused(write: Callable[..., Path], pose: tuple[float, float, float], message: str):
    with pytest.raises(RouteError, match=message):
        load_route(write(STRAIGHT_ON)).check_start(pose)


def test_a_start_in_any_lane_is_a_start(write: Callable[..., Path]):
    route = load_route(write(STRAIGHT_ON))
    for pose in [(0.0, 0.0, 0.0), (-5.0, 3.5, 0.3), (50.0, 13.0, -0.5)]:
        route.check_start(pose)


@pytest.mark.parametrize(
    ("waypoints", "message"),
    [
        ([(0.0, 0.0)], "too short: expected at least 2 waypoints, got 1"),
        ([(0.0, 0.0), (30.0, 0.0)], "too short: 30.0 m; expected at least 50 m"),
        ([*STRAIGHT_ON, (400.0, 0.0)], "jumps: waypoint 12 is 200.0 m from the one before; expected 0.1 to 100 m"),
        ([*STRAIGHT_ON, (200.0, 0.0)], "jumps: waypoint 12 is 0.0 m from the one before"),
        ([*STRAIGHT_ON, (150.0, 5.0)], "jumps: the line turns back by 174 deg at waypoint 11"),
        ([*STRAIGHT_ON, (201.0, 4.0), (260.0, 10.0)], "jumps: bends with a radius of .* m near waypoint 11"),
    ],
)
def test_waypoints_that_make_no_road(write: Callable[..., Path], waypoints: Waypoints, message: str):
    with pytest.raises(RouteError, match=f"route.csv: {message}"):
        load_route(write(waypoints))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y\n1,2\n", "expected a header line with map_x_m, map_y_m"),
        (f"{HEADER}\n0,0,,3.5,10\n", "waypoint 1: lane_count is missing"),
        (f"{HEADER}\n0,0,2.5,3.5,10\n", "waypoint 1: lane_count: expected a whole number from 1 to 8, got '2.5'"),
        (f"{HEADER}\n0,0,2,35,10\n", "waypoint 1: lane_width_m: expected a number from 2 to 6, got '35'"),
        (f"{HEADER}\n0,0,2,3.5,10\n20,east,,,\n", "waypoint 2: map_y_m: expected a number"),
        (f"{HEADER}\n0,0,2,3.5,nan\n", "waypoint 1: speed_limit_mps: expected a number from 0.5 to 70, got 'nan'"),
        (f"{HEADER}\n0,0,2,3.5,10,7\n", "waypoint 1: unknown 'a column without a name'"),
    ],
)
def test_a_broken_csv_is_named(tmp_path: Path, text: str, message: str):
    path = tmp_path / "route.csv"
    path.write_text(text)
    with pytest.raises(RouteError, match=f"route.csv: {message}"):
        load_route(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("waypoints: [", "not valid YAML"),
        ("[]", "waypoints: expected a list of mappings"),
        ("waypoints: [[0, 0]]", "waypoints: expected a list of mappings"),
        ("lanes: 2\nwaypoints: []", "unknown key 'lanes'; expected waypoints, lane_count"),
        ("waypoints: [{x: 1}]", "waypoint 1: unknown 'x'"),
    ],
)
def test_a_broken_yaml_is_named(tmp_path: Path, text: str, message: str):
    path = tmp_path / "route.yaml"
    path.write_text(text)
    with pytest.raises(RouteError, match=f"route.yaml: {message}"):
        load_route(path)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(RouteError, match=r"nowhere.csv: route cannot be read \(No such file"):
        load_route(tmp_path / "nowhere.csv")


def test_the_assumed_road_is_straight_and_moves_with_the_car():
    road = StraightRoad(2, 3.7, 29.0)
    first = road.ahead((10.0, 5.0, math.pi / 2))
    assert first.line_m[20] == pytest.approx((10.0, 5.0), abs=1e-4)
    later = road.ahead((11.0, 65.0, 1.0))
    assert later.line_m[20] == pytest.approx((10.0, 65.0), abs=1e-4), "the line stays, the stretch moves"
    assert np.diff(later.line_m[:, 1]) == pytest.approx(2.0, abs=1e-3)
    assert later.goal_distance_m == 1000.0
