"""How much of each agent each camera can see: an analytic model by angular intervals, cheap enough for training.

An agent is the angular interval of its footprint and its height; nearer agents hide farther ones; a camera sees what
lies inside its horizontal field of view. Coarse on purpose: pixels are the renderer's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from visuomotor.messages.camera import CameraModel


class AgentView(Protocol):
    """Arrays over B scenes and N slots, in one frame (map or odom) per scene; ``DriveWorlds`` satisfies it."""

    ego_pose: np.ndarray  # [B, 3] x m, y m, yaw rad
    agent_present: np.ndarray  # [B, N] bool
    agent_position_m: np.ndarray  # [B, N, 2]
    agent_yaw_rad: np.ndarray  # [B, N]
    agent_size_m: np.ndarray  # [B, N, 3] length, width, height


@dataclass(frozen=True)
class CameraArrays:
    """What the model needs of C cameras: mounting in ``ego_``, half the horizontal field of view, focal length."""

    position_m: np.ndarray  # [C, 2]
    height_m: np.ndarray  # [C]
    yaw_rad: np.ndarray  # [C]
    half_fov_rad: np.ndarray  # [C]
    focal_px: np.ndarray  # [C]

    @classmethod
    def from_models(cls, cameras: Sequence[CameraModel]) -> CameraArrays:
        """Collect the mountings of calibrated cameras; their order is the last axis of every result."""
        return cls(
            position_m=np.array([c.ego_position_m[:2] for c in cameras], np.float64).reshape(-1, 2),
            height_m=np.array([c.ego_position_m[2] for c in cameras], np.float64),
            yaw_rad=np.array([c.ego_yaw_rad for c in cameras], np.float64),
            half_fov_rad=np.array([0.5 * c.horizontal_fov_rad for c in cameras], np.float64),
            focal_px=np.array([c.fx for c in cameras], np.float64),
        )


def wrap_rad(angle_rad: np.ndarray) -> np.ndarray:
    """Angles brought into [-pi, pi)."""
    return (angle_rad + np.pi) % (2.0 * np.pi) - np.pi


def ego_positions(agents: AgentView) -> np.ndarray:
    """Agent positions in ``ego_`` [B, N, 2], metres."""
    delta = agents.agent_position_m - agents.ego_pose[:, None, :2]
    cos, sin = np.cos(agents.ego_pose[:, 2])[:, None], np.sin(agents.ego_pose[:, 2])[:, None]
    return np.stack([cos * delta[..., 0] + sin * delta[..., 1], cos * delta[..., 1] - sin * delta[..., 0]], axis=-1)


def visible(agents: AgentView, cameras: CameraArrays) -> np.ndarray:
    """Visible share of every agent in every camera, float32 [B, N, C]; 0 in empty slots and outside the view."""
    count, slots = agents.agent_present.shape
    shares = np.zeros((count, slots, len(cameras.yaw_rad)), np.float32)
    occupied = np.flatnonzero(agents.agent_present.any(axis=0))
    if len(occupied) == 0:
        return shares
    used = slice(0, int(occupied[-1]) + 1)  # slots fill from the front: skip the empty tail
    present = agents.agent_present[:, used]
    ego_m = ego_positions(agents)[:, used]
    size_m = agents.agent_size_m[:, used]
    range_m = np.maximum(np.hypot(ego_m[..., 0], ego_m[..., 1]), 0.5)
    bearing_rad = np.arctan2(ego_m[..., 1], ego_m[..., 0])
    aspect_rad = agents.agent_yaw_rad[:, used] - agents.ego_pose[:, None, 2] - bearing_rad
    width_m = size_m[..., 0] * np.abs(np.sin(aspect_rad)) + size_m[..., 1] * np.abs(np.cos(aspect_rad))
    half_rad = np.arctan2(0.5 * width_m, range_m)
    uncovered = _uncovered(present, bearing_rad, half_rad, range_m, size_m[..., 2], float(cameras.height_m.mean()))

    from_camera = ego_m[:, :, None] - cameras.position_m
    camera_range_m = np.maximum(np.hypot(from_camera[..., 0], from_camera[..., 1]), 0.5)
    camera_bearing = wrap_rad(np.arctan2(from_camera[..., 1], from_camera[..., 0]) - cameras.yaw_rad)
    camera_half = np.arctan2(0.5 * width_m[..., None], camera_range_m)
    low = np.maximum(camera_bearing - camera_half, -cameras.half_fov_rad)
    high = np.minimum(camera_bearing + camera_half, cameras.half_fov_rad)
    in_view = np.clip((high - low) / (2.0 * camera_half), 0.0, 1.0)
    shares[:, used] = in_view * (uncovered * present)[..., None]
    return shares


def _uncovered(
    present: np.ndarray,
    bearing_rad: np.ndarray,
    half_rad: np.ndarray,
    range_m: np.ndarray,
    height_m: np.ndarray,
    eye_m: float,
) -> np.ndarray:
    """Share of each agent [B, N] that nearer agents leave free, seen from the ego's origin at the cameras' height.

    Coverings multiply as if they were independent, which is exact for one occluder and fair for several.
    """
    far, near = (slice(None), slice(None), None), (slice(None), None, slice(None))
    apart = np.abs(bearing_rad[far] - bearing_rad[near])
    apart = np.minimum(apart, 2.0 * np.pi - apart)
    covered = (half_rad[far] + half_rad[near] - apart) / (2.0 * half_rad[far])
    covered = np.minimum(np.maximum(covered, 0.0), np.minimum(1.0, half_rad[near] / half_rad[far]))
    # The ray over the occluder's top edge meets the far agent at this height above the ground.
    shadow_m = eye_m + (height_m[near] - eye_m) * (range_m[far] / range_m[near])
    covered *= np.minimum(np.maximum(shadow_m / height_m[far], 0.0), 1.0)
    covered *= (range_m[near] < range_m[far]) & present[near]
    return np.prod(1.0 - covered, axis=2)
