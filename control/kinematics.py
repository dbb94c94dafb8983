"""Motion of a car: bicycle model, lane keeping, stopping distances. The arm's kinematics have a file of their own.

The reference point is the middle of the wheelbase, the origin of ``ego_``.
"""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from visuomotor.control.config import ENVELOPE, VEHICLE

Numbers = float | npt.NDArray[np.floating]

SPEED_FLOOR_MPS = 3.0  # below, the law steers as at this speed: no sawing at the wheel when creeping


class LaneKeeping(msgspec.Struct, frozen=True, kw_only=True):
    """Gains of the lane-keeping law.

    The lateral error asks for a lateral velocity, that for a course, and the course for a curvature. Velocity and
    acceleration are bounded so that a lane change of 3.5 m takes 3 to 4 s at 1.5 m/s2 or less.
    """

    delay_s: float = 0.15  # from measurement to the wheels: one tick of computation and the actuator's lag
    error_time_s: float = 0.9
    course_time_s: float = 0.4
    max_lateral_velocity_mps: float = 1.6
    max_lateral_acceleration_mps2: float = 1.5  # of the correction; curvature feed-forward comes on top
    max_course_rad: float = 0.45
    max_curvature_pm: float = 0.2


LANE_KEEPING = LaneKeeping()


def bicycle_slip_rad(steering_angle_rad: Numbers, vehicle: object = VEHICLE) -> np.ndarray:
    """Angle from the body's axis to the velocity of the middle of the wheelbase, without tyre slip."""
    return np.arctan(0.5 * np.tan(steering_angle_rad))


def steering_for_curvature(curvature_pm: Numbers, wheelbase_m: float = VEHICLE.wheelbase_m) -> np.ndarray:
    """Front-wheel angle at which the middle of the wheelbase runs on the given curvature, kinematic bicycle."""
    # curvature = cos(slip) tan(angle) / wheelbase with tan(slip) = tan(angle) / 2
    scaled = np.multiply(curvature_pm, wheelbase_m)
    return np.arctan(scaled / np.sqrt(np.maximum(1.0 - 0.25 * scaled * scaled, 0.05)))


def curvature_for_steering(steering_angle_rad: Numbers, wheelbase_m: float = VEHICLE.wheelbase_m) -> np.ndarray:
    """Curvature of the path of the middle of the wheelbase, inverse of ``steering_for_curvature``."""
    tangent = np.tan(steering_angle_rad)
    return tangent / np.sqrt(1.0 + 0.25 * tangent * tangent) / wheelbase_m


def bicycle_step(
    pose: np.ndarray,
    speed_mps: Numbers,
    steering_angle_rad: Numbers,
    dt_s: float,
    wheelbase_m: float = VEHICLE.wheelbase_m,
) -> np.ndarray:
    """Pose [..., 3] (x, y, yaw of the middle of the wheelbase) after ``dt_s`` on a circular arc, kinematic bicycle."""
    slip = bicycle_slip_rad(steering_angle_rad)
    yaw_rate = np.multiply(speed_mps, np.cos(slip) * np.tan(steering_angle_rad) / wheelbase_m)
    course = pose[..., 2] + slip + 0.5 * yaw_rate * dt_s  # chord of the arc
    half = 0.5 * yaw_rate * dt_s
    chord = np.multiply(speed_mps, dt_s) * np.sinc(half / np.pi)
    return np.stack(
        [pose[..., 0] + chord * np.cos(course), pose[..., 1] + chord * np.sin(course), pose[..., 2] + yaw_rate * dt_s],
        axis=-1,
    )


def max_curvature(
    speed_mps: Numbers, lateral_acceleration_mps2: float = ENVELOPE.max_lateral_acceleration_mps2
) -> np.ndarray:
    """Curvature at which the lateral acceleration reaches its limit, 1/m."""
    speed = np.minimum(np.maximum(np.abs(speed_mps), 0.5), 1e3)
    return lateral_acceleration_mps2 / (speed * speed)


def max_steering(
    speed_mps: Numbers, lateral_acceleration_mps2: float = ENVELOPE.max_lateral_acceleration_mps2
) -> np.ndarray:
    """Largest front-wheel angle within the lateral limit and the mechanical one, rad."""
    angle = steering_for_curvature(max_curvature(speed_mps, lateral_acceleration_mps2))
    return np.minimum(angle, VEHICLE.max_steering_angle_rad)


def lane_keeping_curvature(
    speed_mps: Numbers,
    lateral_error_m: Numbers,
    course_error_rad: Numbers,
    route_curvature_pm: Numbers,
    gains: LaneKeeping = LANE_KEEPING,
) -> np.ndarray:
    """Curvature that brings the car to its lateral target.

    ``lateral_error_m`` is the car's offset to the left of the target, ``course_error_rad`` its course relative to the
    route, ``route_curvature_pm`` the feed-forward where the command will act. The result is within +-max_curvature_pm.
    """
    speed = np.maximum(speed_mps, SPEED_FLOOR_MPS)
    error = np.asarray(lateral_error_m)
    # Close to the target the velocity falls in proportion, farther out with the root: constant deceleration.
    linear = np.abs(error) / gains.error_time_s
    root = np.sqrt(2.0 * 0.6 * gains.max_lateral_acceleration_mps2 * np.abs(error))
    lateral_velocity = -np.sign(error) * np.minimum(np.minimum(linear, root), gains.max_lateral_velocity_mps)
    course = np.arcsin(np.clip(lateral_velocity / speed, -np.sin(gains.max_course_rad), np.sin(gains.max_course_rad)))
    correction = (course - course_error_rad) / (speed * gains.course_time_s)
    bound = gains.max_lateral_acceleration_mps2 / (speed * speed)
    correction = np.clip(correction, -bound, bound)
    return np.clip(route_curvature_pm + correction, -gains.max_curvature_pm, gains.max_curvature_pm)


def stopping_distance(speed_mps: Numbers, deceleration_mps2: Numbers, reaction_s: Numbers = 0.0) -> np.ndarray:
    """Way to standstill at constant deceleration (> 0) after the reaction time, m."""
    speed = np.maximum(speed_mps, 0.0)
    return np.multiply(speed, reaction_s) + speed * speed / (2.0 * np.asarray(deceleration_mps2))


def required_deceleration(closing_mps: Numbers, gap_m: Numbers) -> np.ndarray:
    """Deceleration (>= 0) that brings the closing speed to zero within the gap, m/s2; at most 100."""
    closing = np.maximum(closing_mps, 0.0)
    return np.minimum(closing * closing / (2.0 * np.maximum(gap_m, 0.01)), 100.0)


def curve_acceleration(
    speed_mps: np.ndarray, distance_m: np.ndarray, curvature_pm: np.ndarray, lateral_acceleration_mps2: float = 2.0
) -> np.ndarray:
    """Lowest acceleration [B] needed to reach each previewed curve slow enough; positive where there is room.

    ``distance_m`` [P] ahead, ``curvature_pm`` [B, P]; the speed in a curve is sqrt(lateral limit / curvature).
    """
    allowed = lateral_acceleration_mps2 / np.maximum(np.abs(curvature_pm), 1e-4)
    needed = (allowed - np.square(speed_mps)[:, None]) / (2.0 * np.maximum(distance_m, 1.0))
    return needed.min(axis=1)
