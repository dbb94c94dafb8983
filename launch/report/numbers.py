"""Numbers as the page's data carries them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike


def rounded(values: ArrayLike, digits: int = 2) -> list[Any]:
    """Nested lists of rounded floats."""
    found: list[Any] = np.round(np.asarray(values, np.float64), digits).tolist()
    return found
