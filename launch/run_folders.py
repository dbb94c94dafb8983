"""Run folders of runs long past: how many are kept, how large, how old. Only what a run writes by itself is removed."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import msgspec

from visuomotor.messages.run_directory import LOCK_NAME, SOCKETS_NAME, RunDirectory, RunDirectoryError

# A folder that holds anything else (a recording, a report, notes) is somebody's, and stays.
WRITTEN_BY_A_RUN = (
    *("*.log", "*.log.1", "*.new", "*.job.json", "*.error", "*.tmp", "commands.csv", "commands.1.csv"),
    *("score.json", "vehicle.json", "recorder.json", "orphaned*.json", "can.json", LOCK_NAME, SOCKETS_NAME),
)
UNITS = {"MB": 10**6, "GB": 10**9}
DAY_S = 86400.0


class Keep(msgspec.Struct, frozen=True, kw_only=True):
    """How much of the past is kept; the newest first. ``parse_keep`` reads it."""

    runs: int
    size_bytes: int
    age_s: float


class RunFolder(msgspec.Struct, frozen=True):
    """The folder of one run. ``foreign`` is a file in it that no run writes by itself, or empty."""

    path: Path
    size_bytes: int
    changed_s: float  # Unix time of the last change in it
    foreign: str


def parse_keep(text: str) -> Keep:
    """Keep from ``RUNS,SIZE,AGE`` as in ``50,2GB,30d``. Raises ValueError that says what was expected."""
    match = re.fullmatch(r"(\d+),(\d+)(MB|GB),(\d+)d", text)
    if match is None:
        raise ValueError(f"--keep: expected RUNS,SIZE,AGE as in 50,2GB,30d, got {text!r}")
    runs, size, unit, days = match.groups()
    return Keep(runs=int(runs), size_bytes=int(size) * UNITS[unit], age_s=int(days) * DAY_S)


def list_run_folders(folder: Path) -> list[RunFolder]:
    """Run folders in ``folder``, the newest first; empty where there is none."""
    found = list(_run_folders(folder)) if folder.is_dir() else []
    return sorted(found, key=lambda run: run.changed_s, reverse=True)


def _run_folders(folder: Path) -> Iterator[RunFolder]:
    for path in folder.iterdir():
        if path.is_symlink() or not path.is_dir() or not any(path.glob("*.job.json")):
            continue
        size, changed, foreign = 0, path.stat().st_mtime, ""
        for file in path.iterdir():
            status = file.lstat()
            size, changed = size + status.st_size, max(changed, status.st_mtime)
            if not any(fnmatch(file.name, pattern) for pattern in WRITTEN_BY_A_RUN):
                foreign = file.name
        yield RunFolder(path, size, changed, foreign)


def remove_old_runs(folder: Path, keep: Keep, now_s: float | None = None) -> list[RunFolder]:
    """Remove run folders beyond ``keep`` and return them.

    Neither the folder of a run in progress nor one that holds anything that no run writes by itself is touched. One
    that cannot be removed is left.
    """
    now_s = time.time() if now_s is None else now_s
    removed, kept, size_bytes = [], 0, 0
    for run in list_run_folders(folder):
        fits = kept < keep.runs and size_bytes + run.size_bytes <= keep.size_bytes
        if fits and now_s - run.changed_s <= keep.age_s:
            kept, size_bytes = kept + 1, size_bytes + run.size_bytes
        elif not run.foreign and _remove(run.path):
            removed.append(run)
    return removed


def _remove(path: Path) -> bool:
    try:
        with RunDirectory(path):  # RunDirectoryError: a run is going on in it
            for file in path.iterdir():
                if file.name not in (LOCK_NAME, SOCKETS_NAME):
                    file.unlink()
        path.rmdir()
    except (RunDirectoryError, OSError):
        return False
    return True
