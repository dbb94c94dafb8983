"""The limits on docs/arm_guard.md are those of the code, each with its source."""

from __future__ import annotations

import re
from pathlib import Path

from visuomotor.control.arm.action import ArmWatchdog
from visuomotor.control.arm.config import CELL, LIMITS
from visuomotor.control.arm.guard import CAUSES, ArmGuardSettings
from visuomotor.control.arm.stopping import StopMargins

PAGE = (Path(__file__).parents[3] / "docs/arm_guard.md").read_text()


def limits() -> dict[str, tuple[float, ...]]:
    found = {
        f"{type(settings).__name__}.{name}": getattr(settings, name)
        for settings in (LIMITS, ArmGuardSettings(), StopMargins())
        for name in settings.__struct_fields__
        if not isinstance(getattr(settings, name), bool)
    }
    found |= {f"CellGeometry.{name}": getattr(CELL, name) for name in ("workspace_min_m", "workspace_max_m")}
    found["ArmWatchdog.hold_s"] = ArmWatchdog().hold_s
    return {name: value if isinstance(value, tuple) else (value,) for name, value in found.items()}


def test_the_page_has_every_limit_with_its_value_and_a_source():
    rows = re.findall(r"^\| `(\w+\.\w+)` \| ([-\d., ]+) \| (.+) \|$", PAGE, re.M)
    assert {name: tuple(map(float, value.split(","))) for name, value, _ in rows} == limits()
    assert len(rows) == len(limits())
    assert all(source.strip() for _, _, source in rows)


def test_the_page_names_every_cause():
    assert set(CAUSES) <= set(re.findall(r"`(\w+)`", PAGE))


def test_a_guard_is_on_and_not_latched_unless_told():
    assert (ArmGuardSettings().enabled, ArmGuardSettings().start_latched) == (True, False)
