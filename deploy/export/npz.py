"""Arrays of an npz file that somebody gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Every array of ``path`` by name; nothing is unpickled. Raises ValueError that names the file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error}); expected an npz file") from error
    except Exception as error:  # whatever numpy, zip and zlib raise on other bytes
        raise ValueError(f"{path}: not an npz of arrays; expected a file of numpy.savez, without objects") from error
