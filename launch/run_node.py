"""Entry point of a node's process: ``python -m visuomotor.launch.run_node JOB``, started by the supervisor alone."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visuomotor.messages.process import live_with_parent

if TYPE_CHECKING:
    from visuomotor.launch.job import Job

BRAKE_TICKS_MAX = 150
GRACE_S = 20.0  # after the supervisor's death, to brake to a stop


def main(job_file: str) -> int:
    """Run the node of a job file; returns the exit code (2: the node refuses its configuration)."""
    faulthandler.enable()
    signal.signal(signal.SIGQUIT, signal.SIG_IGN)  # a service manager's watchdog ends the supervisor, and we brake
    raw = Path(job_file).read_bytes()
    import msgspec  # quick imports only until this process is tied to its parent

    parent_pid = int(msgspec.json.decode(raw)["parent_pid"])
    stop = live_with_parent(parent_pid, grace_s=GRACE_S)

    from visuomotor.launch.faulty_node import FaultyNode, SteppingClock
    from visuomotor.launch.job import Job
    from visuomotor.launch.output import LogRotation, lossy_output
    from visuomotor.launch.process_table import create_node

    job = msgspec.json.decode(raw, type=Job)
    LogRotation(job.log_path).start()
    with lossy_output():
        clock = SteppingClock()
        if any(fault.kind == "clock" for fault in job.faults):
            time.monotonic_ns = clock  # whoever in this process asks for the time gets the wrong one
        try:
            node: Any = create_node(job.spec)
            if job.faults:
                node = FaultyNode(node, job.faults, clock)
        except (ValueError, ModuleNotFoundError) as error:
            with contextlib.suppress(OSError):  # on a full disk the log's last words have to do
                job.error_path.write_text(str(error))
            raise
        _run(node, job, stop)
    return 0


def _run(node: Any, job: Job, stop: threading.Event) -> None:
    from visuomotor.launch.process_table import SOURCE
    from visuomotor.messages.loop import run_node

    if node.name != job.spec.name:
        raise RuntimeError(f"{job.spec.module}: made a node called '{node.name}', the table says '{job.spec.name}'")
    if "command" in job.spec.inputs or "truth" in job.spec.outputs:  # what moves the robot, or is it
        record = "orphaned.json" if job.spec.name == SOURCE else f"orphaned_{job.spec.name}.json"
        node = LastStop(node, job.parent_pid, Path(job.run_dir) / record)
    run_node(node, job.place, stop=stop, join_timeout_s=job.join_timeout_s)


class LastStop:
    """The end of the graph that takes the commands, which brakes to a stop by itself when its supervisor has died.

    The bus ends with the supervisor, so no command comes any more; the node's own watchdog brakes. What happened is
    written to ``record``, since nobody is left to write a score.
    """

    def __init__(self, node: Any, parent_pid: int, record: Path) -> None:
        self._node = node
        self._parent_pid = parent_pid
        self._record = record
        self._tick: Any = None
        from visuomotor.launch.standstill import choose_gauge

        self._gauge = choose_gauge(node.outputs)
        self._motion = float("nan")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)

    def reset(self, episode: Any) -> None:
        """As the node."""
        self._tick = None
        self._node.reset(episode)

    def step(self, tick: Any, inputs: Any) -> Mapping[str, Any]:
        """As the node."""
        self._tick = tick
        sent: Mapping[str, Any] = self._node.step(tick, inputs)
        self._motion = self._read(sent)
        return sent

    def _read(self, sent: Mapping[str, Any]) -> float:
        motion = self._gauge.read_first(sent)
        return float("nan") if motion is None else motion

    def close(self) -> None:
        """Brake to a stop first when the supervisor has died during an episode."""
        try:
            if self._tick is not None and not is_alive(self._parent_pid):
                self._brake()
        finally:
            self._node.close()

    def _brake(self) -> None:
        from visuomotor.launch.evaluate.score import write_json
        from visuomotor.messages.node import Inputs, Sample, Tick
        from visuomotor.messages.schema import Truth
        from visuomotor.messages.stepper import TICK_NS

        motion, ended, ticks = float("nan"), "", 0
        before, collided = self._motion, False
        died, tick, pace_s = self._tick.tick, self._tick, 0.0
        if tick.clock == "realtime":
            pace_s = TICK_NS * 1e-9
        while ticks < BRAKE_TICKS_MAX:
            time.sleep(pace_s)
            t_ns = time.monotonic_ns() if pace_s else tick.t_ns + TICK_NS
            tick, ticks = Tick(tick.episode, tick.tick + 1, t_ns, tick.clock), ticks + 1
            sent = self._node.step(tick, Inputs({source.service: Sample() for source in self._node.inputs}))
            motion = self._read(sent)
            if isinstance(truth := sent.get("truth"), Truth):
                ended, collided = truth.end, truth.collision
            if ended or self._gauge.stands(motion) or getattr(self._node, "finished", False):
                break
        data = {"end": "fault", "fault_node": "supervisor", "fault_tick": died, f"fault_{self._gauge.name}": before}
        data |= {"ticks_braked": ticks, self._gauge.name: motion, "world_end": ended, "collision": collided}
        with contextlib.suppress(OSError):  # a full disk: the robot stands, which is what matters
            write_json(self._record, data)


def is_alive(parent_pid: int) -> bool:
    """Whether the parent lives. Its main thread may be gone, and SIGTERM sent, before its children are given away."""
    if os.getppid() != parent_pid:
        return False
    try:
        stat = Path(f"/proc/{parent_pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
