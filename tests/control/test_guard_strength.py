"""How strong the tests of the safety layer are: all lines and branches, and none of a few mutants survives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("what", [("coverage", "--check"), ("sample",)])
def test_safety_layer(what: tuple[str, ...]) -> None:
    command = [sys.executable, "benchmarks/guard.py", *what]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
