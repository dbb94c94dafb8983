"""Where commands end when nothing is driven."""

from __future__ import annotations

from pathlib import Path

from visuomotor.deploy.vehicle.csv_log import CsvLog
from visuomotor.messages.schema import Command


class DryRunSink:
    """A CSV line per step, of what actuators would have done; counts the commands that came."""

    COLUMNS = ("tick", "time_s", "acceleration_mps2", "steering_angle_rad", "origin", "causes")

    def __init__(self, path: Path | None) -> None:
        self.commands = 0
        self._log = CsvLog(path, self.COLUMNS) if path is not None else None

    @property
    def note(self) -> str:
        """Why the log has stopped; empty while it goes on."""
        return self._log.note if self._log is not None else ""

    def write(
        self, tick: int, now_s: float, command: Command | None, acted: tuple[float, float], tripped: bool
    ) -> None:
        """One step. ``origin``: command, hold (none came, the last one stands) or watchdog (braking)."""
        self.commands += command is not None
        if self._log is not None:
            origin = "watchdog" if tripped else "command" if command is not None else "hold"
            causes = ";".join(command.causes) if command is not None else ""
            self._log.write([tick, f"{now_s:.3f}", f"{acted[0]:.4f}", f"{acted[1]:.5f}", origin, causes])

    def close(self) -> None:
        """Flush and close."""
        if self._log is not None:
            self._log.close()
