"""The picking policy's inputs from simulated sensors and tracks: batched twin of ``control.arm.messages``."""

from __future__ import annotations

import numpy as np

from visuomotor.control.arm.config import CELL
from visuomotor.control.arm.inputs import CAMERA_NAMES, ArmInputs
from visuomotor.control.arm.kinematics import tool_jacobian, tool_pose
from visuomotor.messages.tasks import TASKS
from visuomotor.sim.cell.cell import CellWorlds
from visuomotor.sim.cell.sensors import ArmSensors
from visuomotor.sim.track_errors import PerceivedTracks

_BINS_M = np.array([[*centre, CELL.bin_size_m[2]] for centre in CELL.bin_centre_m])


def inputs_from_worlds(
    worlds: CellWorlds,
    sensors: ArmSensors,
    frames: np.ndarray,
    tracks: PerceivedTracks,
    last_action_norm: np.ndarray,
    *,
    camera_present: np.ndarray | None = None,
    futures: tuple[np.ndarray, np.ndarray] | None = None,
) -> ArmInputs:
    """What B cells know; ``frames`` [B, 8, 4, 4] are the links' of the measured joints, last action [B, 5].

    Cameras [B, 1] (by default alive), futures [B, N, K, T, 2] and [B, N, K] (by default none).
    """
    count, slots = tracks.present.shape
    if futures is None:
        futures = np.zeros((count, slots, 0, 0, 2), np.float32), np.zeros((count, slots, 0), np.float32)
    tool = tool_pose(frames)
    speeds = sensors.joint_velocity_radps
    return ArmInputs(
        joint_position_rad=sensors.joint_position_rad,
        joint_velocity_radps=speeds,
        gripper_width_m=sensors.gripper_width_m,
        gripper_force_n=sensors.gripper_force_n,
        tool_position_m=tool.position_m,
        tool_yaw_rad=tool.yaw_rad,
        tool_velocity_mps=(tool_jacobian(frames)[:, :3] @ speeds[:, :, None])[:, :, 0],
        wanted=worlds.wanted,
        bin_index=worlds.bin_index.copy(),
        bin_m=np.broadcast_to(_BINS_M, (count, *_BINS_M.shape)),
        track_present=tracks.present,
        track_id=tracks.track_id,
        class_id=tracks.class_id,
        track_position_m=tracks.position_m,
        track_velocity_mps=tracks.velocity_mps,
        track_heading_rad=tracks.heading_rad,
        track_size_m=tracks.size_m,
        track_age_s=tracks.age_s,
        track_unseen_s=tracks.unseen_s,
        forecast_m=futures[0],
        forecast_probability=futures[1],
        last_action_norm=last_action_norm,
        camera_present=np.ones((count, len(CAMERA_NAMES)), bool) if camera_present is None else camera_present,
        forecast_step_s=TASKS["pick"].forecast_step_s,
    )
