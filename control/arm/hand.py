"""What the hand is doing, read off what is measured and off the last action: no hidden state anywhere.

A policy without memory must still know, with a part in its hand that no camera sees, into which bin it goes. The
gripper's number of the action carries that: any value <= 0 closes, and which part of [-1, 0] it lies in names the bin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from visuomotor.control.arm.inputs import ArmInputs

OPEN = 0.5  # as far from the border as what closes: a network in doubt between the two must not lean to one
LEAST_WIDTH_M, MOST_WIDTH_M = 0.022, 0.074  # of what can be held: wider than closed fingers, narrower than open ones
HOLDING_FORCE_N = 10.0
BACK_OUT = (0.0, 0.0, 0.6, 0.0, OPEN)  # straight up


def close_for(bin_index: np.ndarray, bins: int) -> np.ndarray:
    """The gripper's number that closes on a part for that bin: the middle of the bin's share of [-1, 0]."""
    return -(np.asarray(bin_index) + 0.5) / bins


def bin_of(grip_norm: np.ndarray, bins: int) -> np.ndarray:
    """The bin that a closing gripper's number names; the first for one that opens."""
    return np.clip(np.floor(-np.asarray(grip_norm) * bins), 0, bins - 1).astype(np.int64)


def plain_grip(grip_norm: np.ndarray, bins: int) -> np.ndarray:
    """What a gripper's number means, as the number that says it best: so that what is remembered does not drift."""
    grip_norm = np.asarray(grip_norm)
    return np.where(grip_norm > 0.0, OPEN, close_for(bin_of(grip_norm, bins), bins))


@dataclass(frozen=True)
class Hand:
    """State of B hands."""

    closing: np.ndarray  # [B] bool, the last command closes
    holding: np.ndarray  # [B] bool, and something keeps the fingers apart
    empty: np.ndarray  # [B] bool, and they have met: nothing was there
    jammed: np.ndarray  # [B] bool, and something wider than the hand keeps them where they are
    bin_index: np.ndarray  # [B] where to, as long as the hand is closing
    bin_m: np.ndarray  # [B, 3] that bin

    @classmethod
    def of(cls, inputs: ArmInputs) -> Hand:
        """From width and force of the fingers and the last action."""
        grip = np.clip(np.nan_to_num(inputs.last_action_norm[:, 4]), -1.0, 1.0)
        closing = grip <= 0.0
        width = inputs.gripper_width_m
        bins = inputs.bin_m.shape[1]
        index = bin_of(grip, bins)
        pressing = closing & (inputs.gripper_force_n > HOLDING_FORCE_N)
        return cls(
            closing=closing,
            holding=pressing & (width > LEAST_WIDTH_M) & (width < MOST_WIDTH_M),
            empty=closing & (width <= LEAST_WIDTH_M),
            jammed=pressing & (width >= MOST_WIDTH_M),
            bin_index=index,
            bin_m=inputs.bin_m[np.arange(inputs.count), index],
        )


def settle(action_norm: np.ndarray, inputs: ArmInputs) -> np.ndarray:
    """The action [B, 5] as it takes effect and is remembered.

    A hand that holds something keeps to its bin: on its way from "close for the last bin" to "open" a network's number
    passes those of all bins between them. A hand that is jammed over a part lets go and rises, to look again: under it
    nothing changes, so whoever has closed there once would go on closing.
    """
    hand = inputs.hand
    action = np.array(action_norm, np.float32)
    keeps = hand.holding & (action[:, 4] <= 0.0)
    action[keeps, 4] = close_for(hand.bin_index[keeps], inputs.bin_m.shape[1])
    action[hand.jammed] = BACK_OUT
    return action
