"""The reward of picking: named terms computed from the truth, times a table of scales."""

from __future__ import annotations

import msgspec
import numpy as np

from visuomotor.control.arm.config import CELL
from visuomotor.sim.cell.cell import ENDS, HARD_FORCE_N, CellWorlds

END_GOAL, END_COLLISION = ENDS.index("goal"), ENDS.index("collision")
LIFTED_M = 0.10  # of a part's middle: clear of rims and of other parts
NEAR_M = 0.6  # from here on the way to a part counts
TAKE_Y_M = (CELL.reach_y_m[0] + 0.03, CELL.reach_y_m[1] + 0.05)  # where it is worth going for a part


class CellRewardScales(msgspec.Struct, frozen=True, kw_only=True):
    """Weight of each term. ``approach``, ``lift`` and ``carry`` are differences of potentials that run from 0 to 1."""

    approach: float = 1.0  # the tool towards the wanted part that it is nearest to
    grasp: float = 1.0  # each time a wanted part is gripped; taken back when it is lost
    lift: float = 1.0
    carry: float = 2.0  # towards its bin
    binned: float = 10.0
    wrong: float = -10.0
    missed: float = -2.0  # an ordered part left the reach
    collision: float = -20.0
    touch: float = -0.1  # force between the arm and what it must not touch, over the hard one
    finished: float = 5.0  # the shift ends with everything binned and nothing else
    restlessness: float = -0.01  # change of the action

    def __post_init__(self) -> None:
        """Raise ValueError that names a scale that is not finite."""
        for name in self.__struct_fields__:
            if not np.isfinite(getattr(self, name)):
                raise ValueError(f"reward scale {name} must be finite, got {getattr(self, name)}")


TERMS: tuple[str, ...] = CellRewardScales.__struct_fields__


