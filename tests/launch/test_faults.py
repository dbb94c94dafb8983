"""One of each fault of ``docs/faults.md``: the drive goes on or stops in time. Kills: ``test_drive_deaths``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from visuomotor.launch.faulty_node import FaultyNode
from visuomotor.launch.inject import parse_injections
from visuomotor.launch.process_table import create_node, make_table
from visuomotor.launch.profile import load_profile
from visuomotor.messages.graph import Graph
from visuomotor.messages.node import Node
from visuomotor.messages.schema import Command, Detections, Episode, Truth

pytest.importorskip("pybullet")

SEED, AT_TICK, RUN_TICKS = 1000, 10, 60
BRAKE_MPS2 = 3.5


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[Node]]:
    made = [create_node(spec) for spec in make_table(load_profile("drive"))]
    yield made
    for node in made:
        node.close()


def drive(nodes: list[Node], injected: str) -> tuple[list[dict[str, Any]], str]:
    """The shipped graph on its cameras in one process, with a fault after one second.

    Returns the messages of every tick, and what perception says of itself at the end.
    """
    faults = parse_injections([injected] if injected else [], {node.name: node.outputs for node in nodes})
    graph = Graph([FaultyNode(node, faults.get(node.name, ())) for node in nodes], digest=False)
    graph.reset(Episode(phase="reset", seed=SEED))
    ticks = []
    while len(ticks) < RUN_TICKS and (sent := graph.tick()):
        ticks.append(sent)
        if len(ticks) > AT_TICK and speeds(ticks)[-1] < 0.1:
            break
    note = next(node.note for node in nodes if node.name == "perception")  # type: ignore[attr-defined]
    graph.reset(Episode(phase="reset", index=1, seed=SEED))  # the nodes are used again: their faults end
    return ticks, note


def speeds(ticks: list[dict[str, Any]]) -> list[float]:
    return [sent["truth"].speed_mps for sent in ticks]


def last_truth(ticks: list[dict[str, Any]]) -> Truth:
    truth: Truth = ticks[-1]["truth"]
    return truth


@pytest.mark.slow
@pytest.mark.parametrize(
    ("injected", "noticed_s", "cause"),
    [
        ("world=stuck@1s", 0.3 + 0.5, "stale_policy"),
        ("world=black@1s", 0.3 + 0.5, "stale_policy"),
        ("policy=network:nan@1s", 0.5, "stale_policy"),
        ("policy=inf@1s", 0.0, "not_finite"),
    ],
)
def test_what_nobody_can_drive_on_ends_in_a_stop_in_time(
    nodes: list[Node], injected: str, noticed_s: float, cause: str
) -> None:
    ticks, note = drive(nodes, injected)
    driven = speeds(ticks)
    before = driven[AT_TICK]
    assert before > 5.0
    assert driven[-1] < 0.1
    assert (len(ticks) - 1 - AT_TICK) * 0.1 <= noticed_s + 0.8 + (before + 2.0 * noticed_s) / BRAKE_MPS2
    assert not last_truth(ticks).collision
    command = ticks[-1]["command"]
    assert isinstance(command, Command)
    assert cause in command.causes
    if injected.startswith("world"):
        seen = [sent["detections"] for sent in ticks]
        assert all(isinstance(d, Detections) for d in seen)
        assert [d.header.valid for d in seen[: AT_TICK + 2]] == [True] * (AT_TICK + 2)
        assert not any(d.header.valid for d in seen[AT_TICK + 3 :])
        assert ("stuck" if "stuck" in injected else "dark") in note


@pytest.mark.slow
@pytest.mark.parametrize("injected", ["world=loss:30%@1s", "perception=latency:200ms@1s", "world=stuck:camera_left@1s"])
def test_what_can_be_driven_on_does_no_harm(nodes: list[Node], injected: str) -> None:
    ticks, _ = drive(nodes, injected)
    assert not last_truth(ticks).collision
    assert not last_truth(ticks).offroad
    assert len(ticks) == RUN_TICKS or speeds(ticks)[-1] < 0.1
    if "camera_left" in injected:
        assert ticks[-1]["detections"].cameras == ("camera_front", "camera_right")
        assert ticks[-1]["detections"].header.valid


def launch(tmp_path: Path, *options: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """A run from the command line; its result and its only episode, {} where there is no score."""
    score = tmp_path / "score.json"
    places = ["--run-dir", str(tmp_path / "run"), "--json", str(score)]
    done = subprocess.run(
        [sys.executable, "-m", "visuomotor.launch.cli", "launch", *options, *places],
        env=dict(os.environ, COLUMNS="200"),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or [])]
    return done, json.loads(score.read_text())["episodes"][0] if score.exists() else {}


TOY = ["drive", "--perception", "truth", "--forecaster", "cv", "--policy", "idm", "--seed", "3"]


def test_an_episode_ends_after_its_longest_duration(tmp_path: Path) -> None:
    done, episode = launch(tmp_path, *TOY, "--max-duration", "2", "--inject", "guard=nan@1s")
    assert done.returncode == 0, done.stderr
    assert (episode["end"], episode["duration_s"], episode["rest_at_s"]) == ("timeout", 2.0, None)
    (injected,) = episode["injected"]
    assert (injected["node"], injected["fault"], injected["at_s"]) == ("guard", "nan@1s", 1.0)
    assert injected["speed_mps"] > 3.0


@pytest.mark.slow
@pytest.mark.parametrize("step", ["+3s", "-3s"])
def test_a_clock_that_was_set_stops_the_car(tmp_path: Path, step: str) -> None:
    options = [*TOY, "--clock", "realtime", "--max-duration", "8"]
    done, episode = launch(tmp_path, *options, "--inject", f"guard=clock:{step}@1s")
    assert done.returncode == 0, done.stderr
    speed_mps = episode["injected"][0]["speed_mps"]
    assert episode["rest_at_s"] is not None
    assert episode["rest_at_s"] - 1.0 <= 0.95 + 0.8 + (speed_mps + 1.9) / BRAKE_MPS2
    assert not episode["collision"]


@pytest.mark.slow
def test_a_full_disk_takes_the_recording_and_not_the_drive(tmp_path: Path) -> None:
    options = ["--max-duration", "5", "--record", str(tmp_path / "a.mcap"), "--inject", "recorder=full@1s"]
    done, episode = launch(tmp_path, *TOY, *options)
    assert done.returncode == 0, done.stderr
    assert episode["end"] == "timeout"
    assert "No space left on device" in done.stderr


@pytest.mark.slow
def test_bad_frames_on_the_can_bus_stop_the_car(tmp_path: Path) -> None:
    pytest.importorskip("can")
    options = ["--seed", "3", "--max-duration", "8", "--inject", "world=can:checksum@1500ms"]
    done, episode = launch(tmp_path, "vehicle", "--profile", "sim-can", *options)
    assert done.returncode == 0, done.stderr
    assert episode["rest_at_s"] is not None
    assert not episode["collision"]
    assert episode["guard_interventions"]["stale_vehicle_state"] > 10


@pytest.mark.slow
def test_a_supervisor_that_is_killed_leaves_a_car_at_rest_and_no_process(
    tmp_path: Path, outlast: Callable[[Sequence[psutil.Process]], list[psutil.Process]]
) -> None:
    score = tmp_path / "score.json"
    command = [sys.executable, "-m", "visuomotor.launch.cli", "launch", *TOY, "--inject", "supervisor=kill@1s"]
    done = subprocess.run([*command, "--run-dir", str(tmp_path / "run"), "--json", str(score)], capture_output=True)
    assert done.returncode == -9
    nodes = [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or [])]
    assert outlast(nodes) == []
    record = json.loads((tmp_path / "run" / "orphaned.json").read_text())
    assert (record["fault_node"], record["collision"]) == ("supervisor", False)
    assert record["fault_speed_mps"] > 3.0
    assert record["speed_mps"] < 0.1
