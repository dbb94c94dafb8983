"""Replays of real recordings: the same bytes, changes named by topic, tick and field, what makes no sense refused."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from visuomotor.deploy.record.reader import Recording
from visuomotor.deploy.record.writer import RecordingWriter
from visuomotor.deploy.runtime.bundle import load_bundle, write_bundle
from visuomotor.launch.cli import run_app
from visuomotor.launch.evaluate.difference import compare
from visuomotor.launch.recording_index import index_recording
from visuomotor.launch.replay import recorded_profile, replay
from visuomotor.messages.schema import Command, Header, PolicyCommand, Route

SIMULATED_S = 4
TICKS = 10 * SIMULATED_S


@pytest.mark.slow
def test_a_whole_lockstep_run_comes_out_again_byte_for_byte(tmp_path: Path, run_toy: Callable[..., Any]) -> None:
    outcomes, *_ = run_toy(tmp_path, "lockstep", episodes=2, length_m=60.0)
    recording = Recording(tmp_path / "a.mcap")
    with recorded_profile(recording) as profile:
        result = replay(recording, profile, {})
    assert result.equal
    assert result.notes == []
    assert result.episodes == 2
    assert set(result.topics) == {"tracks", "forecast", "policy_command", "command"}
    assert {topic.ticks for topic in result.topics.values()} == {result.ticks}
    assert all(topic.recorded_digest == topic.replayed_digest != "" for topic in result.topics.values())
    single, *_ = run_toy(tmp_path / "single", "lockstep", length_m=60.0)
    recording = Recording(tmp_path / "single" / "a.mcap")
    with recorded_profile(recording) as profile:
        result = replay(recording, profile, {})
    assert {s: t.replayed_digest for s, t in result.topics.items()}.items() <= single[0].topic_digests.items()
    assert single[0].topic_digests == outcomes[0].topic_digests


@pytest.mark.slow
def test_an_operators_word_is_heard_at_the_same_tick(tmp_path: Path, run_toy: Callable[..., Any]) -> None:
    said: list[int] = []

    def say(tick: int, supervisor: Any) -> None:
        if tick >= 6 and not said:
            said.append(tick)
            supervisor.coordinator.operator("emergency_stop", "a dog")

    run_toy(tmp_path, "lockstep", on_tick=say, length_m=1e6, speed_mps=5.0, step_s=0.01, stop_at_rest=True)
    recording = Recording(tmp_path / "a.mcap")
    (episode,) = index_recording(recording).values()
    heard = list(episode.operator_heard)
    assert len(heard) == 1
    with recorded_profile(recording) as profile:
        result = replay(recording, profile, {})
    assert result.equal
    commands = [r.message for r in recording.read() if r.service == "command"]
    latched = [isinstance(m, Command) and m.latched for m in commands]
    assert latched.index(True) == heard[0]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ``real.mcap``: the whole stack on its cameras, cut short by the death of the world."""
    pytest.importorskip("pybullet")
    folder = tmp_path_factory.mktemp("real")
    shutil.copytree(Path(__file__).parents[2] / "models" / "drive-policy", folder / "policy")
    command = [sys.executable, "-m", "visuomotor.launch.cli", "launch", "drive", "--seed", "3", "--policy", "policy"]
    options = ["--record", "real.mcap", "--inject", f"world=kill@{SIMULATED_S}s", "--run-dir", "run"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, cwd=folder, timeout=200)
    assert done.returncode == 1, done.stderr
    assert "world was killed by SIGKILL" in done.stderr
    return folder