class CellReward:
    """Terms of the last step of B cells; keeps what it needs of the step before."""

    def __init__(self, worlds: CellWorlds, scales: CellRewardScales | None = None) -> None:
        self.scales = scales or CellRewardScales()
        self._scale = np.array([getattr(self.scales, name) for name in TERMS])
        self._worlds = worlds
        count = worlds.count
        self._target = np.full(count, -1)  # id of the part that the tool is nearest to
        self._near = np.zeros(count)
        self._held = np.full(count, -1)  # id of the wanted part in the gripper
        self._height = np.zeros(count)
        self._carried = np.zeros(count)
        self._start_height, self._start_carried = np.zeros(count), np.zeros(count)  # when it was gripped
        self._binned = np.zeros(count)
        self._wrong = np.zeros(count)
        self._waiting = np.zeros(worlds.part_present.shape, bool)  # wanted and within reach
        self._action = np.zeros((count, 5))
        self.sums = np.zeros((count, len(TERMS)))  # of the running episodes, scaled

    def reset(self, index: int) -> None:
        """Start the accounts of one cell, which was reset just before."""
        self._target[index] = self._held[index] = -1
        self._near[index] = self._height[index] = self._carried[index] = 0.0
        self._binned[index] = self._wrong[index] = 0.0
        self._waiting[index] = False
        self._action[index] = 0.0
        self.sums[index] = 0.0

    def step(self, action_norm: np.ndarray) -> np.ndarray:
        """Reward [B] of the step that the cells just made; ``action_norm`` [B, 5] is the one that follows."""
        w = self._worlds
        wanted = w.part_present & (w.part_class >= 0)
        wanted &= np.take_along_axis(w.wanted, np.maximum(w.part_class, 0), axis=1) > 0
        values = {
            **self._move(wanted),
            "binned": w.parts_binned - self._binned,
            "wrong": w.wrong_parts - self._wrong,
            "missed": self._missed(wanted),
            "collision": w.end == END_COLLISION,
            "touch": np.minimum(w.hit_force_n / HARD_FORCE_N, 1.0),
            "finished": (w.end == END_GOAL) & w.success,
            "restlessness": np.abs(action_norm - self._action).sum(axis=1),
        }
        terms = np.stack([values[name] for name in TERMS], axis=1) * self._scale
        self.sums += terms
        self._binned, self._wrong = w.parts_binned.astype(float), w.wrong_parts.astype(float)
        self._action = action_norm.copy()
        return terms.sum(axis=1)

    def episode(self, index: int) -> dict[str, float]:
        """Sum of each scaled term over the episode so far."""
        return {name: float(value) for name, value in zip(TERMS, self.sums[index], strict=True)}

    def _move(self, wanted: np.ndarray) -> dict[str, np.ndarray]:
        """Approach of an empty gripper, grasps, and what a full one does with its part."""
        w = self._worlds
        rows = np.arange(w.count)
        place = w.part_position_m
        holding = (wanted & w.part_held).any(axis=1)
        slot = (wanted & w.part_held).argmax(axis=1)
        held = np.where(holding, w.part_id[rows, slot], -1)
        new, kept = holding & (held != self._held), holding & (held == self._held)
        lost = (self._held >= 0) & (held != self._held) & ~self._let_go_over_bin()
        height = np.clip(place[rows, slot, 2] / LIFTED_M, 0.0, 1.0)
        bin_m = np.array(CELL.bin_centre_m)[np.maximum(w.bin_index[rows, w.part_class[rows, slot]], 0)]
        carried = 1.0 - np.clip(np.linalg.norm(place[rows, slot, :2] - bin_m, axis=1) / NEAR_M, 0.0, 1.0)
        lift = np.where(kept, height - self._height, 0.0)
        carry = np.where(kept, carried - self._carried, 0.0)
        # What a lost part had earned is taken back, so that gripping and dropping it again and again earns nothing.
        lift -= np.where(lost, self._height - self._start_height, 0.0)
        carry -= np.where(lost, self._carried - self._start_carried, 0.0)
        self._start_height = np.where(new, height, self._start_height)
        self._start_carried = np.where(new, carried, self._start_carried)

        y = place[..., 1]
        free = wanted & (y > TAKE_Y_M[0]) & (y < TAKE_Y_M[1]) & (place[..., 0] > CELL.belt_x_m[0])
        distance = np.linalg.norm(place - w.tool_position_m[:, None], axis=2)
        distance = np.where(free, distance, np.inf)
        nearest = distance.argmin(axis=1)
        reachable = free[rows, nearest] & ~holding
        target = np.where(reachable, w.part_id[rows, nearest], -1)
        near = np.where(reachable, 1.0 - np.clip(distance[rows, nearest] / NEAR_M, 0.0, 1.0), 0.0)
        approach = np.where((target >= 0) & (target == self._target), near - self._near, 0.0)
        self._target, self._near = target, near
        self._held, self._height, self._carried = held, height, carried
        return {"approach": approach, "grasp": new.astype(float) - lost, "lift": lift, "carry": carry}

    def _let_go_over_bin(self) -> np.ndarray:
        """Whether the part that was held last is above a bin, or in it [B]."""
        w = self._worlds
        rows = np.arange(w.count)
        before = w.part_position_m[rows, (w.part_id == self._held[:, None]).argmax(axis=1), :2]
        half = 0.5 * np.array(CELL.bin_size_m[:2])
        return (np.abs(before[:, None] - np.array(CELL.bin_centre_m)) < half).all(axis=2).any(axis=1)

    def _missed(self, wanted: np.ndarray) -> np.ndarray:
        """How many wanted parts the belt has just carried out of reach [B]."""
        w = self._worlds
        y = w.part_position_m[..., 1]
        waiting = wanted & (y >= CELL.reach_y_m[0]) & (y <= CELL.reach_y_m[1])
        missed = self._waiting & w.part_present & wanted & ~w.part_held & (y < CELL.reach_y_m[0])
        self._waiting = waiting
        return missed.sum(axis=1)
