"""The shipped graph on rendered cameras, each node killed in turn, as a user would see it: one command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

pytest.importorskip("pybullet")


@pytest.mark.slow
@pytest.mark.parametrize("clock", ["lockstep", "realtime"])
@pytest.mark.parametrize("victim", ["perception", "policy", "guard", "world"])
def test_a_killed_node_ends_the_drive_as_a_fault_with_the_car_at_rest(tmp_path: Path, victim: str, clock: str) -> None:
    run_dir, score = tmp_path / "run", tmp_path / "score.json"
    command = ["launch", "drive", "--seed", "4", "--clock", clock, "--inject", f"{victim}=kill@2s"]
    done = subprocess.run(
        [sys.executable, "-m", "visuomotor.launch.cli", *command, "--run-dir", str(run_dir), "--json", str(score)],
        env=dict(os.environ, COLUMNS="200"),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    (episode,) = json.loads(score.read_text())["episodes"]
    assert (episode["end"], episode["fault_node"]) == ("fault", victim)
    assert f"fault: {victim}" in done.stderr
    if victim != "world":  # without it there is no car to brake
        assert "the car was braked to a stop" in done.stderr
    assert not (run_dir / "sockets").exists()
    left = [p for p in psutil.process_iter(["cmdline"]) if str(run_dir) in " ".join(p.info["cmdline"] or [])]
    assert not left
