"""Old run folders go; those in use, and those that hold what somebody put there, stay."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from visuomotor.launch.run_folders import DAY_S, Keep, list_run_folders, parse_keep, remove_old_runs
from visuomotor.messages.run_directory import RunDirectory

NOW_S = 1_800_000_000.0


def make_run(folder: Path, name: str, age_days: float, size_bytes: int = 1000, *others: str) -> Path:
    path = folder / name
    path.mkdir(parents=True)
    for file in ("world.job.json", "world.log", "world.log.1", "score.json", "commands.1.csv", *others):
        (path / file).touch()
    (path / "world.log").write_bytes(b"x" * size_bytes)
    for file in (*path.iterdir(), path):
        os.utime(file, (NOW_S - age_days * DAY_S,) * 2)
    return path


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def keep(runs: int = 99, size_bytes: int = 10**9, days: float = 99.0) -> Keep:
    return Keep(runs=runs, size_bytes=size_bytes, age_s=days * DAY_S)


@pytest.mark.parametrize(
    ("policy", "stays"),
    [
        (keep(), ["a", "b", "c", "d"]),
        (keep(runs=2), ["a", "b"]),
        (keep(runs=0), []),
        (keep(size_bytes=3000), ["a", "b", "c"]),
        (keep(size_bytes=2999), ["a", "b"]),
        (keep(days=2.5), ["a", "b"]),
        (keep(days=3.0), ["a", "b", "c"]),
    ],
)
def test_the_newest_are_kept_by_number_size_and_age(tmp_path: Path, policy: Keep, stays: list[str]) -> None:
    for age, name in enumerate("abcd", start=1):
        make_run(tmp_path, name, age_days=age)
    removed = remove_old_runs(tmp_path, policy, NOW_S)
    assert left(tmp_path) == stays
    assert [run.path.name for run in removed] == [name for name in "abcd" if name not in stays]


def test_what_is_in_use_or_somebodys_own_stays(tmp_path: Path) -> None:
    make_run(tmp_path, "recorded", 50.0, 1000, "drive.mcap")
    make_run(tmp_path, "reported", 50.0)
    (tmp_path / "reported" / "out").mkdir()
    (tmp_path / "no-run").mkdir()
    (tmp_path / "no-run" / "notes.txt").touch()
    make_run(tmp_path / "elsewhere", "linked", 50.0)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "linked")
    make_run(tmp_path, "old", 50.0)
    with RunDirectory(make_run(tmp_path, "in-use", 50.0)):
        assert [run.path.name for run in remove_old_runs(tmp_path, keep(runs=0), NOW_S)] == ["old"]
        assert (tmp_path / "in-use" / "world.log").exists()
    assert left(tmp_path) == ["elsewhere", "in-use", "link", "no-run", "recorded", "reported"]
    assert (tmp_path / "elsewhere" / "linked" / "world.log").exists()
    found = {run.path.name: run.foreign for run in list_run_folders(tmp_path)}
    assert found == {"in-use": "", "recorded": "drive.mcap", "reported": "out"}


def test_no_folder_is_no_runs(tmp_path: Path) -> None:
    assert remove_old_runs(tmp_path / "runs", keep(runs=0)) == []


def test_keep_is_read() -> None:
    assert parse_keep("50,2GB,30d") == Keep(runs=50, size_bytes=2 * 10**9, age_s=30 * DAY_S)
    assert parse_keep("0,100MB,1d") == Keep(runs=0, size_bytes=100 * 10**6, age_s=DAY_S)


@pytest.mark.parametrize("text", ["", "50", "50,2GB", "2GB,50,30d", "-1,2GB,30d", "50,2TB,30d", "50,2GB,30", "a,b,c"])
def test_what_is_no_keep(text: str) -> None:
    with pytest.raises(ValueError, match="--keep: expected RUNS,SIZE,AGE as in 50,2GB,30d, got"):
        parse_keep(text)
