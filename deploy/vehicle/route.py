"""The road ahead on a real car: a file of waypoints with the car's pose on it, or a straight road that is assumed.

Waypoints are the centre of the rightmost lane in ``map_``, the frame of the car's positioning; ``odom_`` is the same
frame there, so a route needs no transformation. Lane count and width and the speed limit hold from a waypoint on. A
smooth line is laid through the waypoints (cubic spline over the chord length).
"""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import yaml
from scipy.interpolate import CubicSpline

from visuomotor.control.config import VEHICLE
from visuomotor.messages.yaml_file import explain_yaml_error

STRAIGHT = "straight"
START_M, SPACING_M, POINTS = -40.0, 2.0, 81  # of the published stretch
STEP_M = 0.5  # between the points of the line that is kept
LENGTH_MIN_M = 50.0
GAP_MAX_M = 100.0  # between two waypoints
TURN_MAX_RAD = math.pi / 2  # from one chord to the next
NEAR_START_M = 10.0  # how far from the line a car may stand at the start ...
NEAR_START_RAD = 1.0  # ... and how far turned from it
LEFT_BEHIND_M = 15.0  # beyond the lanes: the car is on another road
SEARCH_M = 30.0  # the car is looked for so far from where it was
SLOWING_MPS2 = 0.8  # before a lower speed limit; the policy's action brakes no harder for a limit
COLUMNS = ("map_x_m", "map_y_m", "lane_count", "lane_width_m", "speed_limit_mps")
RANGES = {"lane_count": (1, 8), "lane_width_m": (2.0, 6.0), "speed_limit_mps": (0.5, 70.0)}
ENDLESS_M = 1000.0  # of a straight road: no goal is known, it is always this far ahead


class RouteError(ValueError):
    """A route that cannot be driven; names the file, the waypoint and what was expected."""


class Ahead(msgspec.Struct, frozen=True, kw_only=True):
    """The stretch that is published: ``line_m`` float32 [81, 2] from 40 m behind the car, and what holds at the car."""

    line_m: np.ndarray
    lane_count: int
    lane_width_m: float
    speed_limit_mps: float
    goal_distance_m: float
    on_route: bool = True


class Road(Protocol):
    """What lies ahead of a pose (x m, y m, yaw rad)."""

    def ahead(self, pose: tuple[float, float, float]) -> Ahead:
        """The stretch around a pose, which moves on from call to call."""
        ...

    def check_start(self, pose: tuple[float, float, float]) -> None:
        """Raise RouteError when a car that stands there cannot begin."""


class StraightRoad:
    """Assumed: a straight road along the first pose's heading, the car in its rightmost lane."""

    def __init__(self, lane_count: int, lane_width_m: float, speed_limit_mps: float) -> None:
        self.lane_count = lane_count
        self.lane_width_m = lane_width_m
        self.speed_limit_mps = speed_limit_mps
        self._start: tuple[float, float, float] | None = None

    def ahead(self, pose: tuple[float, float, float]) -> Ahead:
        """The stretch around the point of the line that is nearest to the pose."""
        x, y, yaw = self._start = self._start or pose
        along = (pose[0] - x) * math.cos(yaw) + (pose[1] - y) * math.sin(yaw)
        s = along + START_M + SPACING_M * np.arange(POINTS)
        line = np.stack([x + s * math.cos(yaw), y + s * math.sin(yaw)], axis=1).astype(np.float32)
        return Ahead(
            line_m=line,
            lane_count=self.lane_count,
            lane_width_m=self.lane_width_m,
            speed_limit_mps=self.speed_limit_mps,
            goal_distance_m=ENDLESS_M,
        )

    def check_start(self, pose: tuple[float, float, float]) -> None:
        """It begins wherever the car is."""


