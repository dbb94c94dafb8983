"""Whole shifts of the picking cell with real processes: a fault stops the arm, an operator's order is taken."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from visuomotor.launch.cli import run_app
from visuomotor.launch.evaluate.suite import build_graph, make_run, run_episode
from visuomotor.launch.profile import load_profile

pytest.importorskip("pybullet")

PARTS = ["--perception", "truth", "--forecaster", "cv", "--policy", "scripted"]
TIMEOUT_S = 120.0


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["launch", "pick", *PARTS, "--order", "2 cars"], "order: unknown part 'cars'; expected one of red cube"),
        (["launch", "pick", *PARTS, "--order", "0 duck"], "order: '0 duck': expected a count of 1 to 99"),
        (["launch", "pick", *PARTS[:-1], "idm"], "idm: no such bundle"),
        (
            ["launch", "pick", *PARTS[:-1], "drive-policy"],
            "drive-policy: bundle.json: task: expected 'pick', got 'drive'",
        ),
        (["launch", "drive", "--order", "duck"], "order: task 'drive' takes no orders"),
        (["train", "detector", "--task", "pick"], "visuomotor render pick --out data/pick"),
        (["train", "forecaster", "--task", "boat"], "task: expected one of drive, pick, got 'boat'"),
        (["eval", "suite", "pick-v1", "--profile", "drive"], "task: expected that of suite pick-v1, got 'drive'"),
        (["order", "nowhere", "duck"], "nowhere: expected the folder of a run"),
    ],
    ids=lambda value: " ".join(value[:2] + value[-2:]) if isinstance(value, list) else "",
)
def test_bad_input_is_one_message_and_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(arguments) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_seed_is_the_same_shift_again_whatever_came_before() -> None:
    profile = load_profile("pick").override(
        perception_mode="truth", forecaster="cv", policy="scripted", max_duration_s=4.0
    )
    run = make_run(profile)
    graph = build_graph(run.nodes)
    try:
        first, other, again = (run_episode(graph, run, seed, index) for index, seed in enumerate((3, 4, 3)))
    finally:
        graph.close()
    assert first["end"] == "timeout"
    assert first["parts_binned"] + first["grasp_attempts"] > 0
    assert first["topic_digests"] == again["topic_digests"]
    assert first["digest"] != other["digest"]


def start(*options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "visuomotor.launch.cli", "launch", "pick", *PARTS, "--seed", "3", *options]
    return subprocess.Popen(
        [*command, "--run-dir", "run"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )


@pytest.mark.slow
def test_the_arm_stops_when_its_policy_dies_and_the_score_says_so() -> None:
    with start("--inject", "policy=kill@2s") as run:
        _, said = run.communicate(timeout=TIMEOUT_S)
    assert run.returncode == 1
    assert "policy was killed by SIGKILL" in said
    assert "the arm was braked to a stop" in said
    (row,) = json.loads(Path("run/score.json").read_text())["episodes"]
    assert (row["end"], row["fault_node"], row["braked_to_stop"]) == ("fault", "policy", True)
    assert row["injected"][0]["joint_speed_radps"] > 0.1, "it was moving"


@pytest.mark.slow
def test_an_operator_orders_and_the_arm_stops_when_the_supervisor_dies(capsys: pytest.CaptureFixture[str]) -> None:
    # Blind, it only goes to where it waits: a hand on its way down may meet a part while its watchdog still holds.
    with start("--perception", "blind") as run:
        until(lambda: Path("run/vm.sock/world").exists())
        assert run_app(["order", "run", "2 boats"]) == 2
        assert "unknown part 'boats'" in capsys.readouterr().err
        assert run_app(["order", "run", "duck, 2 brick", "--wait", "60"]) == 0
        assert "every duck, 2 brick" in capsys.readouterr().out
        os.kill(run.pid, signal.SIGKILL)
        run.wait(TIMEOUT_S)
        until(lambda: Path("run/orphaned.json").exists() and Path("run/orphaned.json").stat().st_size > 0)
    record = json.loads(Path("run/orphaned.json").read_text())
    assert record["fault_node"] == "supervisor"
    assert record["joint_speed_radps"] < 0.02


def until(done: object) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not done():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)
