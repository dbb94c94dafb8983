"""Contact of the ego with agents: exact tests of oriented boxes on the ground, all agents of all worlds at once."""

from __future__ import annotations

import numpy as np


def corners(centre_m: np.ndarray, yaw_rad: np.ndarray, size_m: np.ndarray) -> np.ndarray:
    """Corners [..., 4, 2] of boxes with centre [..., 2], yaw [...] and size (length, width) [..., 2]."""
    cos, sin = np.cos(yaw_rad)[..., None], np.sin(yaw_rad)[..., None]
    along = size_m[..., :1] * np.array([0.5, -0.5, -0.5, 0.5])
    across = size_m[..., 1:2] * np.array([0.5, 0.5, -0.5, -0.5])
    x = centre_m[..., :1] + along * cos - across * sin
    y = centre_m[..., 1:2] + along * sin + across * cos
    return np.stack([x, y], axis=-1)


def boxes_overlap(
    ego_pose: np.ndarray,
    ego_size_m: np.ndarray,
    position_m: np.ndarray,
    yaw_rad: np.ndarray,
    size_m: np.ndarray,
    present: np.ndarray,
) -> np.ndarray:
    """Which agents touch the ego, bool [B, N]; separating axis theorem.

    ``ego_pose`` [B, 3], ``ego_size_m`` [2], agents [B, N, 2], [B, N], [B, N, >=2], [B, N].
    """
    delta = position_m - ego_pose[:, None, :2]
    reach = 0.5 * (np.hypot(ego_size_m[0], ego_size_m[1]) + np.hypot(size_m[..., 0], size_m[..., 1]))
    near = present & (np.abs(delta[..., 0]) < reach) & (np.abs(delta[..., 1]) < reach)
    hit = np.zeros(present.shape, bool)
    b, i = np.nonzero(near)
    if len(b) == 0:
        return hit
    dx, dy = delta[b, i, 0], delta[b, i, 1]
    yaw, other = ego_pose[b, 2], yaw_rad[b, i]
    cos, sin = np.abs(np.cos(other - yaw)), np.abs(np.sin(other - yaw))
    half_l, half_w = 0.5 * ego_size_m[0], 0.5 * ego_size_m[1]
    length, width = 0.5 * size_m[b, i, 0], 0.5 * size_m[b, i, 1]
    apart = np.abs(dx * np.cos(yaw) + dy * np.sin(yaw)) > half_l + length * cos + width * sin
    apart |= np.abs(dy * np.cos(yaw) - dx * np.sin(yaw)) > half_w + length * sin + width * cos
    apart |= np.abs(dx * np.cos(other) + dy * np.sin(other)) > length + half_l * cos + half_w * sin
    apart |= np.abs(dy * np.cos(other) - dx * np.sin(other)) > width + half_l * sin + half_w * cos
    hit[b, i] = ~apart
    return hit
