"""What every simulated world is as a node: an episode built from its case, a step of 0.1 s, state, truth and frames."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from visuomotor.control.action import CONTROL_PERIOD_S
from visuomotor.messages.camera import CameraModel, load_camera
from visuomotor.messages.node import Input, Inputs, Tick
from visuomotor.messages.schema import CameraFrame, Command, Episode, Header, Message
from visuomotor.sim.bodies import RENDERER_NAME
from visuomotor.sim.scenario import SPLITS


class Worlds(Protocol):
    """Batched worlds, of which a node runs the first."""

    def limit_time(self, index: int, time_s: float) -> None:
        """Cut the episode."""

    def close(self) -> None:
        """Disconnect from PyBullet."""


class Sensors(Protocol):
    """What the robots measure of themselves."""

    def reset(self, index: int) -> None:
        """A new episode."""

    def update(self) -> object:
        """Measure."""


class Renderer(Protocol):
    """Draws the frames of a world."""

    def pose(self, worlds: Any, index: int) -> None:
        """Put everything where it is now."""

    def draw_camera(self, worlds: Any, index: int, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Image uint8 [H, W, 3] BGR of one camera, and what its pixels show."""
        ...

    def close(self) -> None:
        """Disconnect from PyBullet."""


class SimulatedWorld(ABC):
    """Publishes a robot's state, what it is told to do, the truth and a frame per camera; obeys ``command``.

    Tick k carries the state and the frames of time k * 0.1 s. The step that produces it advances the world from tick
    k - 1 under the command computed from tick k - 2. When no command comes the robot's watchdog takes over. In realtime
    a late step is not made up for: the world runs slower than the clock, and the loop counts the deadline.
    """

    name = "world"
    inputs: tuple[Input, ...] = (Input("command", lag=2),)
    period_s: float | None = CONTROL_PERIOD_S
    provider = RENDERER_NAME
    services: tuple[str, ...] = ()  # that are sent beside the frames
    lead = ""  # the camera that is drawn last, so that what is looked at first is the freshest

    def __init__(
        self,
        cameras: list[CameraModel],
        worlds: Worlds,
        sensors: Sensors,
        *,
        suite: str,
        split: str,
        max_duration_s: float | None,
    ) -> None:
        """``suite`` and ``split``: whose first case warms the node up; ``max_duration_s`` cuts every episode."""
        self.cameras = sorted(cameras, key=lambda camera: (camera.name == self.lead, camera.name))
        self.outputs: tuple[str, ...] = (*self.services, *(camera.name for camera in self.cameras))
        self.stages: list[tuple[str, int, int]] = []
        self.renderer = self._make_renderer() if self.cameras else None
        self.max_duration_s = max_duration_s
        self.worlds = worlds
        self.sensors = sensors
        self._warm_up_case = (suite, split)
        self._steps = 0

    @abstractmethod
    def _make_renderer(self) -> Renderer:
        """What draws the cameras."""

    @abstractmethod
    def _build(self, episode: Episode) -> None:
        """Build the case that the episode names; ValueError when there is no such suite, split or seed."""

    @abstractmethod
    def _dress(self) -> None:
        """Give the renderer the looks of the case."""

    @abstractmethod
    def _advance(self, now_s: float, command: Command | None) -> None:
        """A control period under a command; None: none has come for it."""

    def _listen(self, inputs: Inputs) -> None:  # noqa: B027 (not every world does)
        """Take in what the operator says."""

    @abstractmethod
    def _tell(self, t_ns: int) -> dict[str, Message]:
        """State, what the robot is told to do, and truth."""

    def warm_up(self) -> None:
        """Draw a first picture of a scene that no episode will see."""
        self.reset(Episode(phase="reset", suite=self._warm_up_case[0], split=self._warm_up_case[1], seed=0))
        self._draw(0)
        self.stages.clear()

    def reset(self, episode: Episode) -> None:
        """Build the case that the episode names; ValueError when there is no such suite, split or seed."""
        self._build(episode)
        if self.max_duration_s is not None:
            self.worlds.limit_time(0, self.max_duration_s)
        self.sensors.reset(0)
        if self.renderer is not None:
            self._dress()
        self._steps = 0

    def step(self, tick: Tick, inputs: Inputs) -> Mapping[str, Message]:
        """Advance by 0.1 s (not before the first tick), measure, draw."""
        start_ns = time.monotonic_ns()
        if self._steps > 0:
            self._advance(self._steps * CONTROL_PERIOD_S, _new_command(inputs))
        self._listen(inputs)
        self._steps += 1
        self.sensors.update()
        self._stage("physics", start_ns)
        return self._tell(tick.t_ns) | self._draw(tick.t_ns)

    def close(self) -> None:
        """Disconnect from PyBullet."""
        self.worlds.close()
        if self.renderer is not None:
            self.renderer.close()

    def _draw(self, t_ns: int) -> dict[str, Message]:
        frames: dict[str, Message] = {}
        if self.renderer is None:
            return frames
        start_ns = time.monotonic_ns()
        self.renderer.pose(self.worlds, 0)
        for camera in self.cameras:
            image, _ = self.renderer.draw_camera(self.worlds, 0, camera.name)
            frames[camera.name] = CameraFrame(header=make_header(t_ns), image=np.ascontiguousarray(image))
            start_ns = self._stage(camera.name.replace("camera", "render"), start_ns)
        return frames

    def _stage(self, name: str, start_ns: int) -> int:
        end_ns = time.monotonic_ns()
        self.stages.append((name, start_ns, end_ns))
        return end_ns


def make_header(t_ns: int) -> Header:
    """Of something that is as it is at that time."""
    return Header(t_capture_ns=t_ns, valid=True)


def _new_command(inputs: Inputs) -> Command | None:
    """The command that came for this step, None when none did."""
    sample = inputs["command"]
    return sample.message if sample.updated and isinstance(sample.message, Command) else None


def choose_case(config: Mapping[str, Any], suites: Collection[str]) -> dict[str, Any]:
    """Suite (by default the first), split and longest episode of a configuration."""
    suite, split = config.get("suite", next(iter(suites))), config.get("split", "evaluation")
    if suite not in suites:
        raise ValueError(f"suite: expected one of {', '.join(suites)}, got {suite!r}")
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    return {"suite": suite, "split": split, "max_duration_s": config.get("max_duration_s")}


def load_cameras(config: Mapping[str, Any]) -> list[CameraModel]:
    """The cameras of a configuration, none where nothing is to be rendered."""
    files = config.get("cameras", [])
    if not isinstance(files, list | tuple):
        raise ValueError(f"cameras: expected a list of calibration files, got {files!r}")
    cv2.setNumThreads(1)  # one core each for the world and for perception
    return [load_camera(Path(file)) for file in files] if config.get("render", True) else []
