"""What the vehicle's nodes counted, beside the logs of their run, for its score."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_summary(file: Path | None, counted: Mapping[str, Any]) -> None:
    """Write JSON where ``file`` says so; a disk that does not take it is no reason to fail at the end of a run."""
    if file is not None:
        with contextlib.suppress(OSError):
            file.write_text(json.dumps(counted, indent=1) + "\n")
