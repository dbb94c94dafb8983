"""How much of each part a camera above the belt sees: inside its picture, and not behind the arm or a taller part.

Analytic and cheap enough for training: whatever hides is a rod with a radius, whose shadow from the camera on the belt
is a strip. Pixels are the renderer's business.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from visuomotor.messages.camera import CameraModel

ARM_LINKS = (0, 2, 3, 4, 6)  # frames of ``link_frames`` that the arm is a line through
ARM_RADIUS_M = (0.07, 0.07, 0.07, 0.06, 0.045)  # of the pieces between them, the last one down to the hand
HAND_ABOVE_TOOL_M = 0.07  # the hand is a beam across, so far above the tool; the fingers below it hide little
HAND_HALF_M, HAND_RADIUS_M = 0.08, 0.03
_BELOW_CAMERA_M = 0.12  # what is nearer to the camera's height is taken to be so far below it


@dataclass(frozen=True, kw_only=True)
class Rods:
    """Straight pieces of what hides, in ``base_``."""

    start_m: np.ndarray  # [B, S, 3]
    end_m: np.ndarray  # [B, S, 3]
    radius_m: np.ndarray  # [B, S]


def arm_rods(frames: np.ndarray) -> Rods:
    """The arm's pieces from ``control.arm.kinematics.link_frames`` [B, 8, 4, 4]."""
    tool, down, across = frames[:, -1, :3, 3], frames[:, -1, :3, 2], frames[:, -1, :3, 1]
    hand = tool - HAND_ABOVE_TOOL_M * down
    points = np.concatenate([frames[:, ARM_LINKS][..., :3, 3], hand[:, None]], axis=1)
    radius = np.array([*ARM_RADIUS_M, HAND_RADIUS_M])
    return Rods(
        start_m=np.concatenate([points[:, :-1], (hand - HAND_HALF_M * across)[:, None]], axis=1),
        end_m=np.concatenate([points[:, 1:], (hand + HAND_HALF_M * across)[:, None]], axis=1),
        radius_m=np.broadcast_to(radius, (len(frames), len(radius))),
    )


class BeltView:
    """What a camera that looks down on the belt sees of parts."""

    def __init__(self, camera: CameraModel) -> None:
        if not camera.looks_down:
            raise ValueError(f"{camera.name}: expected a camera that looks down, got pitch {camera.ego_pitch_rad} rad")
        self.eye_m = np.asarray(camera.ego_position_m, np.float64)
        right, bottom = camera.width - 1.0, camera.height - 1.0
        corners = camera.ground(np.array([[0.0, 0.0], [right, 0.0], [right, bottom], [0.0, bottom]]))
        if not np.isfinite(corners).all():
            raise ValueError(f"{camera.name}: expected a picture of nothing but ground, got the horizon in it")
        self.middle_m = camera.ground(np.array([[0.5 * right, 0.5 * bottom]]))[0]
        sides = np.roll(corners, -1, axis=0) - corners
        inwards = np.stack([-sides[:, 1], sides[:, 0]], axis=1) / np.linalg.norm(sides, axis=1)[:, None]
        self._inwards = inwards * np.sign(((self.middle_m - corners) * inwards).sum(axis=1))[:, None]
        self._offset_m = (corners * self._inwards).sum(axis=1)

    def inside_m(self, point_m: np.ndarray) -> np.ndarray:
        """How far points [..., 2] on the belt lie within the picture's border, m; negative outside."""
        return (point_m @ self._inwards.T - self._offset_m).min(axis=-1)

    def shares(self, position_m: np.ndarray, size_m: np.ndarray, present: np.ndarray, rods: Rods) -> np.ndarray:
        """Visible share [B, N] of parts at [B, N, 3] (middles) of [B, N, 3] (length, width, height)."""
        low = position_m.copy()
        low[..., 2] = np.maximum(position_m[..., 2] - 0.5 * size_m[..., 2], 0.0)
        high = position_m.copy()
        high[..., 2] = position_m[..., 2] + 0.5 * size_m[..., 2]
        half = 0.5 * size_m[..., :2].mean(axis=-1)
        seen = self.shadow_m(position_m)
        start = np.concatenate([self.shadow_m(rods.start_m), self.shadow_m(low)], axis=1)
        end = np.concatenate([self.shadow_m(rods.end_m), self.shadow_m(high)], axis=1)
        thickness = np.concatenate([rods.radius_m, np.where(present, half, -1.0)], axis=1)
        distance = _to_strips(seen, start, end)
        parts = np.arange(position_m.shape[1])
        distance[:, parts, rods.radius_m.shape[1] + parts] = np.inf  # nothing hides itself
        lower = position_m[:, :, None, 2] > high[:, None, :, 2]  # nor what is above it
        distance[:, :, rods.radius_m.shape[1] :][lower] = np.inf
        free = ((distance - thickness[:, None]) / (2.0 * half[..., None]) + 0.5).min(axis=2)
        inside = self.inside_m(seen) / (2.0 * half) + 0.5
        return np.where(present, np.clip(np.minimum(free, inside), 0.0, 1.0), 0.0)

    def hidden(self, place_m: np.ndarray, rods: Rods, radius_m: float) -> np.ndarray:
        """Places on the belt [B, N, 2] that lie behind lines through the rods as thick as ``radius_m``, bool [B, N]."""
        drop = self.eye_m[2] - 0.5 * (rods.start_m[..., 2] + rods.end_m[..., 2])
        thickness = radius_m * self.eye_m[2] / np.maximum(drop, _BELOW_CAMERA_M)
        distance = _to_strips(place_m, self.shadow_m(rods.start_m), self.shadow_m(rods.end_m))
        return (distance < thickness[:, None]).any(axis=2)

    def shadow_m(self, point_m: np.ndarray) -> np.ndarray:
        """Where the rays from the camera through points [..., 3] meet the belt, [..., 2]."""
        drop = np.maximum(self.eye_m[2] - point_m[..., 2:], _BELOW_CAMERA_M)
        return self.eye_m[:2] + (point_m[..., :2] - self.eye_m[:2]) * (self.eye_m[2] / drop)


def _to_strips(point_m: np.ndarray, start_m: np.ndarray, end_m: np.ndarray) -> np.ndarray:
    """Distances [B, N, S] of points [B, N, 2] from segments [B, S, 2]."""
    way = end_m - start_m
    square = np.maximum((way * way).sum(axis=-1), 1e-12)
    delta = point_m[:, :, None] - start_m[:, None]
    share = np.clip((delta * way[:, None]).sum(axis=-1) / square[:, None], 0.0, 1.0)
    rest = delta - share[..., None] * way[:, None]
    return np.hypot(rest[..., 0], rest[..., 1])
