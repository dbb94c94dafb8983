"""The toy graph, in this process and in processes of its own."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from visuomotor.messages.wiring import RunPlace

TOYS = Path(__file__).parent / "toys.py"
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="session")
def toys() -> ModuleType:
    spec = importlib.util.spec_from_file_location("toys", TOYS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def start_toy() -> Iterator[Start]:
    """Starts a toy node in a process of its own; all are gone at the end of the test."""
    started: list[subprocess.Popen[str]] = []

    def start(name: str, place: RunPlace, **options: float) -> subprocess.Popen[str]:
        given = [f"{key}={value}" for key, value in options.items()]
        command = [sys.executable, str(TOYS), name, str(os.getpid()), msgspec.json.encode(place).decode(), *given]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        process.communicate()
