"""benchmarks/gpu.sh, small, on the CPU: the very script that runs where there is a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow  # loads each network in a dozen fresh processes
def test_the_dry_run_measures_everything_and_says_what_it_is(tmp_path):
    file = tmp_path / "dry.json"
    command = [str(ROOT / "benchmarks" / "gpu.sh"), "--dry-run", "--calls", "3", "--ticks", "3", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHON": sys.executable})
    assert done.returncode == 0, done.stderr[-2000:]
    assert "DRY RUN ON THE CPU (--dry-run)" in done.stdout
    result = json.loads(file.read_text())
    assert result["dry_run"] is True
    assert result["devices"] == ["cpu"]
    networks = {entry["bundle"]: entry for entry in result["networks"]}
    assert set(networks) == {"drive-detector-front", "drive-forecaster", "drive-policy"}
    for entry in networks.values():
        ways = {row["way"]: row for row in entry["ways"]}
        for way in ("visuomotor", "onnxruntime", "visuomotor bound"):
            assert ways[way]["latency_ms"]["p50"] > 0.0
            assert ways[way]["differs"] == 0.0
    runs = result["path"]["runs"]
    assert [run["at_once"] for run in runs] == [False, True]
    seen = {f"detector.infer_camera_{side}" for side in ("front", "left", "right")}
    for run in runs:
        assert run["frame_to_command_ms"]["p99"] > 0.0
        assert {"detector", "tracker", "forecaster", *seen} <= set(run["stages_ms"])
        assert run["providers"]["policy"].startswith("CPUExecutionProvider (")
