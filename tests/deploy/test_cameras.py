"""Several cameras of a car on real video: files, and MJPEG streams on this host that break off and come back."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from visuomotor.deploy.vehicle import cameras as camera_set
from visuomotor.deploy.vehicle.cameras import Cameras
from visuomotor.deploy.vehicle.capture import CameraError, SourceSettings, check_size, choose_stamp
from visuomotor.deploy.vehicle.source import KEPT, Frame, VideoSource
from visuomotor.launch.profile import PROFILES
from visuomotor.messages.camera import CameraModel, load_camera

mjpeg = pytest.importorskip("visuomotor.sim.mjpeg")

NAMES = ("camera_front", "camera_left", "camera_right")


def until(condition: Callable[[], bool], limit_s: float = 30.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen"
        os.sched_yield()


def calibrations() -> list[CameraModel]:
    return [load_camera(PROFILES / "drive" / f"{name}.yaml") for name in NAMES]


class Street:
    """What stands before the cameras: streams whose frames get brighter by 8 from one to the next, 20 a second."""

    def __init__(self, *names: str, port: int = 0) -> None:
        self.server = mjpeg.MjpegServer(names, port)
        self.names = names
        self.silent: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._play)
        self._thread.start()

    def _play(self) -> None:
        value = 0
        while not self._stop.wait(0.05):
            value = (value + 8) % 240
            for name in self.names:
                if name not in self.silent:
                    self.server.show(name, np.full((48, 64, 3), value, np.uint8))

    def close(self) -> None:
        if not self._stop.is_set():
            self._stop.set()
            self._thread.join()
            self.server.close()


@pytest.fixture
def street() -> Iterator[Callable[..., Street]]:
    made: list[Street] = []

    def make(*names: str, port: int = 0) -> Street:
        made.append(Street(*names, port=port))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def see(street: Callable[..., Street]) -> Iterator[Callable[..., tuple[Street, Cameras]]]:
    made: list[Cameras] = []

    def make(**settings: dict[str, object]) -> tuple[Street, Cameras]:
        scene = street(*NAMES)
        sources = {n: SourceSettings(device=scene.server.url(n), **settings.get(n, {})) for n in NAMES}
        made.append(Cameras(calibrations(), sources))
        made[-1].warm_up()
        made[-1].begin()
        return scene, made[-1]

    yield make
    for one in made:
        one.close()


def test_frames_of_a_tick_are_those_taken_together_and_fit_their_calibrations(see):
    _, cameras = see()
    whole: list[dict[str, Frame]] = []
    published = 0

    def look() -> bool:
        nonlocal published
        if frames := cameras.take():
            published += 1
            assert list(frames)[-1] == "camera_front", "the first camera's frame goes out last"
            if len(frames) == 3:
                whole.append(frames)
        return len(whole) == 5

    until(look)
    for frames in whole:
        stamps = [frame.t_capture_ns for frame in frames.values()]
        assert max(stamps) - min(stamps) <= 0.1e9
        assert frames["camera_front"].image.shape == (224, 384, 3)
        assert frames["camera_left"].image.shape == (96, 320, 3)
    counted = cameras.summary()
    for name in NAMES:
        seen = counted[name]["frames_published"]
        assert 5 <= seen <= published
        assert 0 <= counted[name]["frames_read"] - seen - counted[name]["frames_between_ticks"] <= KEPT
        assert counted[name]["skew_max_ms"] <= 100.0
    assert cameras.note == ""


def test_a_camera_that_may_fail_is_left_out_and_named(see):
    scene, cameras = see(camera_left={"may_fail": True})
    scene.silent.add("camera_left")
    until(lambda: "camera_left" in cameras.note)
    assert f"camera_left: {scene.server.url('camera_left')} silent for" in cameras.note
    assert "camera_front" not in cameras.note
    assert set(cameras.take()) == {"camera_right", "camera_front"}
    scene.silent.clear()
    until(lambda: "camera_left" in cameras.take())
    until(lambda: cameras.note == "")


def test_a_camera_that_must_not_fail_holds_all_back_and_then_ends_the_run(see, monkeypatch):
    scene, cameras = see()
    scene.silent.add("camera_right")
    until(lambda: "camera_right" in cameras.note)
    assert cameras.take() == {}, "the front camera has frames, but nobody looks to the right"
    until(lambda: cameras.take() == {} and cameras.held_back > 0)
    monkeypatch.setattr(camera_set, "GIVE_UP_S", 0.5)
    with pytest.raises(CameraError, match=r"camera_right: camera http://.*camera_right.mjpg delivered nothing for"):
        until(lambda: cameras.take() is None)


def test_a_stream_that_breaks_off_is_opened_anew(street: Callable[..., Street]):
    first = street("camera_front")
    port = first.server.port
    source = VideoSource(SourceSettings(device=first.server.url("camera_front")))
    source.start()
    try:
        assert source.take(20.0) is not None
        first.close()
        until(lambda: source.silent_s > 0.6)
        source.forget()
        street("camera_front", port=port)
        frame = source.take(30.0)
        assert frame is not None
        assert frame.t_capture_ns <= time.monotonic_ns()
        assert source.counts.reconnects == 1
    finally:
        source.close()


def test_a_camera_that_may_fail_need_not_be_there_at_the_start(street: Callable[..., Street]):
    scene = street("camera_front")
    port, url = scene.server.port, scene.server.url("camera_front")
    scene.close()
    with pytest.raises(CameraError, match="does not open"):
        VideoSource(SourceSettings(device=url))
    source = VideoSource(SourceSettings(device=url, may_fail=True))
    source.start()
    try:
        street("camera_front", port=port)
        assert source.take(30.0) is not None
    finally:
        source.close()


def test_a_known_latency_is_taken_off_the_stamp(street: Callable[..., Street]):
    url = street("camera_front").server.url("camera_front")
    source = VideoSource(SourceSettings(device=url, latency_s=0.5))
    source.start()
    try:
        frame = source.take(20.0)
        assert frame is not None
        assert time.monotonic_ns() - frame.t_capture_ns >= 0.5e9
        assert source.counts.stamped == 0
    finally:
        source.close()


@pytest.mark.parametrize(
    ("driver_ms", "expected"),
    [
        (9_990.0, (9_990_000_000, True)),
        (10_000.0, (10_000_000_000, True)),
        (9_000.0, (9_000_000_000, True)),
        (8_999.0, (10_000_000_000, False)),  # too old: of another clock
        (10_001.0, (10_000_000_000, False)),  # of the future
        (40.0, (10_000_000_000, False)),  # a position in the stream
        (-1.0, (10_000_000_000, False)),
        (float("nan"), (10_000_000_000, False)),
    ],
)
def test_a_drivers_stamp_is_taken_when_it_can_be_of_this_clock(driver_ms: float, expected: tuple[int, bool]):
    assert choose_stamp(10_000_000_000, driver_ms) == expected


def test_a_device_that_gives_another_size_is_refused():
    image = np.zeros((480, 640, 3), np.uint8)
    check_size(SourceSettings(device="0"), image)
    check_size(SourceSettings(device="0", width=640, height=480), image)
    with pytest.raises(CameraError, match="camera 0: gives 640x480, not 1280x480"):
        check_size(SourceSettings(device="0", width=1280), image)


def test_three_files_play_together_and_end_together(tmp_path: Path):
    sources = {}
    for name, rate_hz in zip(NAMES, (20.0, 30.0, 15.0), strict=True):
        path = tmp_path / f"{name}.mp4"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate_hz, (64, 48))
        for index in range(round(rate_hz * 1.5)):
            writer.write(np.full((48, 64, 3), 5 * index, np.uint8))
        writer.release()
        sources[name] = SourceSettings(device=str(path))
    cameras = Cameras(calibrations(), sources)
    try:
        cameras.warm_up()
        cameras.begin()
        sets = []
        while not cameras.exhausted:
            if frames := cameras.take():
                sets.append(frames)
        assert len(sets) >= 5
        assert any(len(frames) == 3 for frames in sets)
        stamps = [frames["camera_front"].t_capture_ns for frames in sets]
        assert stamps == sorted(set(stamps))
        assert cameras.summary()["camera_left"]["frames_declared"] == 45
    finally:
        cameras.close()


def test_the_frame_that_is_due_next_is_waited_for_where_it_comes_in_time(street: Callable[..., Street]):
    source = VideoSource(SourceSettings(device=street("camera_front").server.url("camera_front")))
    source.start()

    def is_newer(limit_s: float) -> bool:
        """Whether waiting brought another frame than the one that was there."""
        until(lambda: source.wait(0.0))
        known = source._kept[-1].index
        source.wait_for_newer(limit_s)
        frame = source.take()
        assert frame is not None
        return frame.index > known

    try:
        until(lambda: source.counts.read > 30)  # by now it is known that they come every 50 ms
        until(lambda: is_newer(0.2))  # a busy machine may be late for once
        until(lambda: not is_newer(0.0))
    finally:
        source.close()
