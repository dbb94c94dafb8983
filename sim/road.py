"""Roads of one direction of travel: clothoid centre lines made from parameters, and Frenet coordinates on them.

The reference line is the centre of the rightmost lane; ``s`` is arc length along it (0 at the start of the route, it
begins ``LEAD_IN_M`` earlier and ends ``LEAD_OUT_M`` after the goal), ``d`` the offset to its left. Lane i is centred at
``i * lane_width_m``. `RoadBatch` holds the lines of many worlds padded to one shape, for one numpy pass per step.
"""

from __future__ import annotations

import msgspec
import numpy as np

LANE_WIDTH_M = 3.5
SHOULDER_M = 1.0
LEAD_IN_M = 160.0
LEAD_OUT_M = 240.0
MAX_LATERAL_ACCELERATION_MPS2 = 2.3  # at the speed limit, on the innermost lane
MAX_LATERAL_JERK_MPS3 = 1.2  # sets the length of the clothoids
MAX_HEADING_RAD = 1.35  # the road never turns back on itself


class RoadParameters(msgspec.Struct, frozen=True, kw_only=True):
    """What a road is made from. ``segments``: (length m, curvature at its start, at its end), linear in between."""

    lane_count: int
    length_m: float
    speed_limit_mps: float
    segments: tuple[tuple[float, float, float], ...]
    lane_width_m: float = LANE_WIDTH_M
    shoulder_m: float = SHOULDER_M


def random_road(rng: np.random.Generator) -> RoadParameters:
    """Draw 400 to 800 m of straights and curves with 2 to 4 lanes and a speed limit of 8 to 15 m/s."""
    lane_count = int(rng.choice((2, 3, 4), p=(0.4, 0.4, 0.2)))
    limit = float(rng.choice((8.3, 9.7, 11.1, 12.5, 13.9, 15.0)))
    length = float(np.round(rng.uniform(400.0, 800.0)))
    total = LEAD_IN_M + length + LEAD_OUT_M
    segments: list[tuple[float, float, float]] = [(LEAD_IN_M + rng.uniform(20.0, 80.0), 0.0, 0.0)]
    done, heading = segments[0][0], 0.0
    while done < total:
        sign = -1.0 if rng.random() < 0.5 else 1.0
        if abs(heading) > 0.6:
            sign = -float(np.sign(heading))
        curvature = sign * rng.uniform(0.25, 1.0) * _curvature_limit(sign, limit, lane_count)
        clothoid = max(12.0, abs(curvature) * limit**3 / MAX_LATERAL_JERK_MPS3)
        room = MAX_HEADING_RAD - heading * sign  # what may still be turned to this side
        sweep = min(rng.uniform(0.2, 1.2), room)
        arc = max(sweep / abs(curvature) - clothoid, 0.0)
        if arc == 0.0:  # two clothoids alone turn too far: flatten them
            curvature = sign * min(abs(curvature), sweep / clothoid)
        straight = rng.uniform(0.0, 1.0) ** 2 * 160.0
        segments += [
            (clothoid, 0.0, curvature),
            (arc, curvature, curvature),
            (clothoid, curvature, 0.0),
            (straight, 0.0, 0.0),
        ]
        heading += curvature * (clothoid + arc)
        done += 2 * clothoid + arc + straight
    return RoadParameters(lane_count=lane_count, length_m=length, speed_limit_mps=limit, segments=tuple(segments))


def _curvature_limit(sign: float, limit_mps: float, lane_count: int) -> float:
    """Largest curvature of the reference line for which the innermost lane stays within the lateral acceleration."""
    lane = MAX_LATERAL_ACCELERATION_MPS2 / limit_mps**2
    inner_m = (lane_count - 1) * LANE_WIDTH_M if sign > 0 else 0.0
    return lane / (1.0 + lane * inner_m)


