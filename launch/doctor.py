"""What this machine has, what the installation lacks, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from visuomotor import __version__
from visuomotor.launch.checks.calibration import check_calibrations
from visuomotor.launch.checks.clock import check_clock
from visuomotor.launch.checks.devices import check_devices, check_models
from visuomotor.launch.checks.examination import Check, Place
from visuomotor.launch.checks.keys import check_keys
from visuomotor.launch.checks.machine import check_machine
from visuomotor.launch.checks.running import check_running
from visuomotor.launch.checks.sensors import check_cameras, check_can, check_ports
from visuomotor.launch.checks.software import check_software
from visuomotor.launch.evaluate.score import write_json
from visuomotor.launch.profile import load_profile

THEMES: list[Callable[[Place], list[Check]]] = [
    check_software,
    check_devices,
    check_models,
    check_calibrations,
    check_machine,
    check_clock,
    check_cameras,
    check_can,
    check_ports,
    check_keys,
    check_running,
]
MARKS = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "bad": "[red]bad[/]"}


def examine(profile: str | None = None, json_file: Path | None = None) -> int:
    """Print a table of checks; returns 0 when driving can work here, 1 when a check is bad.

    With a profile its device, bundles, calibrations and buses are looked at, without one those of the shipped
    simulation. Raises ProfileError for one that cannot be read.
    """
    place = Place(profile=load_profile(profile) if profile is not None else None)
    checks = [check for theme in THEMES for check in theme(place)]
    print_checks(checks, Console())
    if json_file is not None:
        rows = [{"check": c.name, "state": c.state, "found": c.found, "do": c.do} for c in checks]
        write_json(json_file, {"checks": rows})
    return 1 if any(check.state == "bad" for check in checks) else 0


def print_checks(checks: list[Check], console: Console) -> None:
    """A row for each; what to do stands under what was found."""
    table = Table(title=f"visuomotor {__version__}", min_width=70)
    for name in ("check", "", "found"):
        table.add_column(name, overflow="fold")
    for check in checks:
        text = check.found + (f"\n-> {check.do}" if check.do else "")
        table.add_row(Text(check.name), MARKS[check.state], Text(text))
    console.print(table)
