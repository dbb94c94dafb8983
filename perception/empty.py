"""Empty values of the perception messages: zero objects is a normal answer."""

from __future__ import annotations

import numpy as np

from visuomotor.messages.schema import Detections, Tracks


def no_detections(cameras: tuple[str, ...] = ()) -> Detections:
    """Detections of ``cameras`` that found nothing."""
    f32, i32 = np.float32, np.int32
    return Detections(
        cameras=cameras,
        camera_index=np.zeros(0, i32),
        class_id=np.zeros(0, i32),
        score=np.zeros(0, f32),
        box_px=np.zeros((0, 4), f32),
        ground_px=np.zeros((0, 2), f32),
        ego_position_m=np.zeros((0, 2), f32),
        ego_covariance_m2=np.zeros((0, 2, 2), f32),
        heading_rad=np.zeros(0, f32),
        size_m=np.zeros((0, 2), f32),
    )


def no_tracks(cameras: tuple[str, ...] = ()) -> Tracks:
    """No tracks, with ``cameras`` alive."""
    f32, i32 = np.float32, np.int32
    return Tracks(
        cameras=cameras,
        track_id=np.zeros(0, i32),
        class_id=np.zeros(0, i32),
        score=np.zeros(0, f32),
        odom_position_m=np.zeros((0, 2), f32),
        odom_velocity_mps=np.zeros((0, 2), f32),
        odom_heading_rad=np.zeros(0, f32),
        size_m=np.zeros((0, 2), f32),
        covariance=np.zeros((0, 4, 4), f32),
        age_s=np.zeros(0, f32),
        unseen_s=np.zeros(0, f32),
    )