class RouteLine:
    """A route of a file: points every 0.5 m, straight on before its start and beyond its goal.

    ``points_m`` [P, 2]; ``s_m`` [P] arc length, 0 at the first waypoint; ``length_m`` to the last.
    """

    def __init__(self, waypoints_m: np.ndarray, rules: dict[str, np.ndarray], name: str = "route") -> None:
        self.name = name
        knots, spline = _fit(waypoints_m, name)
        fine = np.linspace(0.0, knots[-1], max(2, math.ceil(knots[-1] / (0.2 * STEP_M))))
        xy = spline(fine)
        length = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(xy, axis=0).T))])
        self.length_m = float(length[-1])
        inside = np.arange(0.0, self.length_m, STEP_M)
        parameter = np.interp(inside, length, fine)
        _check_bends(spline, parameter, inside, knots, name)
        ends = np.array([0.0, knots[-1]])
        tangents = spline(ends, 1) / np.linalg.norm(spline(ends, 1), axis=1, keepdims=True)
        before = np.arange(-2.0 * abs(START_M), 0.0, STEP_M)
        beyond = self.length_m + np.arange(0.0, POINTS * SPACING_M + SEARCH_M, STEP_M)
        self.s_m = np.concatenate([before, inside, beyond])
        self.points_m = np.concatenate(
            [
                waypoints_m[0] + before[:, None] * tangents[0],
                spline(parameter),
                waypoints_m[-1] + (beyond - self.length_m)[:, None] * tangents[1],
            ]
        )
        chord = np.gradient(self.points_m, axis=0)
        self._tangent = chord / np.linalg.norm(chord, axis=1, keepdims=True)
        starts = np.interp(knots, fine, length)  # arc length of each waypoint
        row = np.clip(np.searchsorted(starts, self.s_m + 1e-6, side="right") - 1, 0, len(starts) - 1)
        self._lane_count = rules["lane_count"][row].astype(int)
        self._lane_width_m = rules["lane_width_m"][row]
        self._speed_limit_mps = _slow_before(rules["speed_limit_mps"][row])
        self._index: int | None = None

    def check_start(self, pose: tuple[float, float, float]) -> None:
        """Raise RouteError when the pose is not on the route."""
        index, along, offset, turn = self._locate(pose, None)
        on_length = -NEAR_START_M <= self.s_m[index] + along < self.length_m
        left = (self._lane_count[index] - 1) * self._lane_width_m[index]
        on_width = -NEAR_START_M <= offset <= left + NEAR_START_M
        if not (on_length and on_width) or abs(turn) > NEAR_START_RAD:
            raise RouteError(
                f"{self.name}: not near the car, which is at ({pose[0]:.1f}, {pose[1]:.1f}) m heading "
                f"{math.degrees(pose[2]):.0f} deg: the route's nearest point is ({self.points_m[index, 0]:.1f}, "
                f"{self.points_m[index, 1]:.1f}) m, turned by {math.degrees(turn):.0f} deg; expected within "
                f"{NEAR_START_M:.0f} m and {math.degrees(NEAR_START_RAD):.0f} deg, in the frame of POSITION and HEADING"
            )

    def ahead(self, pose: tuple[float, float, float]) -> Ahead:
        """The stretch around the pose; ``on_route`` False when the car has left the route far behind."""
        here, along, offset, _ = self._locate(pose, self._index)
        self._index = here
        s = self.s_m[here] + along
        at = s + START_M + SPACING_M * np.arange(POINTS)
        line = np.stack([np.interp(at, self.s_m, self.points_m[:, axis]) for axis in (0, 1)], axis=1)
        width = float(self._lane_width_m[here])
        lanes = int(self._lane_count[here])
        return Ahead(
            line_m=line.astype(np.float32),
            lane_count=lanes,
            lane_width_m=width,
            speed_limit_mps=float(self._speed_limit_mps[here]),
            goal_distance_m=max(0.0, self.length_m - float(s)),
            on_route=-LEFT_BEHIND_M <= offset <= (lanes - 1) * width + LEFT_BEHIND_M and abs(along) <= LEFT_BEHIND_M,
        )

    def _locate(self, pose: tuple[float, float, float], near: int | None) -> tuple[int, float, float, float]:
        """Index of the nearest point, way along (m) and to the left (m) from it, and heading (rad) there.

        ``near``: the last place, around which it is looked for.
        """
        first, last = 0, len(self.s_m)
        if near is not None:
            first, last = max(0, near - round(SEARCH_M / STEP_M)), near + round(SEARCH_M / STEP_M)
        delta = np.asarray(pose[:2]) - self.points_m[first:last]
        course = self._tangent[first:last] @ (math.cos(pose[2]), math.sin(pose[2]))
        distance = np.hypot(*delta.T)
        if near is None and (course > 0.0).any():  # of a road that is driven both ways, this side
            distance = np.where(course > 0.0, distance, np.inf)
        index = first + int(distance.argmin())
        dx, dy = np.asarray(pose[:2]) - self.points_m[index]
        tx, ty = self._tangent[index]
        turn = math.remainder(pose[2] - math.atan2(ty, tx), 2.0 * math.pi)
        return index, float(tx * dx + ty * dy), float(tx * dy - ty * dx), turn


def _fit(waypoints_m: np.ndarray, name: str) -> tuple[np.ndarray, CubicSpline]:
    """Chord length at each waypoint and the spline over it; RouteError for waypoints that make no road."""
    if len(waypoints_m) < 2:
        raise RouteError(f"{name}: too short: expected at least 2 waypoints, got {len(waypoints_m)}")
    chord = np.diff(waypoints_m, axis=0)
    gap = np.hypot(*chord.T)
    for i in np.flatnonzero((gap > GAP_MAX_M) | (gap < 0.1)):
        raise RouteError(
            f"{name}: jumps: waypoint {i + 2} is {gap[i]:.1f} m from the one before; expected 0.1 to {GAP_MAX_M:.0f} m"
        )
    turn = np.abs(np.angle(np.exp(1j * np.diff(np.arctan2(chord[:, 1], chord[:, 0])))))
    for i in np.flatnonzero(turn > TURN_MAX_RAD):
        raise RouteError(
            f"{name}: jumps: the line turns back by {math.degrees(turn[i]):.0f} deg at waypoint {i + 2}; "
            f"expected less than {math.degrees(TURN_MAX_RAD):.0f}"
        )
    knots = np.concatenate([[0.0], np.cumsum(gap)])
    if knots[-1] < LENGTH_MIN_M:
        raise RouteError(f"{name}: too short: {knots[-1]:.1f} m; expected at least {LENGTH_MIN_M:.0f} m")
    return knots, CubicSpline(knots, waypoints_m, bc_type="natural")


