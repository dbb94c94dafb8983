"""What a check returns, and where all of them look."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from visuomotor.launch.profile import Profile

State = Literal["ok", "note", "bad"]


class Check(msgspec.Struct, frozen=True):
    """One line: ``bad`` stands against driving here, a ``note`` may matter; both say what to ``do``."""

    name: str
    state: State
    found: str
    do: str = ""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """The machine as its files show it, and the profile that shall run on it; None where none was named."""

    profile: Profile | None = None
    proc: Path = Path("/proc")
    sys: Path = Path("/sys")
    dev: Path = Path("/dev")
    runs: Path = Path("runs")


def read(path: Path) -> str:
    """A small file of the kernel, stripped; empty where it cannot be read."""
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
