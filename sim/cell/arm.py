"""The Panda in a PyBullet client: velocity motors in the joints, a gripper with a bounded force, what it touches.

Joints follow their commanded speed as far as the manufacturer's torques go. The fingers are geared to each other and
close with ``GRIP_FORCE_N`` at half the gripper's speed each; what they hold is held by friction alone.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
import pybullet
import pybullet_data

from visuomotor.control.arm.config import CONTROL_PERIOD_S, JOINTS, LIMITS, REST_RAD
from visuomotor.control.arm.kinematics import FINGER_TIPS_M, FLANGE_M
from visuomotor.sim.bullet import silent

PHYSICS_HZ = 240
SUBSTEPS = round(PHYSICS_HZ * CONTROL_PERIOD_S)  # physics steps in a control step
STEPS_PER_CALL = 3  # PyBullet counts impulses by the call: forces go in as so much less and come out so much smaller
GRIP_FORCE_N = 40.0
FINGER_FRICTION = 1.3  # rubber pads
# Links: the foot is -1, seven joints, and the fingers; flange and hand are one with the last joint's link.
WRIST, FINGERS = 6, (7, 8)
_TOOL_M = FLANGE_M + FINGER_TIPS_M  # beyond the wrist
_TORQUE_NM = (87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0)  # Franka Control Interface documentation
_MOTOR_TORQUE_NM = tuple(torque / STEPS_PER_CALL for torque in _TORQUE_NM)
_FINGER_STOP_M = 0.04
_GEAR_FORCE_N = 200.0
_FINGER_GAIN = 0.2  # of the rest of the way, per physics step
_JOINTS = tuple(range(JOINTS))
_ALL = (*_JOINTS, *FINGERS)
_FOREARM = (5, WRIST, *FINGERS)  # can touch the pedestal and the upper arm; the hulls of neighbours overlap anyway
_PEDESTAL = (-1, 0, 1)


class ArmReading(NamedTuple):
    """State of the arm at the end of a control step."""

    joint_position_rad: list[float]
    joint_velocity_radps: list[float]
    gripper_width_m: float
    gripper_force_n: float
    tool_position_m: tuple[float, float, float]


class PandaArm:
    """The arm in one client, loaded anew with every reset of the simulation."""

    def __init__(self, client: int) -> None:
        self._flags = (
            pybullet.URDF_USE_SELF_COLLISION | pybullet.URDF_MERGE_FIXED_LINKS | pybullet.URDF_IGNORE_VISUAL_SHAPES
        )
        own = {"physicsClientId": client}
        self._own = own
        self._set_motors = partial(pybullet.setJointMotorControlArray, **own)
        self._set_motor = partial(pybullet.setJointMotorControl2, **own)
        self._get_joints = partial(pybullet.getJointStates, **own)
        self._get_link = partial(pybullet.getLinkState, **own)
        self._get_contacts = partial(pybullet.getContactPoints, **own)
        self.body = -1
        self._speeds_radps: list[float] = []  # what the motors were told
        self._width_m = -1.0

    def load(self) -> None:
        """Put the arm into the freshly reset simulation, at rest with open fingers."""
        own = self._own
        with silent():  # it tells what it merges
            self.body = body = pybullet.loadURDF(
                f"{pybullet_data.getDataPath()}/franka_panda/panda.urdf", useFixedBase=True, flags=self._flags, **own
            )
        for a in range(-1, FINGERS[1]):
            for b in range(a + 1, FINGERS[1] + 1):
                touches = (a in _PEDESTAL and b in _FOREARM) or (a, b) == FINGERS
                pybullet.setCollisionFilterPair(body, body, a, b, int(touches), **own)
        for joint, angle in zip(_JOINTS, REST_RAD, strict=True):
            pybullet.resetJointState(body, joint, angle, 0.0, **own)
            pybullet.changeDynamics(body, joint, jointDamping=0.0, **own)
        for finger in FINGERS:
            pybullet.resetJointState(body, finger, _FINGER_STOP_M, 0.0, **own)
            pybullet.changeDynamics(body, finger, lateralFriction=FINGER_FRICTION, jointDamping=0.0, **own)
        pybullet.changeDynamics(body, -1, linearDamping=0.0, angularDamping=0.0, **own)
        gear = pybullet.createConstraint(
            body, FINGERS[0], body, FINGERS[1], pybullet.JOINT_GEAR, (1, 0, 0), (0, 0, 0), (0, 0, 0), **own
        )
        pybullet.changeConstraint(gear, gearRatio=-1, erp=0.2, maxForce=_GEAR_FORCE_N / STEPS_PER_CALL, **own)
        self._speeds_radps, self._width_m = [], -1.0
        self.drive([0.0] * JOINTS)
        self.grip(LIMITS.gripper_width_m)

    def drive(self, joint_velocity_radps: list[float]) -> None:
        """Set the joints' speeds until the next call."""
        if joint_velocity_radps == self._speeds_radps:
            return
        self._speeds_radps = joint_velocity_radps
        self._set_motors(
            self.body,
            _JOINTS,
            pybullet.VELOCITY_CONTROL,
            targetVelocities=joint_velocity_radps,
            forces=_MOTOR_TORQUE_NM,
        )

    def grip(self, width_m: float) -> None:
        """Set the width that the gripper goes to."""
        if width_m == self._width_m:
            return
        self._width_m = width_m
        for finger in FINGERS:
            self._set_motor(
                self.body,
                finger,
                pybullet.POSITION_CONTROL,
                targetPosition=0.5 * width_m,
                force=GRIP_FORCE_N / STEPS_PER_CALL,
                maxVelocity=0.5 * LIMITS.gripper_speed_mps,
                positionGain=_FINGER_GAIN,
            )

    def read(self) -> ArmReading:
        """Joints and gripper; the force is the mean of the two motors' while they close."""
        states = self._get_joints(self.body, _ALL)
        left, right = states[JOINTS], states[JOINTS + 1]
        return ArmReading(
            [state[0] for state in states[:JOINTS]],
            [state[1] for state in states[:JOINTS]],
            left[0] + right[0],
            max(0.0, -0.5 * STEPS_PER_CALL * (left[3] + right[3])),
            self._tool(),
        )

    def _tool(self) -> tuple[float, float, float]:
        (px, py, pz), (x, y, z, w) = self._get_link(self.body, WRIST)[4:6]
        return (
            px + _TOOL_M * 2.0 * (x * z + y * w),
            py + _TOOL_M * 2.0 * (y * z - x * w),
            pz + _TOOL_M * (1.0 - 2.0 * (x * x + y * y)),
        )

    def hit_force_n(self, fixtures: frozenset[int]) -> float:
        """Normal forces between the arm and the fixtures or itself, all together, N; that of closed fingers is none."""
        force = 0.0
        for contact in self._get_contacts(self.body):
            other = contact[2] if contact[1] == self.body else contact[1]
            fingers = other == self.body and contact[3] in FINGERS and contact[4] in FINGERS
            if other in fixtures or (other == self.body and not fingers):
                force += contact[9]
        return STEPS_PER_CALL * force


def usable_velocity(joint_velocity_radps: np.ndarray) -> np.ndarray:
    """Commanded joint speeds [..., 7] within the limits; a row that is not finite means standing still."""
    limit = np.array(LIMITS.velocity_radps)
    finite = np.isfinite(joint_velocity_radps).all(axis=-1, keepdims=True)
    return np.where(finite, np.clip(joint_velocity_radps, -limit, limit), 0.0)
