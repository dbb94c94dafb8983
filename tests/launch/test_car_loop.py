"""The vehicle's side as on a real car, closed loop: three cameras through OpenCV, state and commands over CAN, a route.

At the other end is the simulator's car in a process of its own (``launch car``), which knows nothing of the graph.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("pybullet")
pytest.importorskip("can")

from visuomotor.launch.cli import run_app
from visuomotor.launch.profile import PROFILES
from visuomotor.sim.mjpeg import MjpegServer

COMMAND = [sys.executable, "-m", "visuomotor.launch.cli", "launch"]


def free_port(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Car:
    """The simulated car's process, standing by; ``profile`` is the vehicle's, ``route`` a short piece of its road."""

    def __init__(self, folder: Path, waypoints: int) -> None:
        data = yaml.safe_load((PROFILES / "sim-car.yaml").read_text())
        streams, bus = free_port(socket.SOCK_STREAM), free_port(socket.SOCK_DGRAM)
        data["cameras"] = {camera: str(PROFILES / file) for camera, file in data["cameras"].items()}
        for camera, source in data["sources"].items():
            source["device"] = f"http://127.0.0.1:{streams}/{camera}.mjpg"
        data["can"]["options"]["port"] = bus
        self.folder = folder
        self.profile = folder / "desk.yaml"
        self.profile.write_text(yaml.safe_dump(data, sort_keys=False))
        self.route = folder / "route.csv"
        files = ["--route", str(self.route), "--json", str(folder / "car.json")]
        command = [*COMMAND, "car", "--profile", str(self.profile), "--seed", "3", *files]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=folder)
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if "standing by" in line:
                break
        self.route.write_text("".join(self.route.read_text().splitlines(keepends=True)[: waypoints + 1]))

    def drive(self, *options: str) -> list[str]:
        return [*COMMAND, "vehicle", "--profile", str(self.profile), "--route", str(self.route), *options]

    def result(self) -> dict[str, Any]:
        """What became of it by the simulator's truth, once it stands and nobody drives it."""
        assert self.process.wait(60) == 0
        result: dict[str, Any] = json.loads((self.folder / "car.json").read_text())
        return result


@pytest.fixture
def park(tmp_path: Path) -> Iterator[Callable[[int], Car]]:
    cars: list[Car] = []

    def make(waypoints: int) -> Car:
        cars.append(Car(tmp_path, waypoints))
        return cars[-1]

    yield make
    for car in cars:
        car.process.kill()
        car.process.wait()


@pytest.mark.slow
def test_from_video_and_can_to_the_goal_and_back_from_the_recording(
    park: Callable[[int], Car], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    car = park(8)  # 70 m
    options = ["--run-dir", "run", "--record", "drive.mcap", "--report", "report"]
    done = subprocess.run(car.drive(*options), capture_output=True, text=True, cwd=tmp_path, timeout=200)
    assert done.returncode == 0, done.stderr
    truth = car.result()
    assert (truth["end"], truth["collision"], truth["offroad"]) == ("standing", False, False)
    assert 60.0 < truth["progress_m"] < 74.0, "it stands before its goal"
    assert truth["top_speed_mps"] > 5.0
    assert 0 < truth["engaged"] < truth["commands"], "the driver rolled until he handed over"
    score = json.loads((tmp_path / "run" / "score.json").read_text())
    (row,) = score["episodes"]
    assert row["end"] == "goal"
    assert score["assumed"] == []
    assert row["operator_words"] == {"disengage": 1, "engage": 1}
    assert row["can_commands_sent"] > row["ticks"] > 50
    for name, counts in row["cameras"].items():
        assert counts["source"].endswith(f"{name}.mjpg")
        assert counts["frames_published"] > 50
        assert counts["reconnects"] == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert "camera_left" in page

    monkeypatch.chdir(tmp_path)
    code = run_app(["replay", "drive.mcap", "--replace", "policy=idm", "--json", "replayed.json"])
    out, err = capsys.readouterr()
    assert code in (0, 1), out + err
    replayed = json.loads((tmp_path / "replayed.json").read_text())
    assert replayed["ticks"] > 50
    assert "vehicle_state" not in replayed["topics"], "the car is played back, not driven"


@pytest.mark.slow
def test_a_camera_that_must_not_fail_and_does_brings_the_car_to_a_stop(
    park: Callable[[int], Car], tmp_path: Path
) -> None:
    car = park(40)
    blank = np.full((96, 320, 3), 120, np.uint8)
    side = MjpegServer(("camera_left",))
    unplugged = threading.Event()

    def play() -> None:
        while not unplugged.wait(0.05):
            side.show("camera_left", blank)

    playing = threading.Thread(target=play)
    playing.start()
    options = ["--camera", f"camera_left={side.url('camera_left')}", "--policy", "idm", "--forecaster", "cv"]
    with subprocess.Popen(
        car.drive(*options, "--run-dir", "run", "--json", "score.json"),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        cwd=tmp_path,
    ) as driving:
        try:
            commands = count_commands(tmp_path / "desk.yaml", 60)
            assert commands >= 60
            unplugged.set()
            playing.join()
            side.close()
            _, err = driving.communicate(timeout=100)
        finally:
            driving.kill()
    assert driving.returncode == 1
    assert "fault: world CameraError" in err
    assert f"camera_left: camera {side.url('camera_left')} delivered nothing for" in err
    assert "the car was braked to a stop" in err
    truth = car.result()
    assert (truth["end"], truth["collision"], truth["offroad"]) == ("standing", False, False)
    assert truth["top_speed_mps"] > 3.0
    (row,) = json.loads((tmp_path / "score.json").read_text())["episodes"]
    assert row["end"] == "fault"
    assert row["guard_interventions"].get("stale_policy", 0) > 5


def count_commands(profile: Path, wanted: int) -> int:
    """Listen on the bus until the car was driven for so many COMMANDs that say Engaged."""
    from visuomotor.deploy.vehicle.can_link import open_link

    link = open_link(("COMMAND",), yaml.safe_load(profile.read_text())["can"])
    engaged, deadline = 0, time.monotonic() + 100.0
    try:
        while engaged < wanted and time.monotonic() < deadline:
            engaged += sum(bool(reading.values["Engaged"]) for reading in link.drain("COMMAND"))
            threading.Event().wait(0.05)  # no deadline: only how often it is looked at
    finally:
        link.close()
    return engaged
