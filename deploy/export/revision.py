"""Which code made a bundle."""

from __future__ import annotations

import subprocess
from pathlib import Path


def find_revision() -> str:
    """Commit of the working tree, empty outside a checkout."""
    try:
        result = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return result.stdout.strip()
