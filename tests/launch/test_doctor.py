"""Each check of ``visuomotor doctor`` on a machine that has it and on one that lacks it: real where it can be made."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import yaml

from visuomotor.launch.checks import devices, machine, running, sensors, software
from visuomotor.launch.checks.calibration import check_calibrations, find_implausible
from visuomotor.launch.checks.clock import KernelClock, ask_kernel, check_monotonic, check_wall, measure_step_s
from visuomotor.launch.checks.examination import Check, Place
from visuomotor.launch.checks.keys import check_key_folder, check_keys
from visuomotor.launch.cli import run_app
from visuomotor.launch.doctor import THEMES
from visuomotor.launch.profile import PROFILES, load_profile
from visuomotor.launch.service import MARK, UnitState
from visuomotor.messages.camera import load_camera

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def put(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


# the command


def test_a_profile_is_looked_at_and_all_is_in_the_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run_app(["doctor", "--profile", "sim-can", "--json", "found.json"])
    rows = json.loads((tmp_path / "found.json").read_text())["checks"]
    assert code == int(any(row["state"] == "bad" for row in rows))
    names = [row["check"] for row in rows]
    assert {"calibration camera_left", "port 43113/udp", "bundle drive-policy", "wall clock", "cores"} <= set(names)
    assert len(set(names)) == len(names)
    assert all(row["do"] for row in rows if row["state"] == "bad")
    out = capsys.readouterr().out
    assert all(name in out for name in names)


def test_a_bad_profile_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["doctor", "--profile", "nowhere.yaml"]) == 2
    assert "nowhere.yaml: profile cannot be read" in capsys.readouterr().err


def test_a_bad_check_is_exit_code_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("visuomotor.launch.doctor.THEMES", [lambda place: [Check("wheels", "bad", "[0 of 4]", "buy")]])
    assert run_app(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "[0 of 4]" in out  # as it is, though it looks like markup
    assert "-> buy" in out


def test_every_line_is_explained_in_the_guide() -> None:
    guide = (ROOT / "docs/operations.md").read_text()
    place = Place(profile=load_profile("sim-can"))
    for check in (check for theme in THEMES for check in theme(place)):
        kind = check.name.split()[0] if check.name.split()[0] in DETAILED else check.name
        assert f"`{kind}`" in guide or kind in PACKAGES, f"docs/operations.md says nothing of {check.name!r}"


DETAILED = {"bundle", "calibration", "camera", "CAN", "extra", "port", "service"}
PACKAGES = {software.split_requirement(r)[0] for r in software.metadata.requires("visuomotor") or ()}


# software


@pytest.mark.parametrize(
    ("version", "wanted", "fits"),
    [
        ("2.4.6", "<3,>=2.0", True),
        ("3.0.0", "<3,>=2.0", False),
        ("1.26.4", "<3,>=2.0", False),
        ("2", ">=2.0.0", True),
        ("3.2.7", "==3.2.7", True),
        ("3.2.8", "==3.2.7", False),
        ("5.0.0.93", "<6,>=4.10", True),
        ("4.9", ">=4.10", False),
        ("2.13.0+cpu", ">=2.9", True),
        ("1.0", "", True),
    ],
)
def test_ranges(version: str, wanted: str, fits: bool) -> None:
    assert software.in_range(version, wanted) is fits


def test_missing_and_outdated_packages_are_named() -> None:
    required = ["numpy<3,>=2.0", "scipy>=1.13", 'pybullet==3.2.7; python_version < "3.12"', "onnxruntime-gpu>=1.22"]
    checks = software.check_packages(required, {"numpy": "1.26.4", "pybullet": "3.2.7"})
    assert [(c.name, c.state) for c in checks] == [("numpy", "bad"), ("scipy", "bad"), ("pybullet", "ok")]
    assert checks[0].found == "1.26.4, outside <3,>=2.0"
    assert checks[1].do == "pip install -c constraints.txt 'scipy>=1.13'"


@pytest.mark.parametrize(
    ("installed", "state", "found"),
    [
        ({}, "bad", "none"),
        ({"onnxruntime-gpu": "1.31.1"}, "ok", "onnxruntime-gpu 1.31.1"),
        ({"onnxruntime": "1.31.1"}, "ok", "onnxruntime 1.31.1"),
        ({"onnxruntime": "1.20"}, "bad", "onnxruntime 1.20, outside >=1.22"),
        ({"onnxruntime": "1.31", "onnxruntime-gpu": "1.31"}, "bad", "onnxruntime-gpu 1.31, onnxruntime 1.31; exp"),
    ],
)
def test_exactly_one_runtime(installed: dict[str, str], state: str, found: str) -> None:
    check = software.check_only_one("ONNX Runtime", software.RUNTIMES, installed, ["onnxruntime-gpu>=1.22"])
    assert (check.state, check.found[: len(found)]) == (state, found)
    assert check.state == "ok" or "onnxruntime-gpu>=1.22" in check.do


# devices and bundles


def test_a_device_that_the_profile_asks_for_and_is_not_there_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "find_obstacle", lambda device: "" if device == "cpu" else "no driver")
    profile = load_profile("drive")
    for wanted, state in (("auto", "note"), ("cuda", "bad")):
        place = Place(profile=profile.override(device=wanted))
        found = {check.name: check for check in devices.check_devices(place)}
        assert (found["cpu"].state, found["cuda"].state) == ("ok", state)
        assert found["cuda"].found == "no driver"


def test_a_bundle_that_is_not_there_is_bad() -> None:
    place = Place(profile=load_profile("drive").override(policy="idm", forecaster="cv", detector="nowhere"))
    (check,) = devices.check_models(place)
    assert check.state == "bad"
    assert "nowhere: no such bundle" in check.found


# machine


@pytest.mark.parametrize(
    ("allowed", "quota", "state", "found"),
    [
        (4, "max 100000", "ok", "4 of 4"),
        (1, "max 100000", "note", "1 of 4, affinity leaves 1"),
        (4, "150000 100000", "note", "1.5 of 4, a cgroup leaves 1.5"),
        (4, "300000 100000", "ok", "3 of 4, a cgroup leaves 3"),
    ],
)
def test_cores_that_affinity_and_container_leave(
    tmp_path: Path, allowed: int, quota: str, state: str, found: str
) -> None:
    put(tmp_path, {"proc/self/cgroup": "0::/car\n", "sys/fs/cgroup/car/cpu.max": quota})
    check = machine.check_cores(Place(proc=tmp_path / "proc", sys=tmp_path / "sys"), allowed, 4)
    assert (check.state, check.found) == (state, found)


def test_limits_of_an_old_container(tmp_path: Path) -> None:
    files = {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000", "memory/memory.limit_in_bytes": "1000"}
    place = Place(proc=tmp_path, sys=put(tmp_path, {f"fs/cgroup/{name}": text for name, text in files.items()}))
    assert machine.cpu_quota(place) == 0.5
    assert machine.memory_limit(place) == 1000
    put(
        tmp_path,
        {"fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "fs/cgroup/memory/memory.limit_in_bytes": str((1 << 63) - 4096)},
    )
    assert machine.cpu_quota(place) == 0.0
    assert machine.memory_limit(place) == 0


@pytest.mark.parametrize(
    ("governors", "state"), [([], "ok"), (["performance"] * 2, "ok"), (["performance", "powersave"], "note")]
)
def test_governors(tmp_path: Path, governors: list[str], state: str) -> None:
    for number, name in enumerate(governors):
        put(tmp_path, {f"devices/system/cpu/cpu{number}/cpufreq/scaling_governor": f"{name}\n"})
    assert machine.check_governor(Place(sys=tmp_path)).state == state


def test_memory_open_files_and_disk(tmp_path: Path) -> None:
    place = Place(proc=tmp_path, sys=put(tmp_path, {"fs/cgroup/memory.max": "1000000000"}), runs=tmp_path / "runs")
    assert machine.check_memory(place, 8 * 10**9).state == "note"
    assert machine.check_memory(Place(proc=tmp_path, sys=tmp_path / "none"), 8 * 10**9).state == "ok"
    assert [machine.check_open_files(n).state for n in (256, 1024, -1)] == ["note", "ok", "ok"]
    states = [machine.check_disk(place, free) for free in (10**7, 10**9, 36 * 10**9)]
    assert [check.state for check in states] == ["bad", "note", "ok"]
    pixels = sum(c.width * c.height for c in map(load_camera, map(Path, load_profile("drive").camera_files)))
    assert f"for at least {36e9 / (3 * pixels * 10) / 3600:.1f} h" in states[2].found


# clocks


def test_the_clocks_of_this_machine() -> None:
    assert 0.0 < measure_step_s() < 1e-3
    kernel = ask_kernel()
    assert kernel.known
    assert kernel.error_ms >= 0.0


@pytest.mark.parametrize(
    ("step_s", "source", "state"), [(5e-8, "tsc", "ok"), (4e-3, "", "note"), (5e-8, "hpet", "note"), (5e-8, "", "ok")]
)
def test_coarse_clocks(step_s: float, source: str, state: str) -> None:
    assert check_monotonic(step_s, source).state == state


@pytest.mark.parametrize(
    ("kernel", "now_s", "state", "found"),
    [
        (KernelClock(True, True, 3.0), 1.8e9, "ok", "synchronised, at most 3.0 ms off"),
        (KernelClock(True, True, 300.0), 1.8e9, "note", "at most 300.0 ms off"),
        (KernelClock(True, False, 3.0), 1.8e9, "note", "not synchronised"),
        (KernelClock(False), 1.8e9, "note", "does not tell"),
        (KernelClock(True, True, 3.0), 60.0, "note", "says 1970-01-01"),
    ],
)
def test_wall_clocks(kernel: KernelClock, now_s: float, state: str, found: str) -> None:
    check = check_wall(kernel, now_s)
    assert check.state == state
    assert found in check.found


# cameras, CAN, ports


def test_devices_that_are_no_cameras(tmp_path: Path) -> None:
    (check,) = sensors.check_cameras(Place(dev=tmp_path))
    assert (check.name, check.state) == ("cameras", "note")
    (tmp_path / "video0").symlink_to("/dev/null")
    (tmp_path / "video1").symlink_to(tmp_path / "gone")
    for place, state in (
        (Place(dev=tmp_path), "note"),
        (Place(dev=tmp_path, profile=load_profile("vehicle-video")), "bad"),
    ):
        checks = sensors.check_cameras(place)
        assert [c.name for c in checks] == ["camera 0", "camera 1"]
        assert {c.state for c in checks} == {state}
        assert "is no camera" in checks[0].found
        assert "does not open (No such file or directory)" in checks[1].found


def test_a_camera_that_the_profile_names_and_nobody_has_plugged_in(tmp_path: Path) -> None:
    (check,) = sensors.check_cameras(Place(dev=tmp_path, profile=load_profile("car")))
    assert (check.name, check.state) == ("camera 0", "bad")
    assert check.found == f"no {tmp_path}/video0, sources.camera_front"
    assert "--camera camera_front=" in check.do


def test_what_a_device_says_of_itself(tmp_path: Path) -> None:
    def answer(device_caps: int) -> bytes:
        names = b"uvcvideo".ljust(16, b"\0") + b"HD Camera".ljust(32, b"\0") + b"usb-1".ljust(32, b"\0")
        return names + b"".join(n.to_bytes(4, "little") for n in (0x060000, 0x84A00001, device_caps, 0, 0, 0))

    check = sensors.read_capability("camera 0", Path("/dev/video0"), answer(0x04200001))
    assert check == Check("camera 0", "ok", "/dev/video0: HD Camera (uvcvideo)")
    assert sensors.read_capability("camera 1", Path("/dev/video1"), answer(0x04A00000)) is None  # metadata
    assert len(answer(0)) == sensors.QUERYCAP_BYTES


def test_can_interfaces(tmp_path: Path) -> None:
    data = yaml.safe_load((PROFILES / "sim-can.yaml").read_text())
    data["cameras"] = {name: str(PROFILES / file) for name, file in data["cameras"].items()}
    data["can"] = {"interface": "socketcan", "channel": "can7"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(data))
    place = Place(profile=load_profile(tmp_path / "mine.yaml"), sys=tmp_path / "sys")
    (check,) = sensors.check_can(place)
    assert (check.name, check.state) == ("CAN can7", "bad")
    assert "there are: none" in check.found
    net = {"eth0/type": "1", "eth0/flags": "0x1003", "can7/type": "280", "can7/flags": "0x40080"}
    put(tmp_path, {f"sys/class/net/{name}": text for name, text in net.items()})
    (check,) = sensors.check_can(place)
    assert (check.state, check.found) == ("bad", "down")
    assert "ip link set can7 up" in check.do
    put(tmp_path, {"sys/class/net/can7/flags": "0x40081"})
    (check,) = sensors.check_can(place)  # up in the files, and not there when it is opened
    assert check.state == "bad"
    assert "does not open" in check.found
    (other,) = sensors.check_can(Place(sys=tmp_path / "sys"))
    assert other.state == "note"


@pytest.mark.parametrize(("kind", "family"), [("tcp", socket.SOCK_STREAM), ("udp", socket.SOCK_DGRAM)])
def test_a_port_in_use_names_its_owner(kind: str, family: socket.SocketKind) -> None:
    with socket.socket(socket.AF_INET, family) as owner:
        owner.bind(("", 0))
        if kind == "tcp":
            owner.listen()
        port = owner.getsockname()[1]
        check = sensors.check_port(kind, port, "viewer", shared=kind == "udp")
        assert check.state == "note"
        assert f"(process {os.getpid()})" in check.found
    assert sensors.check_port(kind, port, "viewer", shared=False).state == "ok"


# calibration


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, ""),
        ({"fx": 40.0}, "fx 40 px for 384 px: 156 degrees, expected 15 to 150"),
        ({"fx": 9000.0}, "expected 15 to 150"),
        ({"fy": 300.0}, "fx / fy 0.76, expected about 1"),
        ({"cx": 10.0}, "principal point (10, 112) px, expected near the middle"),
        ({"ego_position_m": (0.6, 0.0, 1400.0)}, "1400.00 m above the ground, expected 0.2 to 4"),
        ({"ego_position_m": (600.0, 0.0, 1.4)}, "at (600.0, 0.0) m, expected on the car"),
        ({"ego_pitch_rad": 4.6}, "pitch 4.60, roll 0.00 rad, expected at most 0.6; degrees?"),
        ({"distortion": (-0.9, 0.0, 0.0, 0.0, 0.0)}, "folds the image over inside the frame"),
    ],
)
def test_calibrations_that_no_camera_on_a_car_has(change: dict[str, object], problem: str) -> None:
    camera = load_camera(PROFILES / "drive/camera_front.yaml")
    problems = find_implausible(msgspec.structs.replace(camera, **change))
    assert len(problems) == bool(problem) or "fx" in change  # a wild focal length is no square pixel either
    assert problem in "; ".join(problems)


def test_every_shipped_calibration_is_plausible() -> None:
    for file in PROFILES.glob("*.yaml"):
        assert {check.state for check in check_calibrations(Place(profile=load_profile(file)))} == {"ok"}
    assert check_calibrations(Place()) == []


# keys


def test_secret_keys_are_secret(tmp_path: Path) -> None:
    assert [check.state for check in check_keys(Place())] == ["ok"]
    folder = put(tmp_path, {"keys/car.key": "", "keys/car.key_secret": ""}) / "keys"
    folder.chmod(0o700)
    (folder / "car.key_secret").chmod(0o640)
    (check,) = check_keys(Place())
    assert check.state == "bad"
    assert "car.key_secret: mode 640, others may read it" in check.found
    (folder / "car.key_secret").chmod(0o600)
    assert check_key_folder(folder) == Check("keys", "ok", f"{folder}: 1 public, 1 secret with mode 600")
    folder.chmod(0o777)
    assert "others may put keys there" in check_key_folder(folder).found


# what runs


def test_services_and_how_they_do(tmp_path: Path) -> None:
    unit = put(tmp_path, {"visuomotor-car.service": f"{MARK}\n[Service]\nExecStart={sys.executable} -m x\n"})
    unit = unit / "visuomotor-car.service"

    def state(**changes: object) -> Check:
        return running.describe_unit(unit, UnitState(**{"known": True, "active": "active", **changes}), "system")  # type: ignore[arg-type]

    assert state(result="success").state == "ok"
    assert state(restarts=3).state == "note"
    assert "does not answer" in state(known=False).found
    failed = state(active="failed", result="exit-code", restarts=5)
    assert (failed.state, failed.found) == ("bad", "failed (exit-code), 5 restarts")
    assert "journalctl --unit=visuomotor-car.service" in failed.do
    unit.write_text(f"{MARK}\n[Service]\nExecStart=/gone/python -m x\n")
    assert "starts /gone/python, which is no more" in state().found


def test_run_folders_are_counted(tmp_path: Path) -> None:
    put(tmp_path, {"runs/a/world.job.json": "{}", "runs/a/world.log": "x" * 3_000_000, "runs/b/notes.txt": ""})
    check = running.check_run_folders(tmp_path / "runs")
    assert (check.state, check.found) == ("ok", f"1 in {tmp_path / 'runs'}, 3 MB")


def test_a_node_whose_run_is_gone_is_found(tmp_path: Path) -> None:
    job = tmp_path / "eye.job.json"
    command = [sys.executable, "-c", "print(flush=True); input()", running.RUN_NODE, str(job)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as node:
        assert node.stdout is not None
        node.stdout.readline()
        for parent_pid, found in ((os.getpid(), False), (1, True)):
            job.write_text(json.dumps({"parent_pid": parent_pid}))
            check = running.check_orphans()
            assert (str(node.pid) in check.do.split()) is found  # among those of others, if there are any
        job.unlink()
        assert str(node.pid) in running.check_orphans().found
        node.communicate(b"\n", timeout=30)
    assert str(node.pid) not in running.check_orphans().found
