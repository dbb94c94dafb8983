"""What the supervisor hands to a node's process: a JSON file in the run directory."""

from __future__ import annotations

from pathlib import Path

import msgspec

from visuomotor.launch.inject import Injection
from visuomotor.launch.process_table import NodeSpec
from visuomotor.messages.wiring import RunPlace


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One node process."""

    spec: NodeSpec
    place: RunPlace
    run_dir: str
    parent_pid: int
    join_timeout_s: float
    faults: tuple[Injection, ...] = ()

    @property
    def job_path(self) -> Path:
        """This job on disk."""
        return Path(self.run_dir) / f"{self.spec.name}.job.json"

    @property
    def log_path(self) -> Path:
        """Standard output and error of the process."""
        return Path(self.run_dir) / f"{self.spec.name}.log"

    @property
    def previous_log_path(self) -> Path:
        """What the node's process before this one said."""
        return Path(self.run_dir) / f"{self.spec.name}.previous.log"

    @property
    def error_path(self) -> Path:
        """Why the node refused its configuration, when it did."""
        return Path(self.run_dir) / f"{self.spec.name}.error"
