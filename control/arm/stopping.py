"""Whether the arm can still be brought to rest: the paths that a command and the stop after it lead along.

A command is admitted when acting for a period and braking to rest afterwards breaks no limit anywhere on the way
(Beckert, Pereira, Althoff 2017, "Online verification of multiple safety criteria for a robot trajectory"). Then the
next command may always be that stop, and so on: what was safe once can stay so.
"""

from __future__ import annotations

import msgspec
import numpy as np

from visuomotor.control.arm.action import ACCELERATION_RADPS2, POSITION_MAX_RAD, POSITION_MIN_RAD, brake, stopping_time
from visuomotor.control.arm.collision import WRIST_MIN_RAD, Surroundings
from visuomotor.control.arm.config import JOINTS, CellGeometry
from visuomotor.control.arm.kinematics import jacobian, limit_speed

LIMIT_JOINT_POSITION = "limit_joint_position"
LIMIT_WORKSPACE = "limit_workspace"
LIMIT_TOOL_SPEED = "limit_tool_speed"
COLLISION_BELT = "collision_belt"
COLLISION_BIN = "collision_bin"
COLLISION_SELF = "collision_self"
ROOMS = (  # cause of each column of what ``StopPaths`` measures
    *(LIMIT_JOINT_POSITION,) * (2 * JOINTS),
    *(LIMIT_WORKSPACE,) * 6,
    COLLISION_BELT,
    COLLISION_BELT,
    COLLISION_BIN,
    COLLISION_SELF,
)
OBSTACLES = slice(2 * JOINTS + 6, None)  # the columns that are distances between bodies
ACTING_SAMPLES, STOPPING_SAMPLES = 4, 6  # of a path
SHARES, ROUNDS = 4, 3  # of a command that does not fit: how finely it is cut
SLIDES = 2  # attempts to go along what is in the way
AWAY = 0.002  # m or rad
TURNING_M, ELBOW_M = 1.0, 0.1  # a turn of the tool, and a joint's own, count as that much of a shift
GRADIENT_STEP_RAD = 1e-4
SLACK = 1e-9  # rounding


class StopMargins(msgspec.Struct, frozen=True, kw_only=True):
    """What has to stay free on the way to rest."""

    joint_rad: float = 0.01  # before a joint's limit
    clearance_m: float = 0.01  # of links from plate, bins and each other
    tip_clearance_m: float = 0.002  # of the finger tips from the belt
    near_m: float = 0.008  # beyond the clearance; there nothing approaches faster than
    contact_speed_mps: float = 0.1

    def __post_init__(self) -> None:
        """Raise ValueError that quotes the value of a margin that is none."""
        for name in self.__struct_fields__:
            if not getattr(self, name) >= 0.0:
                raise ValueError(f"expected {name} >= 0, got {getattr(self, name)}")


