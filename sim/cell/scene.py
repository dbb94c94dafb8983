"""One cell in a PyBullet client of its own: plate, belt, bins, the arm and the parts that are there at the moment."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pybullet

from visuomotor.control.arm.config import CELL
from visuomotor.sim.bullet import silent
from visuomotor.sim.cell.arm import PHYSICS_HZ, STEPS_PER_CALL, SUBSTEPS, PandaArm
from visuomotor.sim.cell.parts import CATALOGUE, PartSpec, touch_vertices

SOLVER_ITERATIONS = 35  # joints are at most 0.02 rad/s behind a ramp; 0.05 with 20
BELT_THICKNESS_M = 0.04
BELT_SPARE_M = 20.0  # beyond what is seen of it, so that the moving box need not be put back within an episode
BIN_WALL_M = 0.006
PLATE_GAP_M = 0.004  # between belt and plate
PLATE_X_M = (-0.40, 0.95)

Vector = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]
_GRAVITY_MPS2 = 9.81
_STILL = (0.0, 0.0, 0.0)
_UNIT = (0.0, 0.0, 0.0, 1.0)
# A ramp over the control step in stairs of ``STEPS_PER_CALL`` physics steps: at each the ramp's mean.
_STAIRS = SUBSTEPS // STEPS_PER_CALL
_BELT_SHARE = ((np.arange(_STAIRS) + 0.5) / _STAIRS).tolist()
_JOINT_SHARE = np.array(_BELT_SHARE)[:, None] + 0.5 / SUBSTEPS
_WATCH_STAIRS = 2  # between two looks at what the arm touches


class Scene:
    """The bodies of one cell; the same resets, parts and commands give the same states bit for bit."""

    def __init__(self) -> None:
        with silent():
            self.client = pybullet.connect(pybullet.DIRECT)
        own = {"physicsClientId": self.client}
        self._own = own
        self._simulate = partial(pybullet.stepSimulation, **own)
        self._set_velocity = partial(pybullet.resetBaseVelocity, **own)
        self._get_velocity = partial(pybullet.getBaseVelocity, **own)
        self._get_pose = partial(pybullet.getBasePositionAndOrientation, **own)
        self.arm = PandaArm(self.client)
        self._belt, self._belt_speed_mps = -1, 0.0
        self.fixtures: frozenset[int] = frozenset()  # what the arm must not hit

    def reset(self, belt_friction: float) -> None:
        """Build the cell anew, without parts: nothing of the last episode stays in contact or solver caches."""
        own = self._own
        pybullet.resetSimulation(**own)
        pybullet.setGravity(0.0, 0.0, -_GRAVITY_MPS2, **own)
        pybullet.setPhysicsEngineParameter(
            fixedTimeStep=STEPS_PER_CALL / PHYSICS_HZ,
            numSubSteps=STEPS_PER_CALL,
            numSolverIterations=SOLVER_ITERATIONS,
            deterministicOverlappingPairs=1,
            **own,
        )
        self.arm.load()
        self._belt, self._belt_speed_mps = self._build_belt(belt_friction), 0.0
        self.fixtures = frozenset(
            {self._belt, *self._build_plate(), *(self._build_bin(xy) for xy in CELL.bin_centre_m)}
        )

    def step(
        self,
        joint_velocity_radps: tuple[np.ndarray, np.ndarray],
        gripper_width_m: float,
        belt_speed_mps: tuple[float, float],
    ) -> float:
        """Advance by one control period, in which joints [7] and belt go from one speed to another in a straight line.

        Returns the greatest force between the arm and what it must not touch, N.
        """
        arm, force = self.arm, 0.0
        start, end = joint_velocity_radps
        ramp = (start + _JOINT_SHARE * (end - start)).tolist()
        arm.grip(gripper_width_m)
        for stair, velocity in enumerate(ramp):
            speed = belt_speed_mps[0] + _BELT_SHARE[stair] * (belt_speed_mps[1] - belt_speed_mps[0])
            if speed != self._belt_speed_mps:
                self._belt_speed_mps = speed
                self._set_velocity(self._belt, (0.0, -speed, 0.0), _STILL)
            arm.drive(velocity)
            self._simulate()
            if stair % _WATCH_STAIRS == _WATCH_STAIRS - 1:
                force = max(force, arm.hit_force_n(self.fixtures))
        return force

    def add_part(
        self, spec: PartSpec, position_m: Vector, yaw_rad: float, velocity_mps: Vector, spin_radps: Vector = _STILL
    ) -> int:
        """Put a part into the cell, its middle at a position; the handle that names it until it is removed."""
        own = self._own
        body = pybullet.createMultiBody(
            spec.mass_kg,
            _touch_shape(spec, own),
            -1,
            position_m,
            (0.0, 0.0, math.sin(yaw_rad / 2.0), math.cos(yaw_rad / 2.0)),
            useMaximalCoordinates=True,
            **own,
        )
        pybullet.changeDynamics(
            body,
            -1,
            lateralFriction=spec.friction,
            rollingFriction=spec.rolling_friction_m,
            spinningFriction=0.001,
            restitution=0.0,
            linearDamping=0.0,
            angularDamping=0.0,
            **own,
        )
        self._set_velocity(body, velocity_mps, spin_radps)
        return int(body)

    def remove_part(self, handle: int) -> None:
        """Take a part out of the cell."""
        pybullet.removeBody(handle, **self._own)

    def part_state(self, handle: int) -> tuple[Vector, Quaternion, Vector]:
        """Position (m), orientation (x, y, z, w) and velocity (m/s) of a part."""
        position, orientation = self._get_pose(handle)
        return position, orientation, self._get_velocity(handle)[0]

    def close(self) -> None:
        """Disconnect the client."""
        pybullet.disconnect(self.client)

    def _fixture(self, shape: int, position_m: Vector, friction: float, *, moves: bool = False) -> int:
        """A body without mass; only one that ``moves`` may be given a velocity."""
        body = pybullet.createMultiBody(0.0, shape, -1, position_m, _UNIT, useMaximalCoordinates=not moves, **self._own)
        pybullet.changeDynamics(body, -1, lateralFriction=friction, rollingFriction=0.0, restitution=0.0, **self._own)
        return int(body)

    def _box(self, low: Vector, high: Vector) -> tuple[int, Vector]:
        half = [0.5 * (b - a) for a, b in zip(low, high, strict=True)]
        x, y, z = (0.5 * (a + b) for a, b in zip(low, high, strict=True))
        return pybullet.createCollisionShape(pybullet.GEOM_BOX, halfExtents=half, **self._own), (x, y, z)

    def _build_belt(self, friction: float) -> int:
        (x0, x1), (y0, y1) = CELL.belt_x_m, CELL.belt_y_m
        shape, middle = self._box((x0, y0, -BELT_THICKNESS_M), (x1, y1 + BELT_SPARE_M, 0.0))
        return self._fixture(shape, middle, friction, moves=True)

    def _build_plate(self) -> list[int]:
        """The plate on both sides of the belt."""
        (x0, x1), (y0, y1) = CELL.belt_x_m, CELL.belt_y_m
        sides = ((PLATE_X_M[0], x0 - PLATE_GAP_M), (x1 + PLATE_GAP_M, PLATE_X_M[1]))
        boxes = [self._box((low, y0, -BELT_THICKNESS_M), (high, y1, 0.0)) for low, high in sides]
        return [self._fixture(shape, middle, 0.8) for shape, middle in boxes]

    def _build_bin(self, centre_m: tuple[float, float]) -> int:
        """A box without a lid that stands on the plate."""
        length, width, height = CELL.bin_size_m
        wall, half = BIN_WALL_M, 0.5 * height
        along, across = 0.5 * length + wall, 0.5 * width + wall
        shape = pybullet.createCollisionShapeArray(
            shapeTypes=[pybullet.GEOM_BOX] * 5,
            halfExtents=[
                (along, across, 0.5 * wall),
                (0.5 * wall, across, half),
                (0.5 * wall, across, half),
                (along, 0.5 * wall, half),
                (along, 0.5 * wall, half),
            ],
            collisionFramePositions=[
                (0.0, 0.0, 0.5 * wall),
                (0.5 * (length + wall), 0.0, half),
                (-0.5 * (length + wall), 0.0, half),
                (0.0, 0.5 * (width + wall), half),
                (0.0, -0.5 * (width + wall), half),
            ],
            **self._own,
        )
        return self._fixture(shape, (*centre_m, 0.0), 0.6)


def _touch_shape(spec: PartSpec, own: dict[str, int]) -> int:
    length, width, height = spec.size_m
    match CATALOGUE[spec.kind].shape:
        case "box":
            half = (0.5 * length, 0.5 * width, 0.5 * height)
            return int(pybullet.createCollisionShape(pybullet.GEOM_BOX, halfExtents=half, **own))
        case "cylinder":
            return int(pybullet.createCollisionShape(pybullet.GEOM_CYLINDER, radius=0.5 * width, height=height, **own))
        case "sphere":
            return int(pybullet.createCollisionShape(pybullet.GEOM_SPHERE, radius=0.5 * width, **own))
    return int(pybullet.createCollisionShape(pybullet.GEOM_MESH, vertices=touch_vertices(spec).tolist(), **own))
