"""What a training checkpoint's folder holds, without the libraries that read it."""

from __future__ import annotations

from pathlib import Path

MODEL_FILE = "ppo.zip"
NORMALIZER_FILE = "normalizer.json"
PROGRESS_FILE = "progress.json"
FILES = (MODEL_FILE, NORMALIZER_FILE, PROGRESS_FILE)


def check_folder(folder: Path) -> None:
    """Raise ValueError that names the folder and what it lacks."""
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise ValueError(
            f"{folder}: expected a checkpoint of visuomotor train policy ({', '.join(FILES)}), "
            f"found no {', '.join(missing)}"
        )
