"""The unit of a service: checked by systemd's own tool, written once, and nothing written on bad input."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from visuomotor.launch.cli import run_app
from visuomotor.launch.profile import PROFILES, load_profile
from visuomotor.launch.service import find_closed_path, make_service, stop_limit_s, write_unit
from visuomotor.launch.service_unit import make_unit
from visuomotor.launch.supervisor import BRAKE_S


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


def make_profile(tmp_path: Path, name: str = "car.yaml", **changes: object) -> Path:
    data = yaml.safe_load((PROFILES / "vehicle-video.yaml").read_text()) | changes
    data["cameras"] = {camera: str(PROFILES / file) for camera, file in data["cameras"].items()}
    (tmp_path / name).write_text(yaml.safe_dump(data))
    return tmp_path / name


def read_unit(text: str) -> dict[str, list[str]]:
    keys: dict[str, list[str]] = {}
    for line in text.splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            keys.setdefault(key, []).append(value)
    return keys


INSTALL = ["service", "install", "--profile", "car.yaml", "--camera", "0", "--prefix", "root"]


@pytest.mark.parametrize("scope", ["system", "user"])
def test_install_status_uninstall(tmp_path: Path, scope: str, capsys: pytest.CaptureFixture[str]) -> None:
    make_profile(tmp_path)
    folder = "etc/systemd/system" if scope == "system" else f"{tmp_path}/config/systemd/user".lstrip("/")
    unit = tmp_path / "root" / folder / "visuomotor-car.service"
    which = [f"--{scope}", "--prefix", "root"]
    control = "systemctl" if scope == "system" else "systemctl --user"

    assert run_app(["service", "status", *which]) == 1
    assert "not installed" in capsys.readouterr().out
    assert run_app([*INSTALL, f"--{scope}"]) == 0
    out = capsys.readouterr().out
    assert f"{unit}: written" in out.replace("root/", f"{tmp_path}/root/", 1)
    assert f"{control} daemon-reload && {control} enable --now visuomotor-car.service" in out
    before = unit.stat()
    assert run_app([*INSTALL, f"--{scope}"]) == 0
    assert "nothing was changed" in capsys.readouterr().out
    assert unit.stat().st_mtime_ns == before.st_mtime_ns
    assert run_app([*INSTALL, f"--{scope}", "--camera", "1"]) == 0
    assert "written" in capsys.readouterr().out
    assert "--camera 1" in unit.read_text()
    assert run_app(["service", "status", *which]) == 0
    assert "visuomotor-car.service: installed" in capsys.readouterr().out
    for said in ("removed", "nothing was changed"):
        assert run_app(["service", "uninstall", "--name", "car", *which]) == 0
        assert said in capsys.readouterr().out
    assert not unit.exists()


def test_what_the_unit_promises(tmp_path: Path) -> None:
    profile = make_profile(tmp_path, timeouts={"ready_s": 40.0, "step_s": 8.0, "stop_s": 3.0})
    unit = read_unit(make_unit(make_service(str(profile), camera="0", elsewhere=True)))
    assert unit["Type"] == ["notify"]
    assert unit["RestartPreventExitStatus"] == ["2"]
    assert unit["Restart"] == ["on-failure"]
    assert int(unit["StartLimitBurst"][0]) * 5 < int(unit["StartLimitIntervalSec"][0])
    assert float(unit["WatchdogSec"][0]) > 8.0  # the supervisor finds a silent node first
    assert float(unit["TimeoutStartSec"][0]) > 40.0
    assert float(unit["TimeoutStopSec"][0]) > BRAKE_S + 8.0 + 3.0
    assert unit["DynamicUser"] == ["yes"]
    (command,) = unit["ExecStart"]
    assert f"--profile {profile} --keep 50,2GB,30d --camera 0 $VISUOMOTOR_OPTIONS" in command
    assert "PrivateDevices" not in unit  # cameras
    text = make_unit(make_service(str(profile), camera="0", scope="user", elsewhere=True))
    assert {"DynamicUser", "User", "ProtectSystem", "OOMScoreAdjust"}.isdisjoint(read_unit(text))


def test_timeouts_cover_every_shipped_profile() -> None:
    for file in PROFILES.glob("*.yaml"):
        profile = load_profile(file)
        assert stop_limit_s(profile) > BRAKE_S + profile.timeouts.step_s + profile.timeouts.stop_s


@pytest.mark.parametrize("scope", ["system", "user"])
@pytest.mark.parametrize("folder", ["plain", 'with a space, 100% and $HOME "quoted"'])
def test_systemd_takes_the_unit(tmp_path: Path, scope: str, folder: str) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    (tmp_path / folder).mkdir()
    profile = make_profile(tmp_path / folder)
    service = make_service(str(profile), camera="0", scope=scope, elsewhere=True)  # type: ignore[arg-type]
    path, _ = write_unit(service, make_unit(service), tmp_path / "root")
    command = ["systemd-analyze", f"--{scope}", "verify", "--man=no", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if "Failed to initialize manager" in done.stderr:
        pytest.skip(f"no {scope} manager can be made up here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    path.write_text(path.read_text().replace("Type=notify", "Type=telepathy"))
    assert "telepathy" in subprocess.run(command, capture_output=True, text=True, timeout=60).stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--profile", "nowhere.yaml"], "nowhere.yaml: profile cannot be read"),
        (["--profile", "car.yaml"], "car.yaml: no source of camera_front: expected --camera FILE|INDEX|ADDRESS"),
        (["--profile", "broken.yaml", "--camera", "0"], "broken.yaml: perception.mode: on a vehicle there is only"),
        (["--profile", "lost.yaml", "--camera", "0"], "no-such-policy: no such bundle"),
        (["--profile", "car.yaml", "--camera", "0", "--name", "../../etc"], "--name: expected small letters"),
        (["--profile", "car.yaml", "--camera", "0", "--keep", "many"], "--keep: expected RUNS,SIZE,AGE as in"),
        (["--profile", "car.yaml", "--camera", "rtsp://me:pw@1.2.3.4/a"], "--camera: an address with a password"),
        (["--profile", "car.yaml", "--camera", "0", "--user", "--run-as", "me"], "--run-as: a service of --user"),
        (["--profile", "near.yaml", "--camera", "0"], "near.yaml: policy: a service runs in a folder of its own"),
    ],
)
def test_bad_input_writes_nothing(
    tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_profile(tmp_path)
    seen = yaml.safe_load((tmp_path / "car.yaml").read_text())["perception"]
    make_profile(tmp_path, "broken.yaml", perception=seen | {"mode": "truth"})
    make_profile(tmp_path, "lost.yaml", policy="no-such-policy")
    shutil.copytree(PROFILES.parents[1] / "models/drive-policy", tmp_path / "mine")
    make_profile(tmp_path, "near.yaml", policy="mine")
    for command in ("install", "show"):
        assert run_app(["service", command, *arguments, "--prefix", "root"]) == 2
        err = capsys.readouterr().err
        assert message in err
        assert "pw" not in err.replace("password", "")
    assert not (tmp_path / "root").exists()


def test_a_unit_of_somebody_else_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_profile(tmp_path)
    unit = tmp_path / "root/etc/systemd/system/visuomotor-car.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("[Service]\nExecStart=/bin/true\n")
    assert run_app(INSTALL) == 2
    assert "was not written by visuomotor" in capsys.readouterr().err
    assert run_app(["service", "uninstall", "--name", "car", "--prefix", "root"]) == 2
    assert unit.read_text() == "[Service]\nExecStart=/bin/true\n"


def test_what_a_made_up_user_may_not_read_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "car.yaml").touch()
    above = find_closed_path([tmp_path])  # pytest's own folders are private on some machines
    assert find_closed_path([folder / "car.yaml"]) == above
    folder.chmod(0o700)
    assert find_closed_path([folder / "car.yaml"]) == folder
    folder.chmod(0o755)
    (folder / "car.yaml").chmod(0o600)
    assert find_closed_path([folder / "car.yaml"]) == folder / "car.yaml"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_profile(tmp_path)
    assert run_app([*INSTALL[:-1], "/proc/root-of-image"]) == 2
    assert "/proc/root-of-image/etc/systemd/system/visuomotor-car.service: cannot be written" in capsys.readouterr().err
