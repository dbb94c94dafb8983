"""All cameras of a car: the frames that belong together, one set per tick, and what becomes of a camera that stops."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import cv2
import msgspec
import numpy as np

from visuomotor.deploy.vehicle.capture import CameraError, SourceSettings
from visuomotor.deploy.vehicle.source import Frame, VideoSource
from visuomotor.messages.camera import CameraModel

FIRST_FRAME_S = 5.0
LEAD_WAIT_S = 0.07  # a frame due within this time is waited for: the ticks fall in step with the first camera
SKEW_MAX_S = 0.1  # frames further apart are not of one tick
JOIN_S = 0.02  # how long the first camera's frame waits for those of the others, which may still be on their way
MISSING_S = 0.3  # a camera without a frame for so long is missing: no frames go out without one that must not fail
GIVE_UP_S = 5.0  # and after so long the run ends


class Cameras:
    """Named cameras with their sources; the first one leads: its newest frame makes a tick, the others join it.

    A camera that must not fail and is missing holds back the frames of all: what follows them stops, and the guard
    stops the car. When it stays missing, ``take`` raises CameraError. One that may fail is left out while it is
    missing. Sources are opened anew in either case.
    """

    def __init__(self, cameras: Sequence[CameraModel], sources: Mapping[str, SourceSettings]) -> None:
        self.cameras = {camera.name: camera for camera in cameras}
        self.lead = cameras[0].name
        self.sources: dict[str, VideoSource] = {}
        self.published: Counter[str] = Counter()
        self.held_back = 0  # ticks without frames because a camera was missing
        self.skew_max_s = dict.fromkeys(self.cameras, 0.0)
        try:
            for name, camera in self.cameras.items():
                self.sources[name] = VideoSource(sources[name], partial(fit_image, camera=camera))
        except Exception:
            self.close()
            raise

    def warm_up(self) -> None:
        """Start the live ones, which would overflow otherwise, and wait for their first frames."""
        for source in self._live().values():
            source.start()
        deadline = time.monotonic() + FIRST_FRAME_S
        for source in self._live().values():
            if not source.wait(max(0.0, deadline - time.monotonic())) and not source.settings.may_fail:
                raise CameraError(f"camera {source.name}: delivered no frame within {FIRST_FRAME_S:.0f} s")

    def begin(self) -> None:
        """Start the files; what came before counts no more."""
        for source in self.sources.values():
            if source.is_file:
                source.start()
            else:
                source.forget()
        self.sources[self.lead].wait(FIRST_FRAME_S)

    def take(self) -> dict[str, Frame]:
        """The frames of one tick by camera, the lead's last; empty when there is none."""
        self.sources[self.lead].wait_for_newer(LEAD_WAIT_S)
        lead = self.sources[self.lead].take()
        if missing := self._missing(must=True):
            name, silent_s = max(missing.items(), key=lambda item: item[1])
            if silent_s > GIVE_UP_S:
                raise CameraError(f"{name}: camera {self.sources[name].name} delivered nothing for {silent_s:.0f} s")
            self.held_back += lead is not None
            return {}
        if lead is None:
            return {}
        frames: dict[str, Frame] = {}
        deadline = time.monotonic() + JOIN_S
        for name, source in self.sources.items():
            if name == self.lead:
                continue
            wait_s = max(0.0, deadline - time.monotonic()) if source.silent_s < MISSING_S else 0.0
            if (frame := source.take_nearest(lead.t_capture_ns, SKEW_MAX_S, wait_s)) is not None:
                skew_s = abs(frame.t_capture_ns - lead.t_capture_ns) * 1e-9
                self.skew_max_s[name] = max(self.skew_max_s[name], skew_s)
                frames[name] = frame
        frames[self.lead] = lead
        self.published.update(frames.keys())
        return frames

    def _missing(self, must: bool) -> dict[str, float]:
        """Live cameras that are silent and for how long, s; ``must``: of those that must not fail only."""
        return {
            name: source.silent_s
            for name, source in self.sources.items()
            if not source.is_file and source.silent_s > MISSING_S and not (must and source.settings.may_fail)
        }

    def _live(self) -> dict[str, VideoSource]:
        return {name: source for name, source in self.sources.items() if not source.is_file}

    @property
    def exhausted(self) -> bool:
        """Whether a file that must not fail has been played to its end."""
        return any(s.exhausted for s in self.sources.values() if s.is_file and not s.settings.may_fail)

    @property
    def note(self) -> str:
        """Which cameras are silent, and which files ended early."""
        silent = self._missing(must=False)
        notes = [f"{name}: {self.sources[name].name} silent for {s:.0f} s" for name, s in silent.items()]
        return "; ".join([*notes, *self.ended_early])

    @property
    def ended_early(self) -> list[str]:
        """What there is to say of files that ended early."""
        return [
            f"{name}: {source.name} ended after {source.counts.read} of the {source.frames_declared} frames it "
            "declares; was it cut?"
            for name, source in self.sources.items()
            if source.ended_early
        ]

    def summary(self) -> dict[str, dict[str, Any]]:
        """What was counted, by camera."""
        return {
            name: {
                "source": source.name,
                "rate_hz": source.rate_hz,
                "frames_declared": source.frames_declared,
                "frames_read": source.counts.read,
                "frames_published": self.published[name],
                "frames_between_ticks": source.counts.between,
                "frames_stamped_by_driver": source.counts.stamped,
                "reconnects": source.counts.reconnects,
                "skew_max_ms": round(self.skew_max_s[name] * 1e3, 1),
            }
            for name, source in self.sources.items()
        }

    def close(self) -> None:
        """Release the devices."""
        for source in self.sources.values():
            source.close()


def fit_image(image: np.ndarray, camera: CameraModel) -> np.ndarray:
    """Crop the middle of ``image`` [H, W, 3] to the calibration's aspect and scale it to the calibrated size."""
    if image.ndim == 2:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    height, width = image.shape[:2]
    aspect = camera.width / camera.height
    crop_w, crop_h = (round(height * aspect), height) if width > height * aspect else (width, round(width / aspect))
    x, y = (width - crop_w) // 2, (height - crop_h) // 2
    cropped = image[y : y + crop_h, x : x + crop_w]
    return np.ascontiguousarray(cv2.resize(cropped, (camera.width, camera.height), interpolation=cv2.INTER_AREA))


def sources_from(config: Mapping[str, Any]) -> dict[str, SourceSettings]:
    """Settings by camera from plain data."""
    return {name: msgspec.convert(source, SourceSettings) for name, source in config.items()}