@pytest.mark.slow
def test_the_whole_stack_on_recorded_frames_gives_the_recorded_bytes(
    real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # bundles are found from anywhere
    monkeypatch.setenv("COLUMNS", "200")
    assert run_app(["regress", str(real / "real.mcap"), "--json", "regress.json"]) == 0
    result = json.loads(Path("regress.json").read_text())
    assert set(result["topics"]) == {"detections", "tracks", "forecast", "policy_command", "command"}
    assert all(TICKS - 5 <= t["ticks"] <= TICKS and t["changed"] == 0 for t in result["topics"].values())
    out = capsys.readouterr().out
    assert result["topics"]["detections"]["recorded_digest"][:16] in out
    assert "world died, compared up to tick 3" in out


@pytest.mark.slow
def test_a_changed_policy_is_named_by_topic_tick_and_field(
    real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx = pytest.importorskip("onnx")
    monkeypatch.setenv("COLUMNS", "200")
    bundle = load_bundle(str(real / "policy"), "policy")
    model = onnx.load(str(real / "policy" / "model.onnx"))
    weights = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    weights.raw_data = (onnx.numpy_helper.to_array(weights) * np.float32(1.05)).tobytes()
    backup = tmp_path / "policy"
    shutil.move(str(real / "policy"), backup)
    try:
        write_bundle(real / "policy", model=model.SerializeToString(), meta=bundle.meta, report="")
        assert run_app(["regress", str(real / "real.mcap")]) == 1
    finally:
        shutil.rmtree(real / "policy")
        shutil.move(str(backup), real / "policy")
    out = capsys.readouterr().out
    assert "policy: another bundle than when the recording was made" in out
    assert re.search(r"policy_command: differs on (\d+) of \1 ticks, first in episode 0, tick 0:\n", out)
    assert "  acceleration_mps2: recorded " in out
    assert "detections: differs" not in out
    assert "tracks: differs" not in out


@pytest.mark.slow
def test_a_replaced_part_says_what_changed(
    real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    options = ["--replace", "forecaster=cv", "--report", str(tmp_path / "report")]
    assert run_app(["replay", str(real / "real.mcap"), *options]) == 0
    out = capsys.readouterr().out
    assert "forecast: differs on" in out
    assert "tracks: differs" not in out
    assert "with forecaster cv, against what was recorded" in out
    assert (tmp_path / "report" / "report.html").exists()
    score = json.loads((tmp_path / "report" / "score.json").read_text())
    assert score["forecaster"] == "cv"
    assert [row["seed"] for row in score["episodes"]] == [3]
    assert "success" not in score["summary"]
    assert score["assumed"][0].startswith("a replay in lockstep of a recording in lockstep: the car went")


@pytest.mark.slow
def test_a_cut_recording_is_replayed_to_the_cut(
    real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    data = (real / "real.mcap").read_bytes()
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(data[: 3 * len(data) // 4])
    assert run_app(["regress", str(cut), "--json", str(tmp_path / "r.json")]) == 0
    out = capsys.readouterr().out
    recording = Recording(cut)
    list(recording.read())
    assert 0 < recording.lost_bytes < len(data)
    assert f"read to the cut, {recording.lost_bytes} bytes after it are lost" in out
    assert "episode 0: cut, compared up to tick" in out
    assert 5 < json.loads((tmp_path / "r.json").read_text())["topics"]["command"]["ticks"] < TICKS


@pytest.mark.slow
def test_realtime_recordings_compare_two_parts_and_nothing_else(
    tmp_path: Path, run_toy: Callable[..., Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    run_toy(tmp_path, "realtime", length_m=15.0)
    file = str(tmp_path / "a.mcap")
    for command in (["regress", file], ["replay", file]):
        assert run_app(command) == 2
        assert "was recorded in realtime" in capsys.readouterr().err
    assert run_app(["replay", file, "--replace", "forecaster=cv"]) == 0  # the same as was recorded
    assert "differs" not in capsys.readouterr().out
    assert run_app(["replay", file, "--replace", "policy=random"]) == 0
    out = capsys.readouterr().out
    assert "against a replay with the recorded parts" in out
    assert "policy_command: differs on" in out
    assert "tracks: differs" not in out
    assert "recorded in realtime, with policy random" in out
    assert "acceleration_mps2: recorded parts " in out
    assert ", replaced parts " in out
    assert "digest, recorded parts" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["regress", "lossy.mcap"], "lossy.mcap: was recorded with --lossy"),
        (["replay", "lossy.mcap", "--replace", "policy=idm"], "lossy.mcap: was recorded with --lossy"),
        (["regress", "bare.mcap"], "bare.mcap: expected the attachment 'profile.json' of a run, found none"),
        (["regress", "nowhere.mcap"], "nowhere.mcap: cannot be read (No such file or directory)"),
        (["latency", "text.mcap"], "text.mcap: expected an MCAP file, found other first bytes"),
        (["latency", "bare.mcap"], "bare.mcap: expected commands, found none"),
        (["replay", "bare.mcap", "--replace", "guard=x"], "--replace: expected one of detector=BUNDLE, forecaster="),
        (["replay", "bare.mcap", "--replace", "policy"], "got 'policy'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_replayed_is_refused_in_one_message(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    RecordingWriter(Path("lossy.mcap"), clock="lockstep", lossy=True).close()
    RecordingWriter(Path("bare.mcap"), clock="lockstep").close()
    Path("text.mcap").write_text("hello")
    assert run_app(arguments) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_differences_are_named_field_by_field() -> None:
    one = PolicyCommand(header=Header(run_id="a", seq=3, valid=True), acceleration_mps2=1.0, action_norm=(0.5, 0.0))
    other = PolicyCommand(header=Header(run_id="b", seq=3, valid=False), acceleration_mps2=1.25, action_norm=(0.5, 0.5))
    found = {d.field: d for d in compare(one, other)}
    assert set(found) == {"header.valid", "acceleration_mps2", "action_norm"}
    assert found["acceleration_mps2"].largest == 0.25
    assert str(found["header.valid"]) == "header.valid: recorded True, replayed False"
    assert compare(one, one) == []
    assert [str(d) for d in compare(one, None)] == ["message: recorded a message, replayed nothing"]


def test_differences_of_arrays() -> None:
    points = np.zeros((4, 2), np.float32)
    moved = points.copy()
    moved[2, 1], moved[3, 0] = 0.5, np.nan
    (found,) = compare(Route(odom_reference_m=points), Route(odom_reference_m=moved))
    assert (found.field, found.at, found.largest) == ("odom_reference_m", (2, 1), 0.5)
    (found,) = compare(Route(odom_reference_m=points), Route(odom_reference_m=points[:3]))
    assert str(found) == "odom_reference_m: recorded shape [4, 2], replayed shape [3, 2]"
    zero = np.zeros((1, 2), np.float32)
    (found,) = compare(Route(odom_reference_m=zero), Route(odom_reference_m=-zero))  # other bytes, equal numbers
    assert found.largest == 0.0
