"""Shared code serves every task: none of its modules names one, except where rows of data do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from visuomotor.messages.tasks import TASKS

ROOT = Path(__file__).resolve().parents[1]
SHARED = ("messages", "perception", "deploy")
ROWS = {  # one row per task each
    "messages/tasks.py",
    "perception/tasks.py",
    "perception/train/detector_tasks.py",
    "perception/train/forecaster_rows.py",
    "perception/train/detection_noise.py",
    "deploy/export/policy_rows.py",
}
SIMULATED = {  # what a row of forecaster_rows names: episodes of one task's own simulator
    "perception/train/fleet.py",
    "perception/train/belt.py",
}
NAME = re.compile(rf"(?<![A-Za-z0-9])({'|'.join(TASKS)}|driving|picking)(?![A-Za-z0-9])", re.IGNORECASE)
FILES = sorted(path.relative_to(ROOT) for folder in SHARED for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=str)
def test_shared_code_names_no_task(path: Path) -> None:
    if path.as_posix() in ROWS | SIMULATED:
        pytest.skip("rows of data, or the simulator of one task")
    lines = enumerate((ROOT / path).read_text().splitlines(), 1)
    named = [f"{path}:{number}: {line.strip()}" for number, line in lines if NAME.search(line)]
    assert not named, "\n".join(named)


def test_the_exceptions_exist() -> None:
    for path in ROWS | SIMULATED:
        assert NAME.search((ROOT / path).read_text()), path
