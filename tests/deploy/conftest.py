"""The toy policies of ``sb3_toys.py``, which tests cannot import by name."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

TOYS = Path(__file__).parent / "sb3_toys.py"


@pytest.fixture(scope="session")
def toys() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sb3_toys", TOYS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