class StopPaths:
    """Admits commands of one arm beside its cell."""

    def __init__(self, margins: StopMargins, cell: CellGeometry, tool_speed_mps: float) -> None:
        self._margins = margins
        self._surroundings = Surroundings(cell)
        self._tool_speed_mps = tool_speed_mps
        self._workspace = np.array(cell.workspace_min_m), np.array(cell.workspace_max_m)
        self._lowest = POSITION_MIN_RAD + margins.joint_rad
        self._lowest[5] = WRIST_MIN_RAD
        self._highest = POSITION_MAX_RAD - margins.joint_rad

    def admit(
        self, start: np.ndarray, sent: np.ndarray, wanted: np.ndarray, dt_s: float
    ) -> tuple[np.ndarray, tuple[str, ...]]:
        """The joint velocities [7] nearest to those wanted that can be found, and what those wanted would break.

        ``start`` [7]: position when the command begins to act, then at the velocities ``sent`` [7].
        """
        broken = self.check(start, sent, wanted[None], dt_s)[0]
        if not broken.any():
            return wanted, ()
        best = self.cut(start, sent, wanted, dt_s)
        room, gradient = self._find_gradients(start)
        ease = find_ease(jacobian(start[None])[0])
        closing, time_s = broken[: len(ROOMS)].copy(), dt_s + float(stopping_time(wanted, dt_s)[0])
        for _ in range(SLIDES):
            aside = turn_aside(wanted, room[closing], gradient[closing], ease, time_s)
            change = limit_speed(aside[None])[0] - sent
            aside = sent + change / max(float((np.abs(change) / ACCELERATION_RADPS2).max()) / dt_s, 1.0)
            found = self.cut(start, sent, aside, dt_s)
            if np.linalg.norm(found - wanted) < np.linalg.norm(best - wanted):
                best = found
            closing |= self.check(start, sent, aside[None], dt_s)[0, : len(ROOMS)]
        return best, tuple(dict.fromkeys(np.array(CAUSES)[broken].tolist()))

    def cut(self, start: np.ndarray, sent: np.ndarray, wanted: np.ndarray, dt_s: float) -> np.ndarray:
        """The farthest from the stop towards the joint velocities wanted that breaks nothing."""
        stop = brake(sent, dt_s)
        least, width = 0.0, 1.0
        for _ in range(ROUNDS):
            shares = np.minimum(least + width * np.arange(1, SHARES + 1) / SHARES, 1.0)
            good = ~self.check(start, sent, stop + shares[:, None] * (wanted - stop), dt_s).any(axis=1)
            least = float(shares[good].max(initial=least))
            if least == 1.0:
                break
            width /= SHARES
        return stop + least * (wanted - stop)

    def _find_gradients(self, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Room [R] at a posture, and how it changes with each joint [R, 7]."""
        rooms = self.measure(start + GRADIENT_STEP_RAD * np.concatenate([np.zeros((1, JOINTS)), np.eye(JOINTS)]))
        return rooms[0], (rooms[1:] - rooms[0]).T / GRADIENT_STEP_RAD

    def check(self, start: np.ndarray, sent: np.ndarray, velocities: np.ndarray, dt_s: float) -> np.ndarray:
        """What each of the joint velocities [K, 7] would break on the way to rest, [K, C] as in ``CAUSES``."""
        path, step_s = find_path(start, sent, velocities, dt_s)
        rooms = self.measure(path.reshape(-1, JOINTS)).reshape(*path.shape[:2], -1)
        broken = (rooms[:, 1:] < np.minimum(rooms[:, :1], 0.0) - SLACK).any(axis=1)  # out again is allowed
        near = rooms[:, :, OBSTACLES]
        fast = near[:, :-1] - near[:, 1:] > self._margins.contact_speed_mps * step_s[:, :, None] + SLACK
        broken[:, OBSTACLES] |= (fast & (near[:, 1:] < self._margins.near_m)).any(axis=1)
        reached = jacobian(path[:, ACTING_SAMPLES])[:, :3] @ velocities[:, :, None]
        rushed = np.linalg.norm(reached[:, :, 0], axis=1) > self._tool_speed_mps + SLACK
        return np.column_stack([broken, rushed])

    def measure(self, joint_position_rad: np.ndarray) -> np.ndarray:
        """Room [N, R] before each limit in the order of ``ROOMS``, negative beyond, at postures [N, 7]."""
        clear, margins = self._surroundings.measure(joint_position_rad), self._margins
        rooms = [
            joint_position_rad - self._lowest,
            self._highest - joint_position_rad,
            clear.tool_m - self._workspace[0],
            self._workspace[1] - clear.tool_m,
            clear.tips_m - margins.tip_clearance_m,
            clear.plate_m - margins.clearance_m,
            clear.bins_m - margins.clearance_m,
            clear.self_m - margins.clearance_m,
        ]
        return np.column_stack(rooms)


CAUSES = (*ROOMS, LIMIT_TOOL_SPEED)


def turn_aside(
    wanted: np.ndarray, room: np.ndarray, gradient: np.ndarray, ease: np.ndarray, time_s: float
) -> np.ndarray:
    """Joint velocities [7] near those wanted that use up no more of each room [R] than there is in a time.

    What is at a limit moves along it and a little away, by the changes that are easy: ``ease`` [7, 7]. Projections in
    turn (Kaczmarz), ``gradient`` [R, 7].
    """
    found = wanted
    for _ in range(3):
        for left, slope in zip(room, gradient, strict=True):
            slowest = (AWAY - max(float(left), 0.0)) / time_s
            way = ease @ slope
            found = found + max(slowest - float(slope @ found), 0.0) * way / max(float(slope @ way), 1e-6)
    return found


def find_ease(matrix: np.ndarray) -> np.ndarray:
    """How easily joint velocities change [7, 7], given the tool's Jacobian [6, 7]: its shifts rather than its turns."""
    weighted = np.array([1.0, 1.0, 1.0, TURNING_M, TURNING_M, TURNING_M])[:, None] * matrix
    return np.linalg.inv(weighted.T @ weighted + ELBOW_M * ELBOW_M * np.eye(JOINTS))


def find_path(
    start: np.ndarray, sent: np.ndarray, velocities: np.ndarray, dt_s: float
) -> tuple[np.ndarray, np.ndarray]:
    """Postures [K, N, 7] on the way to rest from ``start`` under K joint velocities, and the times between [K, N-1].

    The joints go from the velocities sent last to the new ones in a straight line over ``dt_s``, then to zero.
    """
    share = np.arange(1, ACTING_SAMPLES + 1)[:, None] / ACTING_SAMPLES
    acting = start + dt_s * (share * sent + 0.5 * share * share * (velocities[:, None] - sent))
    stop_s = stopping_time(velocities, dt_s)
    share = np.arange(1, STOPPING_SAMPLES + 1)[:, None] / STOPPING_SAMPLES
    stopping = acting[:, -1:] + (stop_s * velocities)[:, None] * (share - 0.5 * share * share)
    first = np.broadcast_to(start, (len(velocities), 1, JOINTS))
    times = np.tile(
        [dt_s / ACTING_SAMPLES] * ACTING_SAMPLES + [1.0 / STOPPING_SAMPLES] * STOPPING_SAMPLES, (len(velocities), 1)
    )
    times[:, ACTING_SAMPLES:] *= stop_s
    return np.concatenate([first, acting, stopping], axis=1), times
