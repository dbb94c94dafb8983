"""What a report is made from: the messages of every tick of an episode, its frames kept as JPEG."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import msgspec
import numpy as np

from visuomotor.messages.schema import CameraFrame, Message, Trace

_JPEG_QUALITY = 92


class TickRecord(msgspec.Struct, kw_only=True):
    """All that was published in one tick; frames apart."""

    tick: int
    messages: dict[str, Message]
    frames: dict[str, bytes] = {}  # camera -> JPEG

    def image(self, camera: str) -> np.ndarray | None:
        """The decoded frame, BGR, or None when that camera had none."""
        data = self.frames.get(camera)
        if data is None:
            return None
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


class EpisodeCapture:
    """Messages of one episode in the order of their ticks."""

    def __init__(self, seed: int, *, frames: bool = True) -> None:
        self.seed = seed
        self.ticks: list[TickRecord] = []
        self.traces: list[Trace] = []
        self._frames = frames

    def add(self, tick: int, messages: Mapping[str, Message], traces: tuple[Trace, ...] = ()) -> None:
        """Messages of one tick by service."""
        record = TickRecord(tick=tick, messages={})
        for service, message in messages.items():
            if isinstance(message, CameraFrame):
                if self._frames:
                    done, data = cv2.imencode(".jpg", message.image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
                    if done:
                        record.frames[service] = data.tobytes()
            elif isinstance(message, Trace):
                self.traces.append(message)
            else:
                record.messages[service] = message
        self.traces.extend(traces)
        self.ticks.append(record)
