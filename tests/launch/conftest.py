"""A short real run of the toy world with a recorder, for the tests of recordings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from visuomotor.launch.process_table import make_table
from visuomotor.launch.profile import Timeouts, load_profile
from visuomotor.launch.recording import RECORDER, describe_recording, make_recorder
from visuomotor.launch.supervisor import Outcome, Supervisor
from visuomotor.messages.bus import Received
from visuomotor.messages.run_directory import RunDirectory
from visuomotor.messages.schema import Episode, Truth

NODES = Path(__file__).parent / "nodes"


def drive_and_record(
    tmp_path: Path,
    clock: str,
    episodes: int = 1,
    on_tick: Callable[[int, Supervisor], None] | None = None,
    **world: object,
) -> tuple[list[Outcome], Supervisor, list[Received], str]:
    """Drive the toy world and record it; returns also what was observed and the line about the recording."""
    profile = load_profile("drive").override(
        perception_mode="truth", forecaster="cv", policy="idm", device="cpu", clock=clock
    )
    table = make_table(profile)
    table[0] = msgspec.structs.replace(table[0], module="toy_world:create", config=world)
    record = tmp_path / "a.mcap"
    seen: list[Received] = []
    with RunDirectory(tmp_path / "run") as run_dir:
        table.append(make_recorder(table, profile, record, False, {"seeds": "[0]"}, run_dir.path))
        timeouts = Timeouts(step_s=5.0)
        with Supervisor(table, run_dir, clock=profile.clock, timeouts=timeouts, observe=("truth",)) as supervisor:
            supervisor.start()

            def on_message(received: Received) -> None:
                seen.append(received)
                if on_tick is not None and isinstance(received.message, Truth):
                    on_tick(received.tick, supervisor)

            outcomes = [
                supervisor.run_episode(Episode(phase="reset", index=i, seed=i), on_message) for i in range(episodes)
            ]
        line = describe_recording(run_dir.path, record, supervisor.lost.get(RECORDER, ""))
    return outcomes, supervisor, seen, line


@pytest.fixture
def run_toy(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[list[Outcome], Supervisor, list[Received], str]]:
    """``drive_and_record``, where the toy world can be imported."""
    monkeypatch.setenv("PYTHONPATH", str(NODES))
    return drive_and_record
