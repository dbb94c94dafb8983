"""The arm's guard among motors, torques and contacts: what hostile commands can make the arm hit, and how fast."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest

from visuomotor.control.arm.collision import bin_boxes
from visuomotor.control.arm.config import CONTROL_PERIOD_S, REST_RAD
from visuomotor.control.arm.guard import ArmGuard, ArmGuardSettings, ArmReading, ArmSituation
from visuomotor.control.arm.stopping import StopMargins

pybullet = pytest.importorskip("pybullet")
import pybullet_data  # noqa: E402

PHYSICS_HZ = 240
STEPS = round(PHYSICS_HZ * CONTROL_PERIOD_S)
TORQUE_NM = (87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0)  # Franka Control Interface documentation
JOINTS, FINGERS, FOREARM, FOOT = range(7), (9, 10), (4, 5, 6, 8, 9, 10), (-1, 0, 1)
CONTACT_MPS = StopMargins().contact_speed_mps


class Cell:
    """A Panda on its plate between two bins."""

    def __init__(self) -> None:
        self.own = {"physicsClientId": pybullet.connect(pybullet.DIRECT)}
        own = self.own
        pybullet.setTimeStep(1.0 / PHYSICS_HZ, **own)
        pybullet.setGravity(0.0, 0.0, -9.81, **own)
        path = os.path.join(pybullet_data.getDataPath(), "franka_panda", "panda.urdf")
        self.panda = pybullet.loadURDF(path, useFixedBase=True, flags=pybullet.URDF_USE_SELF_COLLISION, **own)
        for a in range(-1, 11):
            for b in range(a + 1, 11):
                pybullet.setCollisionFilterPair(self.panda, self.panda, a, b, int(a in FOOT and b in FOREARM), **own)
        middles, halves = (part.reshape(-1, 3).tolist() for part in bin_boxes())
        self.fixtures = [
            pybullet.createMultiBody(
                0.0,
                pybullet.createCollisionShape(pybullet.GEOM_BOX, halfExtents=half, **own),
                basePosition=middle,
                **own,
            )
            for middle, half in zip([[0.6, 0.0, -0.05], *middles], [[0.5, 1.5, 0.05], *halves], strict=True)
        ]
        self.position, self.sent = np.array(REST_RAD), np.zeros(7)
        for joint, angle in enumerate(REST_RAD):
            pybullet.resetJointState(self.panda, joint, angle, **own)
        for finger in FINGERS:
            pybullet.resetJointState(self.panda, finger, 0.04, **own)
        self.contacts = 0
        self.fastest_mps = 0.0

    def read(self) -> ArmReading:
        states = pybullet.getJointStates(self.panda, list(JOINTS), **self.own)
        return ArmReading(
            joint_position_rad=np.array([state[0] for state in states]),
            joint_velocity_radps=np.array([state[1] for state in states]),
            gripper_width_m=0.08,
        )

    def step(self, command: np.ndarray) -> None:
        """A period in which the motors go from the last command to the new one in a straight line."""
        for i in range(STEPS):
            speed = self.sent + (i + 1) / STEPS * (command - self.sent)
            pybullet.setJointMotorControlArray(
                self.panda,
                list(JOINTS),
                pybullet.VELOCITY_CONTROL,
                targetVelocities=speed.tolist(),
                forces=TORQUE_NM,
                **self.own,
            )
            for finger in FINGERS:
                pybullet.setJointMotorControl2(
                    self.panda, finger, pybullet.POSITION_CONTROL, targetPosition=0.04, force=40.0, **self.own
                )
            before = self.link_speeds()
            pybullet.stepSimulation(**self.own)
            self.watch(before)
        self.sent = command

    def link_speeds(self) -> dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        states = pybullet.getLinkStates(self.panda, list(range(11)), computeLinkVelocity=True, **self.own)
        return {link: tuple(np.array(state[k]) for k in (0, 6, 7)) for link, state in enumerate(states)}

    def watch(self, speeds: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]) -> None:
        """Count contacts, and how fast the link came towards what it touches, before the impulse."""
        for contact in pybullet.getContactPoints(bodyA=self.panda, **self.own):
            link, other, where, normal = contact[3], contact[2], np.array(contact[5]), np.array(contact[7])
            if contact[8] > 0.0 or link not in speeds or (other not in self.fixtures and other != self.panda):
                continue
            middle, linear, angular = speeds[link]
            self.contacts += 1
            self.fastest_mps = max(self.fastest_mps, abs(float((linear + np.cross(angular, where - middle)) @ normal)))

    def close(self) -> None:
        pybullet.disconnect(**self.own)


@pytest.fixture
def cell() -> Iterator[Cell]:
    one = Cell()
    yield one
    one.close()


def hostile(rng: np.random.Generator, kind: str) -> np.ndarray:
    """Joint velocities that a broken policy could send."""
    if kind == "noise":
        return rng.normal(0.0, 2.0, 7)
    if kind == "down":
        return np.array([rng.uniform(-2, 2), 2.0, 0.0, rng.uniform(-1.0, 2.0), 0.0, rng.uniform(-1.0, 1.0), 0.0])
    return rng.choice([-1e6, 0.0, 1e6], 7)  # "bang"


def drive(cell: Cell, guard: ArmGuard, kind: str, seed: int, ticks: int) -> set[str]:
    rng, wanted, causes = np.random.default_rng(seed), np.zeros(7), set()
    waiting = np.zeros(7)
    for _ in range(ticks):
        if rng.random() < 0.25:
            wanted = hostile(rng, kind)
        decision = guard.step(
            ArmSituation(
                command=(tuple(wanted.tolist()), 0.08), command_valid=True, command_age_s=0.0, state=cell.read()
            )
        )
        causes |= set(decision.causes)
        cell.step(waiting)  # what was computed from the last tick acts now
        waiting = np.array(decision.joint_velocity_radps)
    return causes


@pytest.mark.parametrize("kind", ["noise", "down", "bang"])
def test_nothing_is_hit_faster_than_the_contact_speed(cell: Cell, kind: str):
    causes = drive(cell, ArmGuard(), kind, seed=11, ticks=80)
    assert causes & {"collision_belt", "collision_bin", "collision_self", "limit_workspace"}
    assert cell.fastest_mps <= CONTACT_MPS
    assert cell.contacts == 0  # it is held clear of what it knows


def test_without_the_guard_the_same_commands_hit_hard(cell: Cell):
    drive(cell, ArmGuard(ArmGuardSettings(enabled=False)), "down", seed=11, ticks=40)
    assert cell.contacts > 0
    assert cell.fastest_mps > 3.0 * CONTACT_MPS