def _check_bends(spline: CubicSpline, parameter: np.ndarray, s_m: np.ndarray, knots: np.ndarray, name: str) -> None:
    """Raise RouteError where the line bends tighter than the car can steer."""
    (x1, y1), (x2, y2) = spline(parameter, 1).T, spline(parameter, 2).T
    curvature = np.abs(x1 * y2 - y1 * x2) / np.maximum(np.hypot(x1, y1), 1e-6) ** 3
    tightest = math.tan(VEHICLE.max_steering_angle_rad) / VEHICLE.wheelbase_m
    worst = int(curvature.argmax())
    if curvature[worst] > tightest:
        waypoint = int(np.abs(knots - parameter[worst]).argmin()) + 1
        raise RouteError(
            f"{name}: jumps: bends with a radius of {1.0 / curvature[worst]:.1f} m near waypoint {waypoint} "
            f"({s_m[worst]:.0f} m); the car needs {1.0 / tightest:.1f} m"
        )


def _slow_before(limit_mps: np.ndarray) -> np.ndarray:
    """The limit at each point, and before a lower one what braking gently for it allows."""
    allowed = limit_mps.astype(float)
    for i in range(len(allowed) - 2, -1, -1):
        allowed[i] = min(allowed[i], math.sqrt(allowed[i + 1] ** 2 + 2.0 * SLOWING_MPS2 * STEP_M))
    return allowed


def load_route(path: Path) -> RouteLine:
    """Read a route from CSV (a column per name in COLUMNS) or YAML (see ``docs/vehicle.md``).

    Raises RouteError that names the file, the row and what was expected.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise RouteError(f"{path}: route cannot be read ({reason}); expected a CSV or a YAML file") from error
    rows = _read_csv(text, path) if path.suffix == ".csv" else _read_yaml(text, path)
    columns: dict[str, list[float]] = {name: [] for name in COLUMNS}
    for number, row in enumerate(rows, 1):
        if unknown := sorted(set(row) - set(COLUMNS)):
            raise RouteError(f"{path}: waypoint {number}: unknown {unknown[0]!r}; expected {', '.join(COLUMNS)}")
        for name, values in columns.items():
            value = row.get(name)
            if value in (None, ""):
                if name not in RANGES or not values:
                    raise RouteError(f"{path}: waypoint {number}: {name} is missing")
                values.append(values[-1])  # as before
                continue
            values.append(_number(path, number, name, value))
    arrays = {name: np.array(values) for name, values in columns.items()}
    waypoints = np.stack([arrays["map_x_m"], arrays["map_y_m"]], axis=1)
    return RouteLine(waypoints, {name: arrays[name] for name in RANGES}, str(path))


def _number(path: Path, row: int, name: str, value: Any) -> float:
    low, high = RANGES.get(name, (-1e6, 1e6))
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not low <= number <= high or (name == "lane_count" and number != int(number)):
        kind = "a whole number" if name == "lane_count" else "a number"
        raise RouteError(f"{path}: waypoint {row}: {name}: expected {kind} from {low:g} to {high:g}, got {value!r}")
    return number


def _read_csv(text: str, path: Path) -> list[dict[str, Any]]:
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    reader = csv.DictReader(lines, skipinitialspace=True, restkey="a column without a name")
    if reader.fieldnames is None or not {"map_x_m", "map_y_m"} <= set(reader.fieldnames):
        raise RouteError(f"{path}: expected a header line with {', '.join(COLUMNS)}, got {reader.fieldnames}")
    return list(reader)


def _read_yaml(text: str, path: Path) -> list[dict[str, Any]]:
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RouteError(f"{path}: {explain_yaml_error(error)}") from error
    points = data.get("waypoints") if isinstance(data, dict) else None
    if not isinstance(points, list) or not all(isinstance(point, dict) for point in points):
        raise RouteError(f"{path}: waypoints: expected a list of mappings with {', '.join(COLUMNS)}")
    if unknown := sorted(set(data) - {"waypoints", *RANGES}):
        raise RouteError(f"{path}: unknown key {unknown[0]!r}; expected waypoints, {', '.join(RANGES)}")
    whole = {name: data[name] for name in RANGES if name in data}
    return [{**(whole if i == 0 else {}), **point} for i, point in enumerate(points)]
