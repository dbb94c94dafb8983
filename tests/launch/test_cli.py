from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from visuomotor.deploy.runtime.bundle import BundleMeta, TensorSpec, write_bundle
from visuomotor.deploy.runtime.device import find_obstacle
from visuomotor.launch.cli import run_app
from visuomotor.launch.profile import PROFILES, load_profile
from visuomotor.launch.run import leaving_cleanly

DRIVE = ["launch", "drive", "--perception", "truth", "--forecaster", "cv", "--policy", "idm"]
COMMANDS = [
    ["launch", "drive"],
    ["launch", "pick"],
    ["launch", "vehicle"],
    ["order"],
    ["render", "drive"],
    ["render", "pick"],
    ["train", "detector"],
    ["train", "forecaster"],
    ["train", "policy"],
    ["eval", "detector"],
    ["eval", "forecaster"],
    ["eval", "policy"],
    ["eval", "suite"],
    ["export", "detector"],
    ["export", "policy"],
    ["bench"],
    ["latency"],
    ["replay"],
    ["regress"],
    ["doctor"],
    ["service", "install"],
    ["service", "show"],
    ["service", "status"],
    ["service", "uninstall"],
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app([*command, "--help"]) == 0
    assert "--help" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*DRIVE, "--seed", "-1"], "--seed"),
        ([*DRIVE, "--seed", "seven"], "--seed"),
        ([*DRIVE, "--seed", "7.5"], "--seed"),
        ([*DRIVE, "--episodes", "0"], "--episodes"),
        ([*DRIVE, "--seeds", "3:3"], "--seeds: expected A:B with A < B (half-open), got '3:3', which is empty"),
        ([*DRIVE, "--seeds", "5"], "--seeds: expected A:B"),
        ([*DRIVE, "--seeds", "-1:5"], "--seeds: expected A:B"),
        ([*DRIVE, "--seeds", "0:5", "--seed", "1"], "--seeds: cannot be combined with --seed"),
        ([*DRIVE, "--clock", "sundial"], "sundial"),
        ([*DRIVE, "--policy", "nowhere/policy"], "nowhere/policy: no such bundle"),
        ([*DRIVE, "--forecaster", "oracle"], "oracle: no such bundle"),
        ([*DRIVE, "--inject", "guard=melt@3s"], "'melt@3s' in 'guard=melt@3s' is not understood"),
        ([*DRIVE, "--inject", "radar=kill@3s"], "no node 'radar'; expected one of world, perception, policy, guard"),
        ([*DRIVE, "--profile", "nowhere.yaml"], "nowhere.yaml: profile cannot be read (No such file or directory)"),
        ([*DRIVE, "--profile", "pick"], "pick.yaml: task: expected 'drive' for this command, got 'pick'"),
        (["launch", "vehicle", "--profile", "drive"], "expected 'vehicle', or a simulated car with 'can', got 'drive'"),
        (["launch", "pick", "--order", " "], "--order: expected what to pick, as in 'red cube, 2 duck', got nothing"),
        (
            [*DRIVE, "--detector", "camera_top=x"],
            "with a CAMERA of camera_front, camera_left, camera_right, got 'camera_",
        ),
        ([*DRIVE, "--json", "/proc"], "/proc cannot be written: /proc is a folder; expected a file"),
        ([*DRIVE, "--json", "/proc/stat/x/y.json"], "/proc/stat is a file; expected a folder"),
        (["latency", "nowhere.mcap", "--json", "/proc"], "/proc cannot be written: /proc is a folder; expected a file"),
        ([*DRIVE, "--keep", "everything"], "--keep: expected RUNS,SIZE,AGE as in 50,2GB,30d, got 'everything'"),
        ([*DRIVE, "--report", "/proc/report"], "--report: /proc/report cannot be made"),
        (["launch", "vehicle", "--camera", "nowhere.mp4"], "camera nowhere.mp4: no such file"),
        (["launch", "vehicle", "--camera", "/proc"], "camera /proc: a folder; expected a video file"),
        (["launch", "vehicle", "--camera", "87"], "camera 87: does not open"),
        (["launch", "vehicle"], "--camera"),
        (["launch", "boat"], "boat"),
        (["eval", "suite", "drive-v99", "--policy", "idm", "--perception", "truth", "--forecaster", "cv"], "drive-v1"),
        (["train", "policy", "--out", "/proc/version"], "--out: /proc/version/drive-policy: /proc/version is a file"),
        (["train", "detector", "--data", "nowhere"], "visuomotor render drive --out nowhere"),
    ],
    ids=lambda value: " ".join(value[:1] + value[-2:]) if isinstance(value, list) else "",
)
def test_bad_input_is_one_message_and_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(arguments) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert "Traceback" not in out + err
    assert psutil.Process().children(recursive=True) == []
    assert list(tmp_path.iterdir()) == []  # nothing was begun


