"""How parts lie: rotation matrices of their orientations, and yaw and size in plan view."""

from __future__ import annotations

import numpy as np

from visuomotor.sim.cell.parts import CATALOGUE

_ROUND = np.array([kind.shape == "sphere" for kind in CATALOGUE])
_UPRIGHT_ROUND = np.array([kind.shape == "cylinder" for kind in CATALOGUE])
_OTHER_AXES = np.array([[1, 2], [0, 2], [0, 1]])


def turn_from_quaternion(quaternion: np.ndarray) -> np.ndarray:
    """Rotation matrices [..., 3, 3] of unit quaternions [..., 4] (x, y, z, w)."""
    x, y, z, w = np.moveaxis(np.asarray(quaternion, np.float64), -1, 0)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    )
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def quaternion_from_turn(turn: np.ndarray) -> tuple[float, float, float, float]:
    """Unit quaternion x, y, z, w of one rotation matrix [3, 3] (Shepperd 1978: from the largest component)."""
    (a, b, c), (d, e, f), (g, h, i) = turn.tolist()
    squares = (1 + a - e - i, 1 - a + e - i, 1 - a - e + i, 1 + a + e + i)  # four times x, y, z, w squared
    largest = int(np.argmax(squares))
    x, y, z, w = (
        (squares[0], b + d, c + g, h - f),
        (b + d, squares[1], f + h, c - g),
        (c + g, f + h, squares[2], d - b),
        (h - f, c - g, d - b, squares[3]),
    )[largest]
    scale = 0.5 / float(np.sqrt(squares[largest]))
    return x * scale, y * scale, z * scale, w * scale


def plan_view(quaternion: np.ndarray, size_m: np.ndarray, kind: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Yaw [...] of the longer side and length, width, height [..., 3] of parts as they lie.

    ``size_m`` [..., 3] is in the part's own frame, ``kind`` [...] the row of the catalogue. What looks the same from
    everywhere has yaw 0.
    """
    turn = turn_from_quaternion(quaternion)  # columns are the part's own axes in base_
    up = np.abs(turn[..., 2, :]).argmax(axis=-1)
    first, second = _OTHER_AXES[up, 0], _OTHER_AXES[up, 1]

    def take(values: np.ndarray, axis: np.ndarray) -> np.ndarray:
        return np.take_along_axis(values, axis[..., None], axis=-1)[..., 0]

    swap = take(size_m, second) > take(size_m, first) + 1e-6
    first, second = np.where(swap, second, first), np.where(swap, first, second)
    lying = np.stack([take(size_m, first), take(size_m, second), take(size_m, up)], axis=-1)
    yaw = np.arctan2(take(turn[..., 1, :], first), take(turn[..., 0, :], first))
    shapeless = _ROUND[kind] | (_UPRIGHT_ROUND[kind] & (up == 2))
    return np.where(shapeless, 0.0, yaw), lying
