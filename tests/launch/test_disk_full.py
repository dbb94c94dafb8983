"""A run whose disk fills up drives on, brakes when it is asked to, and says what it could not write."""

from __future__ import annotations

import errno
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from visuomotor.launch.disk import LOOK_S, DiskWatch, explain_disk_error

NODES = Path(__file__).parent / "nodes"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"mount is not to be had here: {error}")
    if done.returncode:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> None:
    with (folder / "ballast").open("ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            assert error.errno == errno.ENOSPC  # noqa: PT017


@pytest.fixture
def start() -> Iterator[Callable[[Path], subprocess.Popen[str]]]:
    """Begins a drive in which the world says a kilobyte at every step."""
    begun: list[subprocess.Popen[str]] = []

    def begin(run_dir: Path) -> subprocess.Popen[str]:
        begun.append(drive(run_dir))
        return begun[-1]

    yield begin
    for run in begun:
        run.kill()  # its nodes follow
        run.communicate()


def drive(run_dir: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(NODES / "toy_run.py"), str(run_dir), "lockstep"],
        env=dict(os.environ, PYTHONPATH=str(NODES), TOY_WORDS="x" * 1000),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition: Callable[[], object], what: str, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        select.select([], [], [], 0.02)


def steps_of(run: subprocess.Popen[str]) -> float:
    """Processor time of the world: it grows while it steps."""
    (world,) = [c for c in psutil.Process(run.pid).children() if c.cmdline()[-1].endswith("world.job.json")]
    return world.cpu_times().user


def check_that_it_drives_on_and_stops(run: subprocess.Popen[str]) -> str:
    before = steps_of(run)
    wait_for(lambda: run.poll() is not None or steps_of(run) > before + 0.2, "the drive to go on")
    assert run.poll() is None, run.communicate()[1]
    os.kill(run.pid, signal.SIGTERM)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 1
    assert "fault: operator interrupted" in errors
    assert "the car was braked to a stop" in errors
    assert "Traceback" not in errors
    return errors


@pytest.mark.slow
def test_a_disk_that_fills_up_during_the_drive(small_disk: Path, start: Callable[..., Any]) -> None:
    run_dir = small_disk / "run"
    run = start(run_dir)
    wait_for(lambda: run.poll() is not None or (run_dir / "moving").exists(), "the car to move")
    assert run.poll() is None, run.communicate()[1]
    fill(small_disk)
    errors = check_that_it_drives_on_and_stops(run)
    assert errors.count("logs and results may be lost, the run goes on") == 1
    assert errors.count("results are lost: ") == 1
    assert "No space left on device; free some room and start again" in errors

    fill(small_disk)  # what the run has given back
    again = start(small_disk / "another")  # refused with one message, and no bad input
    _, errors = again.communicate(timeout=60)
    assert again.returncode == 1
    assert errors.count("No space left on device") == 1
    assert "Traceback" not in errors


@pytest.mark.slow
def test_no_file_may_grow_any_more_during_the_drive(tmp_path: Path, start: Callable[..., Any]) -> None:
    run_dir = tmp_path / "run"
    run = start(run_dir)
    wait_for(lambda: run.poll() is not None or (run_dir / "moving").exists(), "the car to move")
    assert run.poll() is None, run.communicate()[1]
    for process in (psutil.Process(run.pid), *psutil.Process(run.pid).children()):
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100, 100))
    errors = check_that_it_drives_on_and_stops(run)
    assert "results are lost: " in errors
    assert "File too large" in errors
    assert not (run_dir / "score.json").exists()


def test_a_disk_that_is_nearly_full_is_told_once() -> None:
    now, free = [0.0], [10**9]
    watch = DiskWatch(Path("/runs"), free_bytes=lambda folder: free[0], now_s=lambda: now[0])
    said = []
    for now[0], free[0] in ((0, 10**9), (1, 1), (LOOK_S, 10**6), (2 * LOOK_S, 0), (3 * LOOK_S, 10**9), (4 * LOOK_S, 0)):
        said.append(watch.look())
    assert [bool(text) for text in said] == [False, False, True, False, True, True]
    assert said[2] == "/runs: 1 MB free on its disk; logs and results may be lost, the run goes on"
    assert said[4] == "/runs: 1000 MB free on its disk again"


def test_a_disk_that_is_gone_is_not_asked_for_reasons() -> None:
    def gone(folder: Path) -> int:
        raise OSError(errno.EIO, "Input/output error")

    assert DiskWatch(Path("/runs"), free_bytes=gone).look() == ""


def test_disk_errors_are_told_from_others() -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/runs/score.json")
    assert explain_disk_error(full).startswith("/runs/score.json: No space left on device; free some room")
    refused = ValueError("/runs: cannot be used (No space left on device)")
    refused.__cause__ = full
    assert explain_disk_error(refused).startswith("/runs: cannot be used (No space left on device); free some room")
    assert explain_disk_error(ValueError("no disk in it")) == ""
    assert explain_disk_error(OSError(errno.EACCES, "Permission denied")) == ""
