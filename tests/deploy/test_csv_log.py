"""A log of rows that stays small and does not fall over a full disk."""

from __future__ import annotations

import os
from pathlib import Path

from visuomotor.deploy.vehicle.csv_log import CsvLog
from visuomotor.deploy.vehicle.node import DryRunSink


def test_a_full_file_becomes_the_old_one(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / "commands.csv", ("tick", "value"), limit_bytes=200)
    for tick in range(100):
        log.write([tick, "x" * 10])
    log.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["commands.1.csv", "commands.csv"]
    old, new = ((tmp_path / name).read_text().splitlines() for name in ("commands.1.csv", "commands.csv"))
    assert old[0] == new[0] == "tick,value"
    ticks = [int(line.split(",")[0]) for line in old[1:] + new[1:]]
    assert ticks == list(range(100 - len(ticks), 100))
    assert all(p.stat().st_size < 230 for p in tmp_path.iterdir())
    assert log.note == ""


def test_a_full_disk_ends_the_log_and_nothing_else(tmp_path: Path) -> None:
    sink = DryRunSink(tmp_path / "commands.csv")
    sink.write(0, 0.0, None, (0.0, 0.0), False)
    assert sink._log is not None
    assert sink._log._file is not None
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, sink._log._file.fileno())  # every write fails from here on with ENOSPC
    os.close(full)
    for tick in range(1, 5):
        sink.write(tick, 0.1 * tick, None, (0.0, 0.0), False)
    assert sink.note.startswith(f"log stopped: {tmp_path / 'commands.csv'}: No space left on device")
    sink.close()
    assert (tmp_path / "commands.csv").read_text().splitlines()[1].startswith("0,0.000,")


def test_a_log_that_cannot_be_begun_says_so(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / "nowhere" / "commands.csv", ("tick",))
    log.write([1])
    log.close()
    assert "nowhere/commands.csv: No such file or directory" in log.note
