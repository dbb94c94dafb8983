"""What of a report is a robot's own: how its surroundings are drawn, and which numbers are told beside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from visuomotor.launch.tasks import load, parts_of
from visuomotor.messages.camera import CameraModel
from visuomotor.messages.schema import Message


class ReportPart(Protocol):
    """Pictures and numbers of one robot; made from the row of its task in ``messages.tasks``."""

    class_names: tuple[str, ...]
    script: str  # file beside the template: draws and names on the page what only this robot has
    digits: int  # of metres in the page's data
    height_m: float  # that a track's box is given, which has none of its own

    def draw_camera(
        self, image: np.ndarray, camera: CameraModel, messages: Mapping[str, Message], scale: float
    ) -> np.ndarray:
        """The frame, enlarged, with what was seen, known and forecast in it."""

    def draw_top(self, messages: Mapping[str, Message], width: int, height: int) -> np.ndarray:
        """The surroundings from above, BGR [height, width, 3]."""

    def instruments(self, messages: Mapping[str, Message]) -> list[str]:
        """Short texts for the line under a picture."""

    def tick_data(self, messages: Mapping[str, Message]) -> dict[str, Any]:
        """One tick for the page's script, as plain data under short keys."""

    def log(self, rr: Any, messages: Mapping[str, Message]) -> None:
        """One tick to Rerun (the module ``rr``): surroundings under ``odom``, numbers under ``plots``."""


def make_part(kind: str) -> ReportPart:
    """The part of a task, or of a profile's kind."""
    row = parts_of(kind)
    part: ReportPart = load(row.report)(row.task)
    return part
