"""Cells with just the parts that a test is about, and a hand that moves in them."""

from __future__ import annotations

import msgspec
import numpy as np
import pybullet

from visuomotor.control.arm.config import CELL
from visuomotor.control.arm.kinematics import forward, solve_velocity
from visuomotor.sim.cell.belt import BeltProgram
from visuomotor.sim.cell.parts import CATALOGUE, draw_part
from visuomotor.sim.cell.scenario import Arrival, OrderSpec, cell_case


def part(name, seed=0, **more):
    """A part of a kind of the catalogue by its name."""
    kind = next(i for i, row in enumerate(CATALOGUE) if row.name == name)
    return msgspec.structs.replace(draw_part(kind, "train", np.random.default_rng(seed)), **more)


def arrival(name="red cube", y=0.1, x=0.5, yaw=0.0, seed=0, roll=(0.0, 0.0), **more):
    return Arrival(part=part(name, seed, **more), start_y_m=y, x_m=x, yaw_rad=yaw, roll_mps=roll, kind="plain")


def make_case(*arrivals, speed=0.0, order=None, orders=None, belt=None, duration_s=20.0, bins=(0, 1, 0, 1, 0, 1)):
    """A shift with just these parts; by default everything of a class is ordered."""
    if orders is None:
        total = (
            order
            if order is not None
            else np.bincount([a.part.class_id for a in arrivals if a.part.class_id >= 0], minlength=6)
        )
        orders = (OrderSpec(total=tuple(int(n) for n in total)),)
    return msgspec.structs.replace(
        cell_case("pick-v1", "train", 0),
        motion="constant",
        belt=belt or BeltProgram(speed_mps=(speed,)),
        belt_friction=1.0,
        arrivals=tuple(sorted(arrivals, key=lambda a: a.start_y_m)),
        orders=orders,
        bin_index=bins,
        events=("constant",),
        duration_s=duration_s,
    )


def idle(worlds, steps=1):
    for _ in range(steps):
        worlds.step(np.zeros((worlds.count, 7)), np.full(worlds.count, 0.08))


class Hand:
    """Moves the tool of a single cell by hand: ``go`` to a point, with an acceleration that a grasp survives."""

    def __init__(self, worlds):
        self.worlds = worlds
        self.velocity = np.zeros(4)

    def follow(self, target_m, feed_mps=(0.0, 0.0, 0.0), width_m=0.08, yaw_rad=0.0):
        """One step towards a target that moves."""
        tool = forward(self.worlds.joint_position_rad)
        off = np.asarray(target_m) - tool.position_m[0]
        turn = (yaw_rad - float(tool.yaw_rad[0]) + np.pi / 2) % np.pi - np.pi / 2
        wanted = np.array([*(np.clip(4.0 * off, -0.5, 0.5) + feed_mps), np.clip(4.0 * turn, -1.5, 1.5)])
        change = wanted - self.velocity
        change *= min(1.0, 0.25 / max(np.linalg.norm(change[:3]), 1e-9))  # 2.5 m/s2
        self.velocity = self.velocity + change
        self.worlds.step(solve_velocity(self.worlds.joint_position_rad, self.velocity[None]), np.array([width_m]))
        return float(np.linalg.norm(off))

    def go(self, target_m, width_m=0.08, steps=60, near_m=0.004):
        for _ in range(steps):
            if self.follow(target_m, width_m=width_m) < near_m:
                return
        raise AssertionError(f"the tool did not get to {target_m}")

    def pick(self, slot=0):
        """Follow a part from above, go down, close, lift."""
        w = self.worlds

        def there(height_m):
            return [*w.part_position_m[0, slot, :2], height_m], (0.0, w.part_velocity_mps[0, slot, 1], 0.0)

        grip_m = max(0.5 * w.part_size_m[0, slot, 2], 0.018)
        for height_m, steps in ((0.12, 25), (grip_m, 12)):
            for _ in range(steps):
                self.follow(*there(height_m), yaw_rad=w.part_yaw_rad[0, slot])
        for _ in range(6):
            self.follow(*there(grip_m), width_m=0.0, yaw_rad=w.part_yaw_rad[0, slot])
        for _ in range(15):
            tool = w.tool_position_m[0]
            self.follow([tool[0], tool[1], 0.2], width_m=0.0, yaw_rad=float(forward(w.joint_position_rad).yaw_rad[0]))


def drop_into(worlds, slot, place, index=0, aside_m=0.0):
    """Let a part fall into a bin, beside what lies in its middle."""
    pybullet.resetBasePositionAndOrientation(
        int(worlds._handle[index, slot]),
        (CELL.bin_centre_m[place][0] + aside_m, CELL.bin_centre_m[place][1], 0.12),
        (0, 0, 0, 1),
        physicsClientId=worlds.client(index),
    )
    idle(worlds, 3)
