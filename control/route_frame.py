"""Geometry along the route: projection of points onto B polylines, their tangents and curvature."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

COARSE_STRIDE = 4  # vertices between the candidates of the first search
NEWTON_STEPS = 2


@dataclass(frozen=True)
class RouteFrame:
    """B polylines of P points, ``spacing_m`` apart; s is arc length from the first point, d the offset, left positive.

    Positions are relative to ``origin_m`` (the car) so that float32 keeps millimetres far from the start.
    """

    origin_m: np.ndarray  # [B, 2] odom
    points_m: np.ndarray  # [B, P, 2] relative to origin
    spacing_m: float

    @classmethod
    def of(cls, route_m: np.ndarray, origin_m: np.ndarray, spacing_m: float) -> RouteFrame:
        """From points in ``odom_`` [B, P, 2] and the car's position [B, 2]."""
        return cls(origin_m, (route_m - origin_m[:, None, :]).astype(np.float32), spacing_m)

    @cached_property
    def table(self) -> np.ndarray:
        """Per vertex x, y, tangent x, tangent y, curvature; float32 [B * P, 5], to be indexed by world * P + vertex."""
        points = self.points_m
        count = points.shape[1]
        out = np.empty((*points.shape[:2], 5), np.float32)
        out[..., :2] = points
        chord = np.empty_like(points)
        chord[:, 1:-1] = points[:, 2:] - points[:, :-2]
        chord[:, 0] = points[:, 1] - points[:, 0]
        chord[:, -1] = points[:, -1] - points[:, -2]
        length = np.sqrt(np.einsum("bpi,bpi->bp", chord, chord))
        tangent = chord / np.maximum(length, 1e-6)[..., None]
        out[..., 2:4] = tangent
        curvature = out[..., 4]
        if count > 2:
            before, after = tangent[:, :-2], tangent[:, 2:]
            turn = before[..., 0] * after[..., 1] - before[..., 1] * after[..., 0]
            curvature[:, 1:-1] = turn / (2.0 * self.spacing_m)  # sin of a small angle
            curvature[:, 0], curvature[:, -1] = curvature[:, 1], curvature[:, -2]
        else:
            curvature[:] = 0.0
        return out.reshape(-1, 5)

    @cached_property
    def columns(self) -> np.ndarray:
        """``table`` by column, contiguous, float32 [5, B * P]."""
        return np.ascontiguousarray(self.table.T)

    @property
    def vertices(self) -> int:
        """P."""
        return self.points_m.shape[1]

    def locate(self, xy_m: np.ndarray, world: np.ndarray) -> np.ndarray:
        """Arc length [M] near points [M, 2] (relative to origin) of worlds [M], to within half a coarse stride."""
        coarse = self.points_m[:, ::COARSE_STRIDE]
        dx = coarse[..., 0][world] - xy_m[:, :1]
        dy = coarse[..., 1][world] - xy_m[:, 1:]
        nearest = (dx * dx + dy * dy).argmin(axis=1)
        return (nearest * (COARSE_STRIDE * self.spacing_m)).astype(np.float32)

    def refine(
        self, xy_m: tuple[np.ndarray, np.ndarray], base: np.ndarray, s_m: np.ndarray, steps: int = NEWTON_STEPS
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Project points (x, y), each [...], starting from the guess s [...]: s, d, and the row of ``table`` [...].

        ``base``: first row of each point's world (world * P), broadcasts. ``steps`` 0 takes the guess's vertex.
        """
        x, y = xy_m
        columns = self.columns
        inverse, last = np.float32(1.0 / self.spacing_m), np.float32(self.vertices - 1)
        for _ in range(steps + 1):
            vertex = np.rint(np.minimum(np.maximum(s_m * inverse, 0.0), last))
            row = vertex.astype(np.intp) + base
            tx, ty, curvature = columns[2].take(row), columns[3].take(row), columns[4].take(row)
            dx, dy = x - columns[0].take(row), y - columns[1].take(row)
            along = dx * tx + dy * ty
            d_m = tx * dy - ty * dx
            # A point left of a left bend is nearer to its centre: arc length there is longer than the projection.
            s_m = vertex * np.float32(self.spacing_m) + along / np.maximum(1.0 - curvature * d_m, 0.2)
        d_m -= 0.5 * curvature * along * along
        return s_m, d_m, row

    def project(self, xy_m: np.ndarray, world: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Project points [M, 2] (relative to origin) of worlds [M]: s [M], d [M], table row [M]."""
        return self.refine((xy_m[:, 0], xy_m[:, 1]), world * self.vertices, self.locate(xy_m, world))

    def curvature(self, s_m: np.ndarray) -> np.ndarray:
        """Curvature [B, ...] at arc lengths s [B, ...], left positive, linear between vertices, held at the ends."""
        column = self.columns[4]
        position = np.minimum(np.maximum(s_m * (1.0 / self.spacing_m), 0.0), self.vertices - 1.001)
        index = position.astype(np.intp)
        share = position - index
        index += np.arange(len(self.points_m)).reshape(-1, *([1] * (np.ndim(s_m) - 1))) * self.vertices
        return column.take(index) * (1.0 - share) + column.take(index + 1) * share
