"""The limits on docs/guard.md are those of the code, each with its source."""

from __future__ import annotations

import re
from pathlib import Path

from visuomotor.control.action import CommandWatchdog
from visuomotor.control.collision import COLLISION, Threat
from visuomotor.control.config import ENVELOPE, VEHICLE
from visuomotor.control.guard import GuardSettings
from visuomotor.control.kinematics import LANE_KEEPING
from visuomotor.control.rss import RSS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/guard.md"
SETTINGS = (ENVELOPE, VEHICLE, GuardSettings(), COLLISION, RSS, LANE_KEEPING)


def limits() -> dict[str, float]:
    out = {
        f"{type(settings).__name__}.{name}": getattr(settings, name)
        for settings in SETTINGS
        for name in settings.__struct_fields__
        if not isinstance(getattr(settings, name), bool)
    }
    watchdog = CommandWatchdog()
    return out | {f"CommandWatchdog.{name}": getattr(watchdog, name) for name in ("hold_s", "braking_mps2")}


def test_the_page_has_every_limit_with_its_value_and_a_source():
    rows = re.findall(r"^\| `(\w+\.\w+)` \| (\S+) \| (.+) \|$", PAGE.read_text(), re.M)
    assert {name: float(value) for name, value, _ in rows} == limits()
    assert all(source.strip() for _, _, source in rows)
    assert len(rows) == len(limits())


def test_a_guard_is_on_and_not_latched_unless_told():
    assert (GuardSettings().enabled, GuardSettings().start_latched) == (True, False)
    assert (Threat().required_mps2, Threat().time_s, Threat().slot) == (0.0, float("inf"), -1)
