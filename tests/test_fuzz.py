"""Hostile inputs: the fuzzer's own targets, what it found once, and small samples of each reader by hypothesis."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from visuomotor.deploy.record import public
from visuomotor.deploy.record.reader import Recording, RecordingError
from visuomotor.deploy.record.writer import RecordingWriter
from visuomotor.deploy.runtime.bundle import BundleError, BundleMeta, load_bundle, write_bundle
from visuomotor.launch.evaluate.score import load_score
from visuomotor.launch.evaluate.suite import SuiteRun, _finished
from visuomotor.launch.inject import parse_injections
from visuomotor.launch.profile import PROFILES, ProfileError, load_profile
from visuomotor.launch.seeds import parse_seeds
from visuomotor.messages import rendezvous, schema, wire
from visuomotor.messages.camera import load_camera
from visuomotor.messages.wiring import RunPlace, wire_up

ROOT = Path(__file__).parents[1]
SMALL = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
CALIBRATION = (PROFILES / "drive" / "camera_front.yaml").read_text()


def test_some_inputs_of_every_target(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("cantools")
    found = tmp_path / "found.json"
    command = [sys.executable, "benchmarks/fuzz.py", "--inputs", "150", "--seed", "1", "--no-coverage"]
    command += ["--folder", str(tmp_path), "--json", str(found)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    targets = json.loads(found.read_text())["targets"]
    assert len(targets) == 15
    for name, row in targets.items():
        assert row["inputs"] == 150
        assert row["accepted"] + row["refused"] == 150
        assert 0 < row["accepted"] < 150, name
        assert row["messages"] > 0, name


def test_a_process_that_crashes_is_found_and_its_input_kept(tmp_path: Path) -> None:
    code = """
import os, sys, fuzz
class Crash(fuzz.TARGETS["options"]):
    name = "crash"
    calls = 0
    def read(self, data):
        self.calls += 1
        if self.calls > 3 and b"kill" in data:  # the first three only warm the reader up
            os.abort()
        return True
