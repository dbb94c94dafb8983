"""A run with a toy world in a process of its own, to be killed by a test: ``toy_run.py RUN_DIR CLOCK [OPTION ...]``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec

from visuomotor.launch import process_table, run
from visuomotor.launch.cli import run_app

make_real_table = process_table.make_table


def make_toy_table(*args: Any, **kwargs: Any) -> list[process_table.NodeSpec]:
    table = make_real_table(*args, **kwargs)
    moving = Path(kwargs.get("run_dir") or ".") / "moving"
    world = {"speed_mps": 8.0, "step_s": 0.02, "length_m": 1e6, "moving_file": str(moving)}
    return [msgspec.structs.replace(table[0], module="toy_world:create", config=world), *table[1:]]


if __name__ == "__main__":
    run.make_table = make_toy_table  # type: ignore[attr-defined]
    run_dir, clock = Path(sys.argv[1]), sys.argv[2]
    options = ["--perception", "truth", "--forecaster", "cv", "--policy", "idm"]
    sys.exit(run_app(["launch", "drive", *options, "--clock", clock, "--run-dir", str(run_dir), *sys.argv[3:]]))
