"""Profiles of a real car: what is refused, and what is found missing on this machine before anything is started."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
import yaml

from visuomotor.launch.cli import run_app
from visuomotor.launch.process_table import make_table
from visuomotor.launch.profile import PROFILES, ProfileError, load_profile
from visuomotor.launch.vehicle_check import check_vehicle, choose_sources

ROUTE = "map_x_m,map_y_m,lane_count,lane_width_m,speed_limit_mps\n0,0,2,3.5,10\n60,0,,,\n120,0,,,\n"


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "grey.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 20.0, (64, 48))
    for _ in range(10):
        writer.write(np.full((48, 64, 3), 90, np.uint8))
    writer.release()
    return path


@pytest.fixture
def car(tmp_path: Path) -> Callable[..., Path]:
    """The shipped template with some keys changed; None removes one."""

    def write(name: str = "my-car.yaml", **changes: object) -> Path:
        data = yaml.safe_load((PROFILES / "car.yaml").read_text())
        data["cameras"] = {camera: str(PROFILES / file) for camera, file in data["cameras"].items()}
        for key, value in changes.items():
            if isinstance(value, dict) and isinstance(data.get(key), dict):
                data[key] |= value
            elif value is None:
                del data[key]
            else:
                data[key] = value
        path = tmp_path / name
        path.write_text(yaml.safe_dump(data, sort_keys=False))
        return path

    return write


def quiet_bus() -> dict[str, object]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    options = {"port": port, "hop_limit": 0, "fd": False}
    return {"interface": "udp_multicast", "channel": "239.74.163.2", "options": options}


def test_the_template_is_whole_and_names_what_is_missing_here(capsys: pytest.CaptureFixture[str]) -> None:
    if Path("/dev/video0").exists():
        pytest.skip("this machine has a camera")
    assert run_app(["launch", "vehicle", "--profile", "car"]) == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert "car.yaml: sources.camera_front: camera /dev/video0: no such device; is it plugged in?" in err
    assert "can: CAN socketcan:can0: does not open" in err
    assert "Traceback" not in out + err
    assert psutil.Process().children(recursive=True) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": {"camera_rear": "1"}}, "sources: no calibration of camera_rear; under cameras are camera_front"),
        ({"sources": {"camera_front": {"device": "0", "may_fail": True}}}, "sources.camera_front.may_fail: the first"),
        ({"sources": {"camera_front": {"device": "0", "speed": 1}}}, "sources.camera_front.speed: Extra inputs"),
        ({"sources": {"camera_front": {"device": "0", "fourcc": "JPEG2"}}}, "sources.camera_front.fourcc: String"),
        ({"sources": {"camera_front": {"width": 640}}}, "sources.camera_front.device: Field required"),
        ({"vehicle": None}, "vehicle: required where the route is 'straight'"),
        ({"vehicle": {"speed_mps": 5.0}}, "vehicle.speed_mps: comes over CAN"),
        ({"can": None}, "vehicle.speed_mps: required without can"),
        ({"route": "route.csv"}, "vehicle: nothing is assumed where route is a file"),
        ({"route": "route.csv", "vehicle": None}, "route: a file needs the car's pose on it: can with navigation"),
        ({"clock": "lockstep"}, "clock: a vehicle has only 'realtime'"),
        ({"guard": False}, "guard: may be switched off in simulation only"),
        ({"task": "drive"}, "vehicle: only for task 'vehicle'"),
        ({"task": "drive", "vehicle": None}, "sources: only for task 'vehicle'"),
        ({"task": "drive", "vehicle": None, "sources": None, "route": "a.csv"}, "route: only for task 'vehicle'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_contradictions_are_named(car: Callable[..., Path], changes: dict[str, object], message: str) -> None:
    path = car(**changes)
    with pytest.raises(ProfileError, match=r"my-car\.yaml: ") as caught:
        load_profile(path)
    assert message in str(caught.value)


def test_sources_of_the_command_line_go_before_those_of_the_profile(car: Callable[..., Path]) -> None:
    profile = load_profile(car())
    given = ["rtsp://10.0.0.9/front?user=a", "camera_left=/dev/video3"]
    chosen = choose_sources(profile, given)
    assert {name: source.device for name, source in chosen.items()} == {
        "camera_front": "rtsp://10.0.0.9/front?user=a",
        "camera_left": "/dev/video3",
        "camera_right": "rtsp://10.0.0.13/stream",
    }
    for wrong, message in (
        (["camera_rear=1"], "NAME one of camera_front, camera_left, camera_right"),
        (["camera_left="], "expected [NAME=]SOURCE"),
        (["0", "camera_front=1"], "camera_front is given twice"),
    ):
        with pytest.raises(ValueError, match=r"my-car\.yaml: --camera") as caught:
            choose_sources(profile, wrong)
        assert message in str(caught.value)
    with pytest.raises(ValueError, match="the cameras of this profile are simulated"):
        choose_sources(load_profile("drive"), ["0"])


def test_nodes_stay_apart_cameras_and_route_here_the_car_there(car: Callable[..., Path]) -> None:
    world, vehicle, *_ = make_table(load_profile(car()), run_dir="/run")
    assert (world.name, world.inputs) == ("world", ("vehicle_state",))
    assert world.outputs == ("camera_front", "camera_left", "camera_right", "route")
    assert (vehicle.name, vehicle.inputs) == ("vehicle", ("command", "route"))
    assert vehicle.outputs == ("vehicle_state", "operator")
    assert vehicle.config["dry_run"] is True


def test_a_profile_without_a_source_for_each_camera(car: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="no source of camera_left, camera_right: expected --camera NAME=SOURCE"):
        check_vehicle(load_profile(car(sources=None)).override(sources={"camera_front": {"device": "0"}}))


def test_a_silent_bus_and_a_broken_route_are_named_together(
    car: Callable[..., Path], video: Path, tmp_path: Path
) -> None:
    (tmp_path / "route.csv").write_text(ROUTE.replace("120,0", "1200,0"))
    can = {**quiet_bus(), "navigation": True}
    sources = dict.fromkeys(("camera_front", "camera_left", "camera_right"), str(video))
    profile = load_profile(car(can=can, sources=sources, route="route.csv", vehicle=None))
    with pytest.raises(ValueError, match=r"my-car\.yaml: route: ") as caught:
        check_vehicle(profile)
    assert "route.csv: jumps: waypoint 3 is 1140.0 m from the one before" in str(caught.value)
    assert "can: udp_multicast:239.74.163.2: no MOTION, ATTITUDE, DRIVER, POSITION, HEADING within 2 s" in str(
        caught.value
    )


@pytest.mark.parametrize(("x_m", "problem"), [(5.0, ""), (500.0, "not near the car")])
def test_a_route_that_is_elsewhere_is_found_before_the_start(
    car: Callable[..., Path], video: Path, tmp_path: Path, x_m: float, problem: str
) -> None:
    pytest.importorskip("can")
    import threading

    from visuomotor.deploy.vehicle.can_link import open_link

    (tmp_path / "route.csv").write_text(ROUTE)
    can = {**quiet_bus(), "navigation": True}
    sources = dict.fromkeys(("camera_front", "camera_left", "camera_right"), str(video))
    profile = load_profile(car(can=can, sources=sources, route="route.csv", vehicle=None))
    link = open_link((), can)
    stop = threading.Event()
    driver = [s.name for s in link.codec.message("DRIVER").signals if s.length == 1]
    frames = {
        "MOTION": {"Speed": 0.0, "Acceleration": 0.0, "YawRate": 0.0},
        "ATTITUDE": {"SteeringAngle": 0.0, "Roll": 0.0, "Pitch": 0.0},
        "POSITION": {"X": x_m, "Y": 1.0},
        "HEADING": {"Yaw": 0.0},
        "DRIVER": dict.fromkeys(driver, 0.0),
    }

    def talk() -> None:
        while not stop.wait(0.02):
            for name, values in frames.items():
                link.send(name, values)

    talking = threading.Thread(target=talk)
    talking.start()
    try:
        if problem:
            with pytest.raises(ValueError, match=problem):
                check_vehicle(profile)
        else:
            check_vehicle(profile)
    finally:
        stop.set()
        talking.join()
        link.close()


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ("drive", "drive.yaml: expected task 'vehicle' with a CAN bus, got task 'drive'"),
        ("car", "car.yaml: sources.camera_front: expected http://127.0.0.1:PORT/camera_front.mjpg, got '/dev/video0'"),
    ],
)
def test_a_profile_that_is_no_simulated_car(profile: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["launch", "car", "--profile", profile]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("interface", "telegraph", 'CAN telegraph:239.74.163.2: does not open: Unknown interface type "telegraph"'),
        ("dbc", "nowhere.dbc", "nowhere.dbc"),
        ("driver", [{"signal": "Horn", "at_s": 1.0}], "Horn"),
    ],
)
def test_the_bus_of_a_simulated_car_is_tried_before_anything_starts(
    key: str, value: object, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = yaml.safe_load((PROFILES / "sim-can.yaml").read_text())
    data["cameras"] = {camera: str(PROFILES / file) for camera, file in data["cameras"].items()}
    data["can"] |= quiet_bus() | {key: value}
    (tmp_path / "my-sim.yaml").write_text(yaml.safe_dump(data))
    run_dir = tmp_path / "run"
    assert run_app(["launch", "vehicle", "--profile", str(tmp_path / "my-sim.yaml"), "--run-dir", str(run_dir)]) == 2
    assert message in capsys.readouterr().err
    assert not run_dir.exists()