def test_a_folder_of_a_profiles_name_hides_no_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "drive").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_profile("drive").source == PROFILES / "drive.yaml"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_results_are_written_closes_what_is_open(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    before, closed = signal.getsignal(number), []

    def write() -> None:
        with leaving_cleanly(), contextlib.ExitStack() as open_files:
            open_files.callback(closed.append, "video")
            os.kill(os.getpid(), number)
            signal.sigtimedwait([signal.SIGUSR1], 5.0)  # until the handler has run

    with pytest.raises(SystemExit) as ended:
        write()
    assert ended.value.code == 128 + number
    assert closed == ["video"]
    assert signal.getsignal(number) == before
    assert f"{number.name}: the report was not finished" in capsys.readouterr().err


def test_a_device_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    if not find_obstacle("cuda"):
        pytest.skip("this machine has a GPU")
    assert run_app([*DRIVE, "--device", "cuda"]) == 2
    assert "device 'cuda' is not to be had" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: text[: text.index("perception:") + 14], "perception"),
        (lambda text: text[: text.index("cameras:")], "cameras: Field required"),
        (lambda text: "", "expected a mapping of keys, got NoneType; is the file truncated?"),
        (lambda text: text + "\nspeed: fast\n", "speed: Extra inputs are not permitted"),
        (lambda text: text.replace("threads: 1", "threads: many"), "threads: Input should be a valid integer"),
        (lambda text: text.replace("camera_left:", "camera_belly:"), "unknown camera camera_belly"),
        (lambda text: text + "\n  - : [", "not valid YAML in line"),
        (lambda text: text.replace("mode: real", "mode: imagined"), "perception.mode: Input should be"),
    ],
)
def test_a_broken_profile_names_file_and_key(
    edit: object, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = tmp_path / "mine.yaml"
    profile.write_text(edit((PROFILES / "drive.yaml").read_text()))  # type: ignore[operator]
    assert run_app([*DRIVE, "--profile", str(profile)]) == 2
    err = capsys.readouterr().err
    assert "mine.yaml" in err
    assert message in err


def make_policy(path: Path, **changes: object) -> Path:
    """A bundle of a constant policy."""
    onnx = pytest.importorskip("onnx")
    helper, tensor = onnx.helper, onnx.TensorProto
    node = helper.make_node("MatMul", ["observation", "weight"], ["action"])
    graph = helper.make_graph(
        [node],
        "policy",
        [helper.make_tensor_value_info("observation", tensor.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("action", tensor.FLOAT, ["batch", 2])],
        [onnx.numpy_helper.from_array(np.zeros((8, 2), np.float32), "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    fields: dict[str, object] = {
        "kind": "policy",
        "task": "drive",
        "inputs": (TensorSpec(name="observation", dtype="float32", shape=("batch", 8)),),
        "outputs": (TensorSpec(name="action", dtype="float32", shape=("batch", 2)),),
        "extra": {"observation_hash": "of another layout"},
    }
    write_bundle(path, model=model.SerializeToString(), meta=BundleMeta(**{**fields, **changes}), report="")  # type: ignore[arg-type]
    return path


def test_a_bundle_of_another_kind_and_a_tampered_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = make_policy(tmp_path / "b", kind="forecaster")
    assert run_app([*DRIVE, "--policy", str(bundle)]) == 2
    assert "bundle.json: kind: expected 'policy', got 'forecaster'" in capsys.readouterr().err
    bundle = make_policy(tmp_path / "c")
    (bundle / "model.onnx").write_bytes((bundle / "model.onnx").read_bytes() + b"\0")
    assert run_app([*DRIVE, "--policy", str(bundle)]) == 2
    assert "model.onnx: sha256: expected" in capsys.readouterr().err


@pytest.mark.slow
def test_an_observation_of_another_layout_is_refused_by_the_node(tmp_path: Path) -> None:
    pytest.importorskip("pybullet")
    bundle = make_policy(tmp_path / "policy")
    command = [sys.executable, "-m", "visuomotor.launch.cli", *DRIVE, "--policy", str(bundle), "--run-dir", "run"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 2, done.stderr
    assert "visuomotor: policy: " in done.stderr
    assert "observation" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "score.json").exists()


def test_a_missing_extra_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "visuomotor.sim.dataset", None)

    def refuse(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'pybullet'", name="pybullet")

    monkeypatch.setattr("visuomotor.launch.run.launch", refuse)
    assert run_app(DRIVE) == 2
    assert "pybullet is not installed: pip install 'visuomotor[sim]'" in capsys.readouterr().err


def test_doctor_writes_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run_app(["doctor", "--json", "found.json"])
    checks = {c["check"]: c for c in json.loads((tmp_path / "found.json").read_text())["checks"]}
    assert code == int(any(c["state"] == "bad" for c in checks.values()))
    assert checks["ONNX Runtime"]["state"] == "ok"
    assert checks["run directory"]["state"] == "ok"
