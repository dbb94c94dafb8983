"""The processes of a run: started from jobs, watched, stopped in order, none left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import msgspec

from visuomotor.launch.job import Job
from visuomotor.launch.output import last_line, old_log

# One thread per node: a node that wants more says so to its own library, and idle pools must not eat the other's core.
THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class Processes:
    """One process per job. ``parent_pid`` of each job must be this process."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs = {job.spec.name: job for job in jobs}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start all, in order."""
        for name in self._jobs:
            self.start_one(name)

    def start_one(self, name: str, *, again: bool = False) -> None:
        """Start one, ``again`` in place of one that died; what its last process said is kept beside its log."""
        job = self._jobs[name]
        if again:
            job = msgspec.structs.replace(job, spec=job.spec.after_restart())
        job.job_path.write_bytes(msgspec.json.encode(job))
        job.error_path.unlink(missing_ok=True)
        old_log(job.log_path).unlink(missing_ok=True)
        if job.log_path.exists():
            job.log_path.replace(job.previous_log_path)
        with job.log_path.open("ab") as log:  # appending: also after the node has cut it
            self._running[name] = subprocess.Popen(
                [sys.executable, "-m", "visuomotor.launch.run_node", str(job.job_path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=THREADS | dict(os.environ),
                process_group=0,  # Ctrl-C at the terminal is for the supervisor, which stops the nodes in order
            )

    def pid(self, name: str) -> int:
        """Process id of a node."""
        return self._running[name].pid

    def find_dead(self) -> dict[str, str]:
        """Node -> how it ended, for every process that is no more."""
        dead = {}
        for name, process in self._running.items():
            code = process.poll()
            if code is not None:
                dead[name] = _describe(code)
        return dead

    def absent(self) -> str:
        """What a run still lacks beyond its processes: nothing."""
        return ""

    def bad_input(self, name: str) -> str:
        """Why a node refused its configuration; empty when that is not how it ended."""
        path = self._jobs[name].error_path
        return path.read_text() if path.exists() else ""

    def last_words(self, name: str) -> str:
        """The last line that a node printed."""
        return last_line(self._jobs[name].log_path)

    def log_path(self, name: str) -> str:
        """Where a node's output is."""
        return str(self._jobs[name].log_path)

    def kill(self, name: str) -> None:
        """End one process and what it started at once."""
        process = self._running[name]
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def stop(self, timeout_s: float) -> None:
        """Ask all to stop, the last started first; whoever has not after ``timeout_s`` is killed."""
        for process in reversed(self._running.values()):
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + timeout_s
        for name, process in reversed(self._running.items()):
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.kill(name)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what a node may have started and left

    def __len__(self) -> int:
        return len(self._running)


def _describe(code: int) -> str:
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
