"""Lock, short paths, leftovers of killed runs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from visuomotor.messages.run_directory import LOCK_NAME, MAX_SOCKETS_PATH, SOCKETS_NAME, RunDirectory, RunDirectoryError

HOLD = """
import pathlib, sys, time
from visuomotor.messages.run_directory import RunDirectory
directory = RunDirectory(pathlib.Path(sys.argv[1]) if sys.argv[1] else None)
(directory.sockets / "world").touch()
print(directory.sockets, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _own_temporary_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    # after tmp_path was made; short enough for sockets, and no other test's runs in it
    base = Path("/tmp") / f"vt{os.getpid()}"
    base.mkdir(exist_ok=True)
    monkeypatch.setenv("TMPDIR", str(base))
    monkeypatch.setattr("tempfile.tempdir", None)
    yield
    shutil.rmtree(base)


def hold(path: str) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_a_second_run_is_refused_and_the_first_undisturbed(tmp_path: Path) -> None:
    process, sockets = hold(str(tmp_path))
    try:
        with pytest.raises(RunDirectoryError, match=f"{tmp_path}: run directory is in use by another run"):
            RunDirectory(tmp_path)
        assert (sockets / "world").exists()
    finally:
        kill(process)


def test_within_one_process_as_well(tmp_path: Path) -> None:
    with RunDirectory(tmp_path), pytest.raises(ValueError, match="in use"):
        RunDirectory(tmp_path)
    RunDirectory(tmp_path).close()


def test_leftovers_of_a_killed_run_are_cleared(tmp_path: Path) -> None:
    process, sockets = hold(str(tmp_path))
    kill(process)
    assert (sockets / "world").exists()
    with RunDirectory(tmp_path) as directory:
        assert list(directory.sockets.glob("[!v]*")) == []
    assert not (tmp_path / SOCKETS_NAME).exists()


def test_leftovers_of_killed_runs_elsewhere_are_cleared_living_ones_stay() -> None:
    dead, dead_sockets = hold("")
    living, living_sockets = hold("")
    kill(dead)
    try:
        RunDirectory().close()
        assert not dead_sockets.parent.exists()
        assert (living_sockets / "world").exists()
    finally:
        kill(living)


def test_long_path_gets_short_sockets_and_nothing_stays(tmp_path: Path) -> None:
    long = tmp_path / ("long" * 20) / ("path" * 10)
    with RunDirectory(long) as directory:
        assert len(str(directory.sockets)) <= MAX_SOCKETS_PATH < len(str(long))
        sockets = directory.sockets
        assert sockets.is_dir()
        with pytest.raises(RunDirectoryError):
            RunDirectory(long)
    assert not sockets.exists()
    assert list(long.iterdir()) == []


def test_long_path_of_a_killed_run_is_cleared(tmp_path: Path) -> None:
    long = tmp_path / ("long" * 20) / ("path" * 10)
    process, sockets = hold(str(long))
    kill(process)
    assert sockets.exists()
    with RunDirectory(long) as directory:
        assert directory.sockets.exists()
        assert directory.sockets != sockets
    assert not sockets.exists()


def test_own_directory_goes_given_one_stays(tmp_path: Path) -> None:
    (tmp_path / "score.json").write_text("{}")
    with RunDirectory() as own, RunDirectory(tmp_path) as given:
        assert own.path != given.path
        assert (given.path / LOCK_NAME).exists()
    assert not own.path.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["score.json"]


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirectoryError, match="cannot be used"):
        RunDirectory(tmp_path / "file")


def test_a_temporary_directory_open_to_others_is_refused() -> None:
    base = Path(os.environ["TMPDIR"]) / f"vm-{os.getuid()}"
    base.mkdir(exist_ok=True)
    base.chmod(0o777)
    try:
        with pytest.raises(RunDirectoryError, match="with mode 700"):
            RunDirectory()
    finally:
        base.chmod(0o700)
