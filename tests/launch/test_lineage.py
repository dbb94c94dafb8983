"""Latency from a recording: the way of each command over lineage and traces, and what is counted beside it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from visuomotor.deploy.record.reader import Recording
from visuomotor.deploy.record.writer import RecordingWriter
from visuomotor.launch.cli import run_app
from visuomotor.launch.evaluate.lineage import PathReport, PathStage, measure
from visuomotor.launch.recording_tables import make_console, print_latency, stage_names
from visuomotor.messages import wire
from visuomotor.messages.schema import CameraFrame, Command, Header, Message, NodeHealth, PolicyCommand, Trace

MS = 1_000_000
PERIOD_MS = 100


class Script:
    """Writes a run by hand: world -> policy -> guard -> world, with every time known."""

    def __init__(self, path: Path, *, clock: str = "lockstep", lossy: bool = False) -> None:
        self.path = path
        self.writer = RecordingWriter(path, clock=clock, lossy=lossy)

    def say(self, service: str, node: str, at_ms: float, message: Message) -> None:
        self.writer.add(service, node, round(at_ms * MS), message, wire.encode(service, message))

    def trace(self, node: str, tick: int, start_ms: float, end_ms: float, parents: dict[str, int], *inner: Any) -> None:
        """A step that computed from ``start_ms`` to ``end_ms`` and published during a millisecond."""
        loop = (("wait", 0, round(start_ms * MS)), ("step", round(start_ms * MS), round(end_ms * MS)))
        stages = (*loop, *inner, ("publish", round(end_ms * MS), round((end_ms + 1) * MS)))
        header = Header(tick=tick, seq=tick, parents=parents)
        self.say("trace", node, end_ms + 1, Trace(header=header, node=node, stages=stages))

    def tick(self, tick: int, *inner: Any, policy_start_ms: float = 15.0, actuated: bool = True) -> None:
        """Capture 0 to 10 ms, policy 15 to 30, guard 32 to 35; the command of the tick acts two ticks later."""
        at = PERIOD_MS * tick
        parents = {"command": tick - 2} if tick >= 2 and actuated else {}
        header = Header(tick=tick, seq=tick, t_capture_ns=tick * PERIOD_MS * MS)
        image = np.zeros((4, 4, 3), np.uint8)
        self.say("camera_front", "world", at + 10.5, CameraFrame(header=header, image=image))
        self.trace("world", tick, at, at + 10, parents, *inner)
        header = Header(tick=tick, seq=tick, parents={"camera_front": tick})
        self.say("policy_command", "policy", at + 30.5, PolicyCommand(header=header))
        think = ("think", round((at + 16) * MS), round((at + 20) * MS))
        self.trace("policy", tick, at + policy_start_ms, at + 30, {"camera_front": tick}, think)
        header = Header(tick=tick, seq=tick, parents={"policy_command": tick, "camera_front": tick})
        self.say("command", "guard", at + 35.5, Command(header=header))
        self.trace("guard", tick, at + 32, at + 35, {"policy_command": tick})

    def measure(self) -> PathReport:
        self.writer.close()
        return measure(Recording(self.path))


@pytest.mark.parametrize("lossy", [False, True])
def test_stages_follow_each_other_without_a_gap(tmp_path: Path, lossy: bool) -> None:
    script = Script(tmp_path / "a.mcap", lossy=lossy)
    for tick in range(10):
        script.tick(tick)
    report = script.measure()
    stages = {stage.name: (stage.start_ms, stage.p50_ms) for stage in report.stages}
    assert stages == {
        "world: capture": (0.0, 10.0),
        "world: publish": (10.0, 0.5),
        "to policy": (10.5, 4.5),
        "policy: step": (15.0, 15.0),
        "policy.think": (16.0, 4.0),
        "policy: publish": (30.0, 0.5),
        "to guard": (30.5, 1.5),
        "guard: step": (32.0, 3.0),
        "guard: publish": (35.0, 0.5),
        "to the actuator": (35.5, 164.5),
    }
    outer = [stage for stage in report.stages if not stage.inner]
    for one, following in itertools.pairwise(outer):
        assert one.start_ms + one.p50_ms == pytest.approx(following.start_ms)
    assert report.totals_ms["camera_to_command"]["max"] == 35.5
    assert report.totals_ms["camera_to_actuator"]["p50"] == 200.0
    assert (report.commands, report.complete, report.not_actuated, report.incomplete) == (10, 8, 2, 0)
    assert report.rate_hz["camera_front"] == 10.0


def test_a_stage_that_would_be_negative_is_left_out_and_counted(tmp_path: Path) -> None:
    script = Script(tmp_path / "a.mcap")
    for tick in range(6):
        script.tick(tick, policy_start_ms=5.0 if tick == 3 else 15.0)  # before the frame was sent: another clock
    report = script.measure()
    assert report.several_hosts == 1
    assert all(stage.p50_ms >= 0.0 and stage.start_ms >= 0.0 for stage in report.stages)
    assert report.complete == 3


def test_nothing_begins_before_the_capture(tmp_path: Path) -> None:
    script = Script(tmp_path / "a.mcap", clock="realtime")
    for tick in range(1, 6):
        at_ns = tick * PERIOD_MS * MS
        script.tick(tick, ("capture", at_ns - 4 * MS, at_ns + 6 * MS))  # of another camera, four milliseconds older
    stages = {stage.name: (stage.start_ms, stage.p50_ms) for stage in script.measure().stages}
    assert stages["world: capture"] == (0.0, 10.0)
    assert stages["world.capture"] == (0.0, 6.0)


def test_stages_keep_distinct_names_in_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["world: capture", "world.render_front", "to perception", "perception: step", "perception.detector"]
    names += [f"perception.detector.{does}_camera_{side}" for side in ("left", "right") for does in ("infer", "place")]
    names += ["perception.tracker", "perception: publish", "to the actuator", "perception.late"]
    stages = [
        PathStage(name, ":" not in name and "to " not in name, 7.0 * i, 6.5, 7.0, 8.0, 123.0)
        for i, name in enumerate(names)
    ]
    shown = ["world: capture", " render_front", "to perception", "perception: step", " detector"]
    shown += ["  infer_camera_left", "  place_camera_left", "  infer_camera_right", "  place_camera_right"]
    shown += [" tracker", "perception: publish", "to the actuator", " perception.late"]
    assert stage_names(stages) == shown
    for console in (Console(width=80, force_terminal=True, color_system=None), make_console()):
        print_latency(PathReport(clock="lockstep", stages=stages), console)
        out = capsys.readouterr().out
        assert all(f"│ {name} " in out for name in shown)
        assert "…" not in out
        assert ("#" * 2 in out) == (console.width > 80)


def test_what_was_lost_is_counted(tmp_path: Path) -> None:
    script = Script(tmp_path / "a.mcap")
    for tick in (0, 1, 2, 5):
        script.tick(tick, actuated=False)
    image = np.zeros((4, 4, 3), np.uint8)
    script.say("camera_front", "world", 900.0, CameraFrame(header=Header(tick=6, seq=6), image=image))
    script.say("command", "guard", 901.0, Command(header=Header(tick=6, seq=6)))  # the guard alone
    again = Header(tick=6, seq=7, parents={"policy_command": 5})
    script.say("command", "guard", 902.0, Command(header=again))
    script.say("node_health", "policy", 903.0, NodeHealth(node="policy", state="running", dropped={"stale": 2}))
    report = script.measure()
    assert report.not_recorded == {"camera_front": 2, "policy_command": 2, "command": 2}
    assert report.unused == {"camera_front": 1}
    assert (report.commands, report.not_actuated, report.repeated, report.incomplete) == (6, 4, 1, 1)
    assert report.refused == {"policy": {"stale": 2}}


@pytest.mark.slow
@pytest.mark.parametrize("clock", ["lockstep", "realtime"])
def test_latency_of_a_real_run(
    clock: str, tmp_path: Path, run_toy: Callable[..., Any], capsys: pytest.CaptureFixture
) -> None:
    run_toy(tmp_path, clock, length_m=30.0)
    assert run_app(["latency", str(tmp_path / "a.mcap"), "--json", str(tmp_path / "l.json")]) == 0
    report = json.loads((tmp_path / "l.json").read_text())
    assert report["complete"] > 5
    assert report["several_hosts"] == 0
    assert all(stage[key] >= 0.0 for stage in report["stages"] for key in ("start_ms", "p50_ms", "p99_ms", "max_ms"))
    assert 0.0 < report["totals_ms"]["camera_to_command"]["p50"] < report["totals_ms"]["camera_to_actuator"]["p50"]
    out = capsys.readouterr().out
    for name in ("world: capture", "│  forecaster ", "policy: step", "guard: step", "to the actuator"):
        assert name in out
    assert ("missed deadlines" in out) == (clock == "realtime")