class Road:
    """One road: centre line sampled every metre, projections both ways.

    ``line_s_m``, ``line_heading_rad``, ``line_curvature`` [S] and ``line_xy_m`` [S, 2] in the map frame.
    """

    def __init__(self, parameters: RoadParameters) -> None:
        self.parameters = parameters
        self.lane_count = parameters.lane_count
        self.lane_width_m = parameters.lane_width_m
        self.length_m = parameters.length_m
        self.speed_limit_mps = parameters.speed_limit_mps
        self.shoulder_m = parameters.shoulder_m
        self.right_edge_m = -0.5 * self.lane_width_m  # d of the outer lane markings
        self.left_edge_m = (self.lane_count - 0.5) * self.lane_width_m
        self._build()
        self.batch = RoadBatch(1)
        self.batch.set_road(0, self)

    def _build(self) -> None:
        fine = 4  # integration steps a metre
        count = int(np.ceil(LEAD_IN_M + self.length_m + LEAD_OUT_M)) + 1
        lengths = np.array([segment[0] for segment in self.parameters.segments])
        ends = np.cumsum(lengths)
        keep = lengths > 0
        knots = np.stack([ends - lengths, ends], axis=1)[keep].ravel()
        values = np.array([segment[1:] for segment in self.parameters.segments])[keep].ravel()
        distance = np.arange((count - 1) * fine + 1) / fine
        curvature = np.interp(distance, knots, values)
        heading = np.concatenate([[0.0], np.cumsum(0.5 * (curvature[1:] + curvature[:-1]) / fine)])
        middle = heading[:-1] + 0.5 / fine * (0.75 * curvature[:-1] + 0.25 * curvature[1:])
        heading_0 = heading[round(LEAD_IN_M) * fine]

        def simpson(function: np.ufunc) -> np.ndarray:
            ends_ = function(heading - heading_0)
            return np.concatenate(
                [[0.0], np.cumsum((ends_[:-1] + 4 * function(middle - heading_0) + ends_[1:]) / (6 * fine))]
            )

        xy = np.stack([simpson(np.cos), simpson(np.sin)], axis=1)
        self.line_s_m = np.arange(count) - LEAD_IN_M
        self.line_xy_m = (xy - xy[round(LEAD_IN_M) * fine])[::fine]
        self.line_heading_rad = (heading - heading_0)[::fine]
        self.line_curvature = curvature[::fine]

    def frenet(self, xy_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map points [..., 2] to s and d [...]; the nearest point of the line is searched over all of it."""
        xy = np.asarray(xy_m, np.float64)
        flat = xy.reshape(-1, 2)
        distance2 = ((flat[:, None, :] - self.line_xy_m[None, :, :]) ** 2).sum(axis=2)
        guess = self.line_s_m[np.argmin(distance2, axis=1)] if len(flat) else np.zeros(0)
        s, d = self.batch.frenet(flat[None], guess[None])
        return s[0].reshape(xy.shape[:-1]), d[0].reshape(xy.shape[:-1])

    def cartesian(self, s_m: np.ndarray, d_m: np.ndarray) -> np.ndarray:
        """Frenet s and d [...] to map points [..., 2]."""
        s, d = np.broadcast_arrays(np.asarray(s_m, np.float64), np.asarray(d_m, np.float64))
        return self.batch.cartesian(s.reshape(1, -1), d.reshape(1, -1))[0].reshape(*s.shape, 2)

    def heading(self, s_m: np.ndarray) -> np.ndarray:
        """Heading of the reference line at s [...], rad."""
        s = np.asarray(s_m, np.float64)
        return self.batch.line(s.reshape(1, -1))[2][0].reshape(s.shape)

    def curvature(self, s_m: np.ndarray) -> np.ndarray:
        """Curvature of the reference line at s [...], 1/m, left positive."""
        return np.interp(np.asarray(s_m, np.float64), self.line_s_m, self.line_curvature)


class RoadBatch:
    """Reference lines of B worlds, padded to one length, for projections of [B, M] points at once."""

    def __init__(self, count: int) -> None:
        self._line = np.zeros((count, 2, 4))  # x, y, heading, curvature; every metre
        self._last = np.zeros(count, np.int64)  # index of the last sample that has a successor
        self._world = np.arange(count)[:, None]

    def set_road(self, index: int, road: Road) -> None:
        """Put a road into world ``index``."""
        size = len(road.line_s_m)
        if size > self._line.shape[1]:
            grown = np.zeros((len(self._line), size, 4))
            grown[:, : self._line.shape[1]] = self._line
            self._line = grown
        self._line[index, :size, :2] = road.line_xy_m
        self._line[index, :size, 2] = road.line_heading_rad
        self._line[index, :size, 3] = road.line_curvature
        self._last[index] = size - 2

    def line(self, s_m: np.ndarray, world: np.ndarray | None = None) -> tuple[np.ndarray, ...]:
        """x, y, heading and curvature of the lines at s [B, M]; extended by a tangent arc beyond the ends.

        With ``world`` [A], s is [A] instead: one point each of the worlds named.
        """
        world = self._world[: len(s_m)] if world is None else world
        position = s_m + LEAD_IN_M
        i = np.clip(position.astype(np.int64), 0, self._last[world])
        ds = position - i
        here = self._line[world, i]
        curvature = here[..., 3]
        slope = self._line[world, i + 1, 3] - curvature
        heading = here[..., 2]
        chord = heading + ds * (0.5 * curvature + ds * slope * (1.0 / 6.0))
        return (
            here[..., 0] + ds * np.cos(chord),
            here[..., 1] + ds * np.sin(chord),
            heading + ds * (curvature + 0.5 * ds * slope),
            curvature + ds * slope,
        )

    def cartesian(self, s_m: np.ndarray, d_m: np.ndarray) -> np.ndarray:
        """Frenet [B, M] to map points [B, M, 2]."""
        x, y, heading, _ = self.line(s_m)
        return np.stack([x - d_m * np.sin(heading), y + d_m * np.cos(heading)], axis=-1)

    def frenet(self, xy_m: np.ndarray, guess_s_m: np.ndarray, iterations: int = 3) -> tuple[np.ndarray, np.ndarray]:
        """Map points [B, M, 2] to s, d [B, M] by Newton's method from a guess within a few metres."""
        s = np.array(guess_s_m, np.float64)
        for _ in range(iterations):
            x, y, heading, curvature = self.line(s)
            dx, dy = xy_m[..., 0] - x, xy_m[..., 1] - y
            cos, sin = np.cos(heading), np.sin(heading)
            d = dy * cos - dx * sin
            s = s + (dx * cos + dy * sin) / np.maximum(1.0 - curvature * d, 0.2)
        x, y, heading, _ = self.line(s)
        return s, (xy_m[..., 1] - y) * np.cos(heading) - (xy_m[..., 0] - x) * np.sin(heading)