fuzz.TARGETS["crash"] = Crash
fuzz.__file__ = sys.argv[0] or __file__
"""
    script = tmp_path / "script.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(ROOT / 'benchmarks')!r})\n{code}\nfuzz.main()\n")
    command = [sys.executable, str(script), "--target", "crash", "--inputs", "12", "--no-coverage"]
    done = subprocess.run([*command, "--folder", str(tmp_path / "kept")], capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAILED exit code -6" in done.stdout
    kept = list((tmp_path / "kept").glob("crash-0-*.bin"))
    assert kept
    assert all(b"kill" in file.read_bytes() for file in kept)


@pytest.mark.parametrize(
    "said",
    [b"\x91" * 20_000, b"\x82\xa4type\xa6_Hello\xa4node" + b"\x91" * 20_000, b"\x82\xa4type\xa2\xff\xfe", b""],
    ids=["deep", "deep inside", "no text", "empty"],
)
def test_hostile_words_do_not_end_the_supervisor(said: bytes, tmp_path: Path) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    place = RunPlace(str(tmp_path), "run")
    door = rendezvous.Rendezvous(context, place, wire_up("supervisor", (), ("episode",)), ("guard",))
    hostile = context.socket(zmq.DEALER)
    hostile.connect(place.rendezvous)
    try:
        hostile.send(said)
        hostile.send(msgspec.msgpack.encode(rendezvous._Connected("guard")))  # before it said hello
        hostile.send(msgspec.msgpack.encode(rendezvous._Connected("stranger")))
        while not hostile.poll(10):
            door.poll(0.01)
        assert b"stranger: not a node of this run" in hostile.recv()
        assert door.missing() == {"guard": "starting"}
    finally:
        hostile.close(0)
        door.close()
        context.term()


ALIASES = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (ALIASES, "not valid YAML in line 2: expected values written out, got an alias"),
        ("cameras: &a {x: *a}\n", "got an alias"),
        ("[" * 5000, "expected at most 32 levels"),
        ("task: drive\ntask: vehicle\n", "expected each key once, got 'task' again"),
        ("task: 2001-99-99\n", "a value of the wrong form"),
        ("threads: 0x" + "f" * 30_000, "expected values of at most 1000 characters"),
        ("a: " + "x" * 200_000, "expected at most 131072 bytes"),
        ("\x00", "not valid YAML"),
    ],
    ids=["aliases", "cycle", "deep", "twice", "date", "hex", "large", "null"],
)
def test_yaml_of_a_hostile_hand_names_file_and_reason(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "hostile.yaml"
    file.write_text(text)
    for read, error in ((load_profile, ProfileError), (load_camera, ValueError)):
        with pytest.raises(error, match=re.escape(words)) as caught:
            read(file)
        assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("image_width: 384", "image_width: 10000000000", "image_width: expected an integer from 1 to 16384"),
        ("image_width: 384", "image_width: true", "image_width: expected an integer"),
        ("ego_yaw_rad: 0.0", "ego_yaw_rad: .nan", "mounting.ego_yaw_rad: expected 1 finite numbers"),
        ("camera_matrix:", "camera_matrix: [1]\nx:", "camera_matrix: expected a mapping"),
    ],
)
def test_calibration_names_the_key(old: str, new: str, words: str, tmp_path: Path) -> None:
    assert old in CALIBRATION
    file = tmp_path / "c.yaml"
    file.write_text(CALIBRATION.replace(old, new))
    with pytest.raises(ValueError, match=re.escape(words)):
        load_camera(file)


@SMALL
@given(data=st.binary(max_size=200), at=st.floats(0.0, 1.0))
def test_any_profile_is_read_or_refused(data: bytes, at: float, tmp_path: Path) -> None:
    text = (PROFILES / "drive.yaml").read_bytes()
    file = tmp_path / "hostile.yaml"
    file.write_bytes(text[: int(at * len(text))] + data)
    try:
        load_profile(file)
    except ValueError as error:
        if not re.search(r"hostile\.yaml: |calibration cannot be read", str(error)):
            raise


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    meta = BundleMeta(kind="policy", task="drive", inputs=(), outputs=(), training={"seed": 7})
    return write_bundle(tmp_path / "toy", model=b"a graph", meta=meta, report="").path


def test_pipes_and_devices_in_a_bundle_are_refused_at_once(bundle: Path) -> None:
    (bundle / "report.md").unlink()
    os.mkfifo(bundle / "report.md")
    with pytest.raises(BundleError, match=r"report\.md: cannot be read \(not a regular file\)"):
        load_bundle(bundle)
    (bundle / "bundle.json").unlink()
    (bundle / "bundle.json").symlink_to("/dev/zero")
    with pytest.raises(BundleError, match=r"bundle\.json: cannot be read \(not a regular file\)"):
        load_bundle(bundle)


@pytest.mark.parametrize("name", ["", "..", "a\\u0000b"])
def test_names_that_no_file_of_a_bundle_has(bundle: Path, name: str) -> None:
    text = (bundle / "bundle.json").read_text()
    (bundle / "bundle.json").write_text(text.replace('"report.md"', f'"{name}"'))
    with pytest.raises(BundleError, match="sha256: expected file names of this folder"):
        load_bundle(bundle)


def test_json_nested_too_deep_names_the_file(bundle: Path, tmp_path: Path) -> None:
    deep = "[" * 5000
    text = (bundle / "bundle.json").read_text()
    (bundle / "bundle.json").write_text(text.replace('"seed": 7', f'"seed": {deep}'))
    with pytest.raises(BundleError, match=r"bundle\.json: not a bundle description"):
        load_bundle(bundle)
    file = tmp_path / "score.json"
    for data in (b'{"provenance": {"a": ' + deep.encode(), b'{"task": "\xff"}'):
        file.write_bytes(data)
        with pytest.raises(ValueError, match=r"score\.json: not a score file"):
            load_score(file)


@SMALL
@given(data=st.binary(max_size=60), at=st.floats(0.0, 1.0))
def test_any_bundle_description_is_read_or_refused(data: bytes, at: float, bundle: Path) -> None:
    file = bundle / "bundle.json"
    whole = file.read_bytes()
    start = int(at * len(whole))
    file.write_bytes(whole[:start] + data + whole[start + len(data) :])
    try:
        load_bundle(bundle)
    except BundleError as error:
        if str(bundle) not in str(error):
            raise
    finally:
        file.write_bytes(whole)


@pytest.mark.parametrize("rest", ["7", "[]", "{}", '{"seed": "x"}', "9" * 5000, "[" * 5000, '{"seed": [1]}'])
def test_progress_files_of_another_form_are_refused(rest: str, tmp_path: Path) -> None:
    file = tmp_path / "progress.jsonl"
    run = SuiteRun(nodes=[], split="tune")
    assert _finished(file, run) == {}
    with file.open("a") as more:
        more.write(rest + "\n")
    with pytest.raises(ValueError, match=r"progress\.jsonl: .*remove it to start anew"):
        _finished(file, run)


def test_options_of_thousands_of_digits() -> None:
    with pytest.raises(ValueError, match="--seeds: expected numbers of at most 18 digits"):
        parse_seeds("0:" + "9" * 5000)
    with pytest.raises(ValueError, match=r"--inject: .* is not understood"):
        parse_injections(["guard=delay:" + "9" * 400 + "s"], {"guard": ("command",)})


def test_dbc_that_asks_for_memory_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("cantools")
    from visuomotor.deploy.vehicle.can_codec import SHIPPED_DBC, CanCodec, CanError

    file = tmp_path / "hostile.dbc"
    file.write_text(SHIPPED_DBC.read_text().replace("COMMAND: 8", "COMMAND: 100000000000"))
    with pytest.raises(CanError, match=r"hostile\.dbc: COMMAND: expected at most 64 bytes, got 100000000000"):
        CanCodec(file)
    file.write_text(SHIPPED_DBC.read_text().replace("0|16@1", "0|40000000000@1", 1))
    with pytest.raises(CanError, match=r"hostile\.dbc: \w+: expected bits of a frame, got 0\|40000000000"):
        CanCodec(file)
    file.write_bytes(bytes(2 << 20))
    with pytest.raises(CanError, match=r"hostile\.dbc: expected at most 1048576 bytes"):
        CanCodec(file)


def test_a_float_signal_that_is_infinite_is_not_believed(tmp_path: Path) -> None:
    pytest.importorskip("cantools")
    from visuomotor.deploy.vehicle.can_codec import CanCodec

    file = tmp_path / "a.dbc"
    file.write_text(
        'VERSION "1"\n\nBU_: A\n\nBO_ 5 M: 4 A\n SG_ X : 0|32@1- (1,0) [0|0] "" A\n\nSIG_VALTYPE_ 5 X : 1;\n'
    )
    codec = CanCodec(file)
    assert codec.decode(5, struct.pack("<f", 1.5)) is not None
    assert codec.decode(5, struct.pack("<f", float("inf"))) is None
    assert codec.decode(5, struct.pack("<f", float("nan"))) is None
    assert codec.refused == {"range": 2}


@SMALL
@given(data=st.binary(max_size=40), at=st.floats(0.0, 1.0))
def test_any_dbc_is_read_or_refused(data: bytes, at: float, tmp_path: Path) -> None:
    pytest.importorskip("cantools")
    from visuomotor.deploy.vehicle.can_codec import SHIPPED_DBC, CanCodec, CanError

    whole = SHIPPED_DBC.read_bytes()[:900]
    start = int(at * len(whole))
    file = tmp_path / "hostile.dbc"
    file.write_bytes(whole[:start] + data + whole[start + len(data) :])
    try:
        CanCodec(file)
    except CanError as error:
        if str(file) not in str(error):
            raise


def test_a_chunk_of_very_many_records_ends_the_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.mcap"
    writer = RecordingWriter(file, clock="lockstep", now_s=lambda: 0.0)
    for tick in range(20):
        message = schema.Command(header=schema.Header(tick=tick))
        writer.add("command", "guard", tick, message, wire.encode("command", message))
    writer.close()
    assert len(list(Recording(file).read())) == 20
    monkeypatch.setattr("visuomotor.deploy.record.reader.RECORDS_MAX", 22)  # and a schema and a channel
    assert len(list(Recording(file).read())) == 20
    monkeypatch.setattr("visuomotor.deploy.record.reader.RECORDS_MAX", 21)
    recording = Recording(file)
    assert list(recording.read()) == []
    assert "a chunk of more than 21 records" in recording.damage


def test_a_jpeg_that_says_it_is_huge_is_refused_before_it_is_decoded() -> None:
    import numpy as np

    frame = schema.CameraFrame(image=np.zeros((8, 12, 3), np.uint8))
    data = public.to_public("camera_front", frame, wire.encode("camera_front", frame), lossy=True)
    assert public.from_public("camera_front", data, lossy=True).header == frame.header
    at = data.index(b"\xff\xc0")
    huge = data[: at + 5] + struct.pack(">HH", 60000, 60000) + data[at + 9 :]
    with pytest.raises(public.PublicFormError, match="a JPEG of 60000x60000: larger than a frame may be"):
        public.from_public("camera_front", huge, lossy=True)
    with pytest.raises(public.PublicFormError, match="expected a JPEG, got something else"):
        public.from_public("camera_front", data.replace(b"\xff\xd8", b"\x89P", 1), lossy=True)


@SMALL
@given(data=st.binary(min_size=1, max_size=40), at=st.floats(0.0, 1.0))
def test_any_recording_is_read_or_refused(data: bytes, at: float, tmp_path: Path) -> None:
    file = tmp_path / "hostile.mcap"
    file.unlink(missing_ok=True)
    writer = RecordingWriter(file, clock="lockstep")
    message = schema.Command()
    writer.add("command", "guard", 1, message, wire.encode("command", message))
    writer.close()
    whole = file.read_bytes()
    start = int(at * len(whole))
    file.write_bytes(whole[:start] + data + whole[start + len(data) :])
    try:
        assert len(list(Recording(file).read())) <= 1
    except RecordingError as error:
        if str(file) not in str(error):
            raise


def test_the_page_on_fuzzing_has_the_figures_of_the_result_file() -> None:
    page = (ROOT / "docs" / "fuzz.md").read_text()
    found = json.loads((ROOT / "benchmarks" / "results" / "fuzz.json").read_text())
    assert found["whole"]["failed"] == 0
    assert found["whole"]["inputs"] >= 1_000_000
    assert found["targets"]["wire"]["inputs"] > found["whole"]["inputs"] / 2
    assert f"{found['whole']['inputs']:,} inputs" in page
    for name, row in found["targets"].items():
        share = round(100 * row["past_header"] / row["inputs"])
        lines = f"{row['coverage']['reached']} of {row['coverage']['lines']}"
        line = f"| `{name}` | {row['inputs']:,} | {row['accepted']:,} | {share} % | {row['messages']:,} | {lines} |"
        assert line in page, line
