"""Calibrations of a profile: readable, and such as a camera of its robot can have."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from visuomotor.launch.checks.examination import Check, Place
from visuomotor.launch.tasks import DEFAULT, TaskParts
from visuomotor.messages.camera import CameraModel, load_camera

FOV_RAD = (math.radians(15.0), math.radians(150.0))
ASPECT = 1.1  # fx / fy of any camera with square pixels
HEIGHT_M = (0.2, 4.0)
REACH_M = 10.0  # from the middle of a car, or the foot of an arm, to its camera


def check_calibrations(place: Place) -> list[Check]:
    """Each camera of the profile; none without one."""
    if place.profile is None:
        return []
    checks = []
    for name, file in zip(place.profile.cameras, place.profile.camera_files, strict=True):
        try:
            problems = find_implausible(load_camera(Path(file)), place.profile.parts)
        except ValueError as error:
            checks.append(Check(f"calibration {name}", "bad", str(error), "calibrate it again"))
            continue
        if problems:
            do = "calibrate it again, or correct the file: metric positions come from it"
            checks.append(Check(f"calibration {name}", "bad", f"{file}: {'; '.join(problems)}", do))
        else:
            camera = load_camera(Path(file))
            where = "on the hand" if camera.on_hand else f"{camera.ego_position_m[2]:.2f} m up"
            found = f"{math.degrees(camera.horizontal_fov_rad):.0f} degrees, {where}"
            checks.append(Check(f"calibration {name}", "ok", found))
    return checks


def find_implausible(camera: CameraModel, task: TaskParts = DEFAULT) -> list[str]:
    """What no camera of a task's robot has, with the value found and what was expected."""
    x, y, z = camera.ego_position_m
    shift = max(abs(camera.cx / camera.width - 0.5), abs(camera.cy / camera.height - 0.5))
    checks = [
        (FOV_RAD[0] < camera.horizontal_fov_rad < FOV_RAD[1],
         f"fx {camera.fx:.0f} px for {camera.width} px: {math.degrees(camera.horizontal_fov_rad):.0f} degrees, "
         "expected 15 to 150"),
        (1 / ASPECT < camera.fx / camera.fy < ASPECT, f"fx / fy {camera.fx / camera.fy:.2f}, expected about 1"),
        (shift < 0.25, f"principal point ({camera.cx:.0f}, {camera.cy:.0f}) px, expected near the middle"),
        (camera.on_hand or HEIGHT_M[0] <= z <= HEIGHT_M[1], f"{z:.2f} m above the ground, expected 0.2 to 4"),
        (math.hypot(x, y) < REACH_M, f"at ({x:.1f}, {y:.1f}) m, expected on the {task.robot}"),
        (camera.on_hand or max(abs(camera.ego_pitch_rad), abs(camera.ego_roll_rad)) < task.camera_tilt_rad,
         f"pitch {camera.ego_pitch_rad:.2f}, roll {camera.ego_roll_rad:.2f} rad, expected at most "
         f"{task.camera_tilt_rad}; degrees?"),
        (not _folds(camera), f"distortion {camera.distortion} folds the image over inside the frame"),
    ]  # fmt: skip
    return [text for fits, text in checks if not fits]


def _folds(camera: CameraModel) -> bool:
    """Whether the radial distortion stops to grow before the corner of the image."""
    corner = math.hypot(max(camera.cx, camera.width - camera.cx) / camera.fx,
                        max(camera.cy, camera.height - camera.cy) / camera.fy)  # fmt: skip
    radius = np.linspace(0.0, corner, 200)
    k1, k2, _, _, k3 = camera.distortion
    grown = radius * (1.0 + radius**2 * (k1 + radius**2 * (k2 + radius**2 * k3)))
    return bool((np.diff(grown) <= 0.0).any())
