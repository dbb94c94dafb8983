"""Metrics of an arm's episode beside a belt: parts ordered, binned and mistaken, how fast, and with how many grasps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec
import numpy as np

from visuomotor.launch.evaluate.grasps import GraspLog
from visuomotor.launch.evaluate.metrics import DT_S, Column, GuardCount, Measures, Ratio
from visuomotor.messages.schema import ArmState, Message, Truth


class ArmMetrics:
    """Accumulates one episode; feed every tick's messages, then read ``result``."""

    measures: ClassVar[Measures] = Measures(
        shares=("success", "collision"),
        means=("parts_ordered", "picks_per_minute", "cycle_s", "grasp_attempts", "max_gripper_force_n", "duration_s"),
        ratios=(
            Ratio("parts_binned_share", ("parts_binned",), ("parts_ordered",)),
            Ratio("wrong_parts_share", ("wrong_parts",), ("parts_binned", "wrong_parts")),
            Ratio("grasps_held_share", ("grasps_held",), ("grasp_attempts",)),
        ),
        groups={"binned_by": "parts_binned_share"},
        columns=(
            Column("binned", "parts_binned", of="parts_ordered"),
            Column("wrong", "wrong_parts"),
            Column("per min", "picks_per_minute", 1),
            Column("cycle s", "cycle_s", 1),
        ),
    )

    def __init__(self) -> None:
        self._guard = GuardCount()
        self._log = GraspLog()
        self._last: Truth | None = None
        self._belt_mps: list[float] = []
        self._force_n = 0.0

    def add(self, messages: Mapping[str, Message]) -> None:
        """Messages of one tick by service; ``truth``, ``arm_state``, ``order`` and ``command`` are read."""
        self._guard.add(messages)
        self._log.add(messages)
        if isinstance(truth := messages.get("truth"), Truth):
            self._last = truth
            self._belt_mps.append(truth.belt_speed_mps)
        if isinstance(state := messages.get("arm_state"), ArmState):
            self._force_n = max(self._force_n, state.gripper_force_n)

    @property
    def end(self) -> str:
        """How the episode ended so far; empty while it runs."""
        return self._last.end if self._last is not None else ""

    @property
    def success(self) -> bool:
        """Whether the shift is over with every ordered part in its bin and nothing else in any."""
        last = self._last
        return (
            last is not None
            and last.end == "goal"
            and last.parts_binned >= last.parts_ordered
            and last.wrong_parts == 0
        )

    @staticmethod
    def progress(truth: Truth) -> tuple[str, float]:
        """Parts binned of those ordered, and the belt's speed."""
        text = f"{truth.parts_binned} of {truth.parts_ordered} ordered parts binned"
        text += f", {truth.wrong_parts} wrong" if truth.wrong_parts else ""
        return f"{text}, belt {truth.belt_speed_mps:.2f} m/s", truth.parts_binned / max(1, truth.parts_ordered)

    def result(self, seed: int, end: str = "") -> dict[str, Any]:
        """The episode's row of ``score.json``. ``end`` overrides the world's word (a fault found by the supervisor)."""
        self._log.finish()
        ended, last = end or self.end or "fault", self._last
        ordered, binned, wrong = (
            (0, 0, 0) if last is None else (last.parts_ordered, last.parts_binned, last.wrong_parts)
        )
        duration_s = round(max(0, len(self._belt_mps) - 1) * DT_S, 3)
        cycles_s = self._log.cycles_s()
        return {
            "seed": seed,
            "success": self.success and not end,
            "end": ended,
            "duration_s": duration_s,
            "collision": bool(last is not None and last.collision),
            "parts_ordered": ordered,
            "parts_binned": binned,
            "wrong_parts": wrong,
            "picks_per_minute": 60.0 * binned / duration_s if duration_s > 0.0 else 0.0,
            "cycle_s": float(np.mean(cycles_s)) if cycles_s else None,
            "cycles_s": cycles_s,
            "grasp_attempts": len(self._log.grasps),
            "grasps_held": sum(grasp.held_tick is not None for grasp in self._log.grasps),
            "parts_dropped": sum(grasp.outcome == "dropped" for grasp in self._log.grasps),
            "belt_speed_mps": float(np.mean(self._belt_mps)) if self._belt_mps else 0.0,
            "max_gripper_force_n": float(self._force_n),
            "binned_by": self._log.count_groups(),
            "grasps": [msgspec.structs.asdict(grasp) for grasp in self._log.grasps],
            **self._guard.result(),
            "events": list(last.events) if last is not None else [],
        }
