"""The messages of one tick as what the picking policy is given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from visuomotor.control.arm.config import ACTION_SIZE
from visuomotor.control.arm.inputs import AGENTS_MAX, CAMERA_NAMES, ArmInputs
from visuomotor.control.arm.kinematics import link_frames, tool_jacobian, tool_pose
from visuomotor.control.slots import TrackSlots
from visuomotor.messages.schema import ArmState, Forecast, Order, Tracks


def inputs_from_messages(
    arm_state: ArmState,
    order: Order,
    tracks: Tracks | None,
    forecast: Forecast | None,
    last_action_norm: np.ndarray | Sequence[float] = (0.0,) * ACTION_SIZE,
    cameras: Sequence[str] | None = None,
) -> ArmInputs:
    """One cell (B = 1) from the messages of one tick.

    ``cameras`` are the cameras alive, by default those that ``tracks`` names. At most 16 tracks are kept, the nearest
    to the tool. Forecasts are matched to tracks by id; a track without one is forecast to stand where it is, with
    probability zero.
    """
    joints = np.asarray(arm_state.joint_position_rad, np.float64)[None]
    speeds = np.asarray(arm_state.joint_velocity_radps, np.float64)[None]
    frames = link_frames(joints)
    tool = tool_pose(frames)
    slots = TrackSlots(tracks, tool.position_m[0, :2].astype(np.float32), AGENTS_MAX)
    forecast_m, probability = slots.match(forecast)
    alive = tuple(cameras if cameras is not None else (tracks.cameras if tracks is not None else ()))
    return ArmInputs(
        joint_position_rad=joints,
        joint_velocity_radps=speeds,
        gripper_width_m=np.array([arm_state.gripper_width_m]),
        gripper_force_n=np.array([arm_state.gripper_force_n]),
        tool_position_m=tool.position_m,
        tool_yaw_rad=tool.yaw_rad,
        tool_velocity_mps=(tool_jacobian(frames)[:, :3] @ speeds[:, :, None])[:, :, 0],
        wanted=np.asarray(order.wanted)[None],
        bin_index=np.asarray(order.bin_index)[None],
        bin_m=np.asarray(order.base_bin_m)[None],
        track_present=slots.present,
        track_id=slots.fill("track_id", dtype=np.int64),
        class_id=slots.fill("class_id", dtype=np.int64),
        track_position_m=slots.fill("odom_position_m", 2),
        track_velocity_mps=slots.fill("odom_velocity_mps", 2),
        track_heading_rad=slots.fill("odom_heading_rad"),
        track_size_m=slots.fill("size_m", 2),
        track_age_s=slots.fill("age_s"),
        track_unseen_s=slots.fill("unseen_s"),
        forecast_m=forecast_m,
        forecast_probability=probability,
        last_action_norm=np.asarray(last_action_norm, np.float32).reshape(1, ACTION_SIZE),
        camera_present=np.array([[name in alive for name in CAMERA_NAMES]]),
        forecast_step_s=0.1 if forecast is None else float(forecast.step_s),
    )
