"""The ego car: a PyBullet multibody with steered and driven wheels, and the low-level controller that moves it.

Chassis 4.5 x 1.8 m, 1500 kg, wheelbase 2.7 m; two steering knuckles, four wheels with Coulomb tyre friction on a plane.
There is no suspension: the attitude of the body is a quasi-static function of its accelerations (see ``attitude``).
Engine and brakes are velocity motors with a bounded torque, so that a brake stops a wheel and then holds it.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import numpy as np
import pybullet
from pybullet_utils.bullet_client import BulletClient

from visuomotor.control.config import VEHICLE
from visuomotor.sim.bullet import silent

CONTROL_DT_S = 0.1
PHYSICS_SUBSTEPS = 10  # 100 Hz
SOLVER_ITERATIONS = 10
TRACK_M = 1.56
WHEEL_RADIUS_M = 0.32
WHEEL_MASS_KG = 20.0
KNUCKLE_MASS_KG = 5.0
CENTRE_HEIGHT_M = 0.55
TYRE_FRICTION = 1.0
ACCELERATION_LAG_S = 0.15  # first order, engine and brakes
STEERING_LAG_S = 0.08  # first order, then the rate limit
STEERING_RATE_RADPS = 0.6
STEERING_TORQUE_NM = 3000.0
HOLD_SPEED_MPS = 0.3  # below this speed the brakes hold the car unless it is asked to accelerate
HOLD_BRAKE_MPS2 = 1.0
CORRECTION_GAIN = 0.3  # integral feedback of the acceleration error, per control step
CORRECTION_MAX_MPS2 = 1.0
ROLL_RAD_PER_MPS2 = 0.0071  # about 4 degrees per g, a mid-size car
PITCH_RAD_PER_MPS2 = 0.0053  # about 3 degrees per g
ATTITUDE_LAG_S = 0.12

_KNUCKLES = (0, 2)
_WHEELS = (1, 3, 4, 5)  # front left, front right, rear left, rear right
_JOINTS = (*_KNUCKLES, *_WHEELS)
_WHEEL_INERTIA = 0.4 * WHEEL_MASS_KG * WHEEL_RADIUS_M**2  # the collision shape is a sphere
_ROLLING_MASS_KG = VEHICLE.mass_kg + 4 * _WHEEL_INERTIA / WHEEL_RADIUS_M**2
_FREE_SPIN_RADPS = 1e3
_GRAVITY_MPS2 = 9.81
_LAG_END = math.exp(-CONTROL_DT_S / ACCELERATION_LAG_S)
_LAG_MEAN = ACCELERATION_LAG_S / CONTROL_DT_S * (1.0 - _LAG_END)
_STEERING_STEP = 1.0 - math.exp(-CONTROL_DT_S / STEERING_LAG_S)


class CarState(NamedTuple):
    """Pose of ``ego_`` in the map frame and motion at the end of a control step; accelerations are means over it."""

    x_m: float
    y_m: float
    yaw_rad: float
    speed_mps: float  # along ego x
    lateral_speed_mps: float
    yaw_rate_radps: float
    acceleration_mps2: float
    lateral_acceleration_mps2: float
    steering_angle_rad: float  # mean of the two front wheels


class Car:
    """One car in a PyBullet client of its own; the same resets and commands give the same states bit for bit."""

    def __init__(self) -> None:
        with silent():
            self._client = BulletClient(pybullet.DIRECT)
        # Bound once: BulletClient looks each function up anew at every call, which costs a tenth of a step.
        own = {"physicsClientId": self._client._client}
        self._set_motors = partial(pybullet.setJointMotorControlArray, **own)
        self._simulate = partial(pybullet.stepSimulation, **own)
        self._get_pose = partial(pybullet.getBasePositionAndOrientation, **own)
        self._get_velocity = partial(pybullet.getBaseVelocity, **own)
        self._get_joints = partial(pybullet.getJointStates, **own)
        self.reset(0.0, 0.0, 0.0, 0.0)

    def reset(self, x_m: float, y_m: float, yaw_rad: float, speed_mps: float) -> CarState:
        """Build the world anew (nothing of the last episode stays in contact or solver caches) and let the car roll."""
        client = self._client
        client.resetSimulation()
        client.setGravity(0.0, 0.0, -_GRAVITY_MPS2)
        client.setPhysicsEngineParameter(
            fixedTimeStep=CONTROL_DT_S,
            numSubSteps=PHYSICS_SUBSTEPS,
            numSolverIterations=SOLVER_ITERATIONS,
            deterministicOverlappingPairs=1,
        )
        plane = client.createMultiBody(0.0, client.createCollisionShape(pybullet.GEOM_PLANE))
        client.changeDynamics(plane, -1, lateralFriction=1.0)
        self._body = self._build(x_m, y_m, yaw_rad)
        velocity = (speed_mps * math.cos(yaw_rad), speed_mps * math.sin(yaw_rad), 0.0)
        client.resetBaseVelocity(self._body, velocity, (0.0, 0.0, 0.0))
        for joint in _WHEELS:
            client.resetJointState(self._body, joint, 0.0, speed_mps / WHEEL_RADIUS_M)
        self._actual_mps2 = 0.0
        self._correction_mps2 = 0.0
        self._angle_rad = 0.0
        self._knuckle_rad = (0.0, 0.0)
        self.state = CarState(x_m, y_m, yaw_rad, speed_mps, 0.0, 0.0, 0.0, 0.0, 0.0)
        return self.state

    def _build(self, x_m: float, y_m: float, yaw_rad: float) -> int:
        client = self._client
        wheel = client.createCollisionShape(pybullet.GEOM_SPHERE, radius=WHEEL_RADIUS_M)
        knuckle = client.createCollisionShape(
            pybullet.GEOM_SPHERE, radius=0.25
        )  # gives it an inertia, collides with nothing
        half = (VEHICLE.length_m / 2 - 0.1, VEHICLE.width_m / 2, 0.35)
        chassis = client.createCollisionShape(pybullet.GEOM_BOX, halfExtents=half)
        front, side, down = VEHICLE.wheelbase_m / 2, TRACK_M / 2, WHEEL_RADIUS_M - CENTRE_HEIGHT_M
        unit = (0.0, 0.0, 0.0, 1.0)
        up, across = (0, 0, 1), (0, 1, 0)
        # Links must come depth first: a wheel right after its knuckle, or friction acts on the wrong bodies.
        body = client.createMultiBody(
            baseMass=VEHICLE.mass_kg - 4 * WHEEL_MASS_KG - 2 * KNUCKLE_MASS_KG,
            baseCollisionShapeIndex=chassis,
            basePosition=(x_m, y_m, CENTRE_HEIGHT_M),
            baseOrientation=(0.0, 0.0, math.sin(yaw_rad / 2), math.cos(yaw_rad / 2)),
            linkMasses=[KNUCKLE_MASS_KG, WHEEL_MASS_KG, KNUCKLE_MASS_KG, WHEEL_MASS_KG, WHEEL_MASS_KG, WHEEL_MASS_KG],
            linkCollisionShapeIndices=[knuckle, wheel, knuckle, wheel, wheel, wheel],
            linkVisualShapeIndices=[-1] * 6,
            linkPositions=[
                (front, side, down),
                (0.0, 0.0, 0.0),
                (front, -side, down),
                (0.0, 0.0, 0.0),
                (-front, side, down),
                (-front, -side, down),
            ],
            linkOrientations=[unit] * 6,
            linkInertialFramePositions=[(0.0, 0.0, 0.0)] * 6,
            linkInertialFrameOrientations=[unit] * 6,
            linkParentIndices=[0, 1, 0, 3, 0, 0],
            linkJointTypes=[pybullet.JOINT_REVOLUTE] * 6,
            linkJointAxis=[up, across, up, across, across, across],
        )
        for link in range(-1, 6):
            client.changeDynamics(
                body,
                link,
                linearDamping=0.0,
                angularDamping=0.0,
                jointDamping=0.0,
                maxJointVelocity=_FREE_SPIN_RADPS,  # the default clamps wheels at 100 rad/s
            )
            client.changeDynamics(body, link, lateralFriction=TYRE_FRICTION)  # is ignored in the call above
        for link in (-1, *_KNUCKLES):
            client.setCollisionFilterGroupMask(body, link, 0, 0)
        client.changeDynamics(body, -1, activationState=pybullet.ACTIVATION_STATE_DISABLE_SLEEPING)
        return body

    def step(self, acceleration_mps2: float, steering_angle_rad: float) -> CarState:
        """One control step of 0.1 s towards the commanded acceleration and mean front-wheel angle."""
        before = self.state
        wanted = acceleration_mps2 + (self._actual_mps2 - acceleration_mps2) * _LAG_MEAN
        self._actual_mps2 = acceleration_mps2 + (self._actual_mps2 - acceleration_mps2) * _LAG_END
        holding = wanted <= 0.0 and before.speed_mps < HOLD_SPEED_MPS
        if holding:
            self._correction_mps2 = 0.0
        effort = min(wanted, -HOLD_BRAKE_MPS2) if holding else wanted + self._correction_mps2
        spin, torques = self._drive(effort)
        rates = self._steer(steering_angle_rad)
        # With internal substeps PyBullet scales a motor's impulse by the whole step: divide.
        forces = [STEERING_TORQUE_NM / PHYSICS_SUBSTEPS] * 2 + torques
        self._set_motors(
            self._body,
            _JOINTS,
            pybullet.VELOCITY_CONTROL,
            targetVelocities=[*rates, spin, spin, spin, spin],
            forces=forces,
        )
        self._simulate()
        self.state = self._read(before)
        if not holding:
            error = wanted - self.state.acceleration_mps2
            correction = self._correction_mps2 + CORRECTION_GAIN * error
            self._correction_mps2 = min(max(correction, -CORRECTION_MAX_MPS2), CORRECTION_MAX_MPS2)
        return self.state

    def _drive(self, effort_mps2: float) -> tuple[float, list[float]]:
        """Target wheel speed and the torque limit of each wheel; brakes are shared by dynamic axle load."""
        torque = _ROLLING_MASS_KG * abs(effort_mps2) * WHEEL_RADIUS_M / PHYSICS_SUBSTEPS
        share = 0.5
        if effort_mps2 < 0.0:
            share = min(0.5 - effort_mps2 * CENTRE_HEIGHT_M / (_GRAVITY_MPS2 * VEHICLE.wheelbase_m), 1.0)
        front, rear = 0.5 * torque * share, 0.5 * torque * (1.0 - share)
        return (_FREE_SPIN_RADPS if effort_mps2 > 0.0 else 0.0), [front, front, rear, rear]

    def _steer(self, angle_rad: float) -> tuple[float, float]:
        """Knuckle rates that ramp both wheels to their Ackermann angles by the end of the step."""
        limit = VEHICLE.max_steering_angle_rad
        wanted = min(max(angle_rad, -limit), limit) - self._angle_rad
        most = STEERING_RATE_RADPS * CONTROL_DT_S
        self._angle_rad += min(max(wanted * _STEERING_STEP, -most), most)
        slope = math.tan(self._angle_rad)
        base = VEHICLE.wheelbase_m
        left = math.atan(base * slope / (base - 0.5 * TRACK_M * slope))
        right = math.atan(base * slope / (base + 0.5 * TRACK_M * slope))
        return (left - self._knuckle_rad[0]) / CONTROL_DT_S, (right - self._knuckle_rad[1]) / CONTROL_DT_S

    def _read(self, before: CarState) -> CarState:
        body = self._body
        (x, y, _), (qx, qy, qz, qw) = self._get_pose(body)
        (vx, vy, _), (_, _, yaw_rate) = self._get_velocity(body)
        left, right = self._get_joints(body, _KNUCKLES)
        self._knuckle_rad = (left[0], right[0])
        yaw = math.atan2(2.0 * (qw * qz + qx * qy), 1.0 - 2.0 * (qy * qy + qz * qz))
        cos, sin = math.cos(yaw), math.sin(yaw)
        speed, lateral = vx * cos + vy * sin, vy * cos - vx * sin
        return CarState(
            x,
            y,
            yaw,
            speed,
            lateral,
            yaw_rate,
            (speed - before.speed_mps) / CONTROL_DT_S,
            0.5 * (yaw_rate + before.yaw_rate_radps) * 0.5 * (speed + before.speed_mps),
            0.5 * (left[0] + right[0]),
        )

    def close(self) -> None:
        """Disconnect the PyBullet client."""
        self._client.disconnect()


def attitude(
    roll_rad: np.ndarray, pitch_rad: np.ndarray, acceleration_mps2: np.ndarray, lateral_acceleration_mps2: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Next roll and pitch [B] of the body on its springs, one control step on: first order towards the static lean.

    Positive pitch is nose down (braking), positive roll is leaning right (turning left), as in ``messages.camera``.
    """
    share = 1.0 - math.exp(-CONTROL_DT_S / ATTITUDE_LAG_S)
    roll = roll_rad + share * (ROLL_RAD_PER_MPS2 * lateral_acceleration_mps2 - roll_rad)
    pitch = pitch_rad + share * (-PITCH_RAD_PER_MPS2 * acceleration_mps2 - pitch_rad)
    return roll, pitch
