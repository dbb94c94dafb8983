"""Bundles in lower precision: same contract, same bytes twice, refused when they lose too much."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("faster_coco_eval")

import onnx
import precision_cases as toys

from visuomotor.deploy.export import int8, precision_loss
from visuomotor.deploy.export.calibration_frames import CalibrationError, CameraInput, choose_frames, read_camera_input
from visuomotor.deploy.export.fp16 import convert_to_half
from visuomotor.deploy.export.int8 import Int8Builder, QuantizeError
from visuomotor.deploy.export.int8_ranges import Histograms, Method
from visuomotor.deploy.export.precision import Precision, PrecisionSettings, judge, quantize_bundle
from visuomotor.deploy.export.recorded_inputs import record_inputs
from visuomotor.deploy.record.writer import RecordingWriter
from visuomotor.deploy.runtime.bundle import Bundle, BundleError, load_bundle, write_bundle
from visuomotor.deploy.runtime.session import make_session
from visuomotor.launch.cli import run_app
from visuomotor.messages import wire
from visuomotor.messages.camera import load_camera
from visuomotor.messages.schema import CameraFrame, Forecast, Header, Route, Tracks, VehicleState
from visuomotor.perception.detector import Detector

ROOT = Path(__file__).resolve().parents[2]
FRONT = CameraInput(width=384, height=224, names=("camera_front",))


@pytest.fixture(scope="module", autouse=True)
def _few_draws() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision_loss, "AP_DRAWS", 10)
        yield


@pytest.fixture(scope="module")
def source() -> Bundle:
    return load_bundle("drive-detector-front", "detector")


@pytest.fixture(scope="module")
def detector(source: Bundle) -> Detector:
    return Detector(source, load_camera(ROOT / "launch/profiles/drive/camera_front.yaml"), device="cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, detector: Detector) -> Path:
    """A data set: 20 frames to calibrate with (train) and 8 labelled ones to measure on (test)."""
    folder = tmp_path_factory.mktemp("precision") / "data"
    frames = toys.make_frames(28)
    toys.write_labels(folder, "train", frames[:20], detector)
    return toys.write_labels(folder, "test", frames[20:], detector)


@pytest.fixture(scope="module")
def settings(data: Path) -> PrecisionSettings:
    return PrecisionSettings(
        precision=Precision.int8,
        calibrate=data,
        labels=data,
        max_loss_points=30.0,
        frames=20,
        device="cpu",
        timed_runs=3,
    )


@pytest.fixture(scope="module")
def made(source: Bundle, settings: PrecisionSettings, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    outcome = quantize_bundle(source.path, tmp_path_factory.mktemp("made") / "front-int8", settings, lambda _: None)
    assert outcome.bundle is not None, outcome.verdict
    return outcome.bundle


def test_the_new_bundle_says_what_it_cost(made: Bundle, source: Bundle) -> None:
    facts = made.meta.extra["precision"]
    assert facts["source"]["digest"] == source.digest
    assert (facts["calibration"]["count"], facts["calibration"]["kind"]) == (20, "labelled data set")
    assert facts["calibration"]["method"] in list(Method)
    accuracy = facts["accuracy"]
    assert accuracy["images"] == 8
    assert accuracy["before"]["ap50_95"]["mean"] == pytest.approx(100.0, abs=0.1)  # its own findings are the labels
    loss = accuracy["loss"]["ap50_95"]
    assert loss["low"] <= loss["mean"] <= loss["high"]
    assert 0.0 < loss["mean"] < 30.0
    assert facts["size_bytes"]["after"] < 0.5 * facts["size_bytes"]["before"]
    assert facts["verdict"]["decision"] == "accepted"
    assert made.meta.inputs == source.meta.inputs
    assert made.meta.outputs == source.meta.outputs
    assert made.meta.extra["score_threshold"] == source.meta.extra["score_threshold"]
    report = (made.path / "report.md").read_text()
    assert facts["verdict"]["text"] in report
    assert "| AP50:95 | 100.00" in report


def test_it_runs_in_perceptions_detector_and_finds_what_the_source_finds(made: Bundle, detector: Detector) -> None:
    ours = Detector(made, detector.camera, device="cpu")
    for frame in toys.make_frames(24)[20:]:
        wanted, found = detector.detect(frame), ours.detect(frame)
        sure = np.flatnonzero(wanted.score > detector.score_threshold[wanted.class_id] + 0.1)
        for i in sure:
            near = np.abs(found.box_px - wanted.box_px[i]).max(axis=1) < 8.0
            assert np.any(near & (found.class_id == wanted.class_id[i]))


def test_convolutions_are_in_8_bits_and_decoding_is_not(made: Bundle) -> None:
    graph = onnx.load(made.model_path).graph
    makers = {output: node for node in graph.node for output in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    quantised = [node for node in convolutions if makers[node.input[0]].op_type == "DequantizeLinear"]
    assert len(quantised) >= 0.7 * len(convolutions)
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    first = next(node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] not in makers)
    assert any(node.op_type == "TopK" for node in graph.node), first.name
    quantisers = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    makers_of_quantised = {makers[node.input[0]].op_type for node in quantisers}
    assert not makers_of_quantised & {"Sub", "Cast", "TopK", "Gather", "GatherElements", "Exp"}


def test_the_frames_bytes_are_taken_as_they_are(made: Bundle) -> None:
    graph = onnx.load(made.model_path).graph
    makers = {output: node for node in graph.node for output in node.output}
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    node = next(n for n in graph.node if n.op_type == "Transpose" and n.input[0] == "frame")
    reader = next(n for n in graph.node if n.input[0] == node.output[0])
    assert reader.op_type == "DequantizeLinear"
    scale, zero = constants[reader.input[1]], constants[reader.input[2]]
    np.testing.assert_allclose((np.arange(256) - float(zero)) * scale, (np.arange(256) - 114.0) / 58.0, rtol=1e-5)
    assert reader.output[0] not in makers or makers[reader.output[0]] is reader


def test_same_calibration_same_bytes(source: Bundle) -> None:
    cases = [{"frame": frame[None]} for frame in toys.make_frames(4)]
    data = source.model_path.read_bytes()
    first, second = (Int8Builder(data, cases).build(Method.mse) for _ in range(2))
    assert first == second
    assert first != Int8Builder(data, cases[:3]).build(Method.mse)
    assert convert_to_half(data) == convert_to_half(data)


def test_without_vnni_weights_are_of_7_bits(source: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(int8.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(int8, "CPU_FLAGS", tmp_path / "cpuinfo")
    assert not int8.has_wide_products()
    (tmp_path / "cpuinfo").write_text("flags : avx2 avx512f")
    builder = Int8Builder(source.model_path.read_bytes(), [{"frame": toys.make_frames(1)[0][None]}])
    graph = onnx.load_model_from_string(builder.build(Method.minmax)).graph
    weights = [onnx.numpy_helper.to_array(t) for t in graph.initializer if t.data_type == onnx.TensorProto.INT8]
    assert max(int(np.abs(w.astype(int)).max()) for w in weights if w.ndim == 4) <= 64
    (tmp_path / "cpuinfo").write_text("flags : avx2 avx512f avx512_vnni")
    assert int8.has_wide_products()


def test_ranges_hold_zero_and_cut_outliers() -> None:
    found = Histograms({"x": 0.0}, {"x": 100.0})
    found.counts["x"][:20] = 1_000_000  # up to 1
    found.counts["x"][-1] = 1
    assert found.range("x", Method.minmax) == (0.0, 100.0)
    for method in (Method.percentile, Method.mse):
        low, high = found.range("x", method)
        assert low == 0.0
        assert 0.9 < high < 40.0
    assert Histograms({"y": 3.0}, {"y": 4.0}).range("y", Method.minmax) == (0.0, 4.0)


def test_half_precision_keeps_the_contract_and_the_detections(source: Bundle, detector: Detector) -> None:
    data = convert_to_half(source.model_path.read_bytes())
    half = make_session(data, "cpu")
    assert (half.input_dtypes, half.output_names) == (detector.session.input_dtypes, detector.session.output_names)
    kinds = {tensor.data_type for tensor in onnx.load_model_from_string(data).graph.initializer if tensor.dims}
    assert onnx.TensorProto.FLOAT16 in kinds
    for frame in toys.make_frames(3):
        wanted, found = (s.run({"frame": frame[None]}) for s in (detector.session, half))
        assert {name: array.dtype for name, array in found.items()} == {n: a.dtype for n, a in wanted.items()}
        for score, box in zip(wanted["score"], wanted["box_px"], strict=True):  # equal scores may change places
            near = np.abs(found["box_px"] - box).max(axis=1) < 0.5
            assert score < 0.3 or np.abs(found["score"][near] - score).min() < 0.02


def test_refused_over_the_limit_and_nothing_is_left(
    source: Bundle, settings: PrecisionSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(settings.calibrate)
    out = tmp_path / "out"
    options = ["--precision", "int8", "--calibrate", data, "--labels", data, "--out", str(out), "--device", "cpu"]
    code = run_app(
        [
            "quantize",
            "drive-detector-front",
            *options,
            "--frames",
            "16",
            "--max-loss",
            "0",
            "--json",
            f"{tmp_path}/facts.json",
        ]
    )
    assert code == 1
    facts = json.loads((tmp_path / "facts.json").read_text())
    loss = max(value["mean"] for value in facts["accuracy"]["loss"].values())
    said = capsys.readouterr().err
    assert f"refused: {loss:.3g} AP points lost, limit 0" in said
    assert not out.exists()
    assert list(tmp_path.iterdir()) == [tmp_path / "facts.json"]


@pytest.mark.parametrize(
    ("loss", "limit", "decision"), [(0.99, 1.0, "accepted"), (1.0, 1.0, "accepted"), (1.01, 1.0, "refused")]
)
def test_the_larger_loss_decides(loss: float, limit: float, decision: str) -> None:
    interval = {"mean": loss, "low": loss - 0.5, "high": loss + 0.5}
    facts = {
        "device": "cpu",
        "time": {"ratio": 0.8},
        "accuracy": {"loss": {"ap50": {"mean": -1.0, "low": -2.0, "high": 0.0}, "ap50_95": interval}},
    }
    verdict = judge(facts, PrecisionSettings(precision=Precision.int8, max_loss_points=limit))
    assert verdict["decision"] == decision
    assert not verdict["worth_it"]
    assert "not worth it on cpu (0.80 x)" in verdict["text"]
    assert ("too few to be sure" in verdict["text"]) == (decision == "accepted")


def write_video(path: Path, frames: list[np.ndarray]) -> Path:
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (width, height))
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path


def write_recording(path: Path, frames: list[np.ndarray], service: str = "camera_front") -> Path:
    writer = RecordingWriter(path, clock="lockstep")
    for tick, frame in enumerate(frames):
        message = CameraFrame(header=Header(run_id="r", tick=tick, seq=tick, valid=True), image=frame)
        writer.add(service, "world", tick, message, wire.encode(service, message))
    writer.close()
    return path


def test_frames_come_from_images_data_sets_videos_and_recordings(data: Path, tmp_path: Path) -> None:
    frames = toys.make_frames(18)
    sources = {
        "images": toys.write_images(tmp_path / "images", frames),
        "labelled data set": data,
        "video": write_video(tmp_path / "drive.mp4", toys.make_frames(18, 480, 270)),
        "recording": write_recording(tmp_path / "drive.mcap", frames),
    }
    for kind, path in sources.items():
        chosen = choose_frames(path, FRONT, 16, seed=1)
        assert (chosen.kind, len(chosen.frames)) == (kind, 16)
        assert chosen.available == (20 if path == data else 18)
        assert all(frame.shape == (224, 384, 3) and frame.dtype == np.uint8 for frame in chosen.frames)
        again, other = choose_frames(path, FRONT, 16, seed=1), choose_frames(path, FRONT, 16, seed=2)
        assert all(np.array_equal(a, b) for a, b in zip(chosen.frames, again.frames, strict=True))
        assert not all(np.array_equal(a, b) for a, b in zip(chosen.frames, other.frames, strict=True))
    folder = tmp_path / "recordings"
    folder.mkdir()
    for number in range(2):
        write_recording(folder / f"{number}.mcap", frames[:9])
    assert choose_frames(folder, FRONT, 100, seed=0).available == 18
    whole = choose_frames(sources["recording"], FRONT, 100, seed=0)
    assert all(np.array_equal(a, b) for a, b in zip(whole.frames, frames, strict=True))  # as published, in their order


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "nowhere", "nowhere: no such file or folder"),
        (lambda p: toys.write_images(p / "few", toys.make_frames(3)), r"expected at least 16 frames .*, got 3"),
        (lambda p: write_recording(p / "l.mcap", toys.make_frames(1), "camera_left"), r"camera_front .*camera_left"),
        (lambda p: write_recording(p / "s.mcap", toys.make_frames(1, 64, 32)), r"384x224, found camera_front of 64x32"),
        (lambda p: p, "expected images, a labelled data set or recordings, found none"),
        (lambda p: (p / "a.txt").write_text("x") and p / "a.txt", r"a.txt: expected a folder or one of \*.mp4"),
        (lambda p: (p / "a.mcap").write_text("x") and p / "a.mcap", "expected an MCAP file"),
        (lambda p: (p / "a.mp4").write_text("x") and p / "a.mp4", "does not open as a video; expected"),
    ],
)
def test_frames_that_cannot_be_used_are_named(make: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        choose_frames(make(tmp_path), FRONT, 16, seed=0)  # type: ignore[operator]


def test_labels_of_another_camera_are_refused(source: Bundle, settings: PrecisionSettings, tmp_path: Path) -> None:
    side = tmp_path / "side" / "test"
    (side / "images").mkdir(parents=True)
    image = {"id": 1, "file_name": "a.png", "camera": "camera_left", "width": 192, "height": 96}
    (side / "annotations.json").write_text(json.dumps({"images": [image], "annotations": []}))
    with pytest.raises(CalibrationError, match=r"expected camera_front of 384x224, found camera_left of 192x96"):
        choose_frames(side, read_camera_input(source), 16, seed=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, "--labels: expected a labelled data set .* --unchecked"),
        ({"unchecked": True}, "--unchecked: expected without --labels"),
        ({"labels": None, "unchecked": True, "calibrate": None}, "--calibrate: expected frames"),
        ({"labels": ROOT / "docs"}, "docs: expected a data set with test/annotations.json"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    changes: dict[str, object], message: str, source: Bundle, settings: PrecisionSettings, tmp_path: Path
) -> None:
    wrong = msgspec.structs.replace(settings, **changes)
    with pytest.raises(ValueError, match=message):
        quantize_bundle(source.path, tmp_path / "out", wrong, lambda _: None)
    assert not (tmp_path / "out").exists()


def test_calibrating_on_the_labels_is_refused(source: Bundle, settings: PrecisionSettings, tmp_path: Path) -> None:
    same = msgspec.structs.replace(settings, calibrate=settings.labels / "test")  # type: ignore[operator]
    with pytest.raises(CalibrationError, match="expected other images than those of --labels"):
        quantize_bundle(source.path, tmp_path / "out", same, lambda _: None)


def test_wrong_bundles_are_refused(made: Bundle, source: Bundle, settings: PrecisionSettings, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="expected a float bundle, got int8"):
        quantize_bundle(made.path, tmp_path / "out", settings, lambda _: None)
    copy = write_bundle(
        tmp_path / "copy", model=source.model_path.read_bytes(), meta=msgspec.structs.replace(source.meta), report="x"
    )
    with pytest.raises(BundleError, match="is the bundle itself"):
        quantize_bundle(copy.path, copy.path, settings, lambda _: None)
    changed = bytearray(copy.model_path.read_bytes())
    changed[len(changed) // 2] ^= 1
    copy.model_path.write_bytes(changed)
    with pytest.raises(BundleError, match=r"model.onnx: sha256: expected"):
        quantize_bundle(copy.path, tmp_path / "out", settings, lambda _: None)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(BundleError, match="exists and is no bundle"):
        quantize_bundle(source.path, tmp_path / "mine", settings, lambda _: None)


def make_policy_inputs(path: Path, rows: int = 64) -> Path:
    meta = load_bundle("drive-policy").meta
    low, high = (np.array(meta.extra[f"observation_{end}"]) for end in ("low", "high"))
    rng = np.random.default_rng(0)
    np.savez(path, observation=rng.uniform(low, high, (rows, len(low))).astype(np.float32))
    return path


@pytest.mark.parametrize("precision", list(Precision))
def test_a_policy_loses_in_normalised_units(precision: Precision, tmp_path: Path) -> None:
    inputs = make_policy_inputs(tmp_path / "seen.npz")
    wanted = PrecisionSettings(
        precision=precision, calibrate=inputs, max_difference=2.0, frames=64, device="cpu", timed_runs=3
    )
    outcome = quantize_bundle("drive-policy", tmp_path / "out", wanted, lambda _: None)
    assert outcome.bundle is not None
    difference = outcome.facts["difference"]
    assert 0.0 < difference["mean"] < difference["max"] < 2.0
    assert difference["outputs"]["action_norm"]["unit"] == "half of the declared range"
    observation = np.load(inputs)["observation"]
    sessions = [make_session(bundle, "cpu") for bundle in (load_bundle("drive-policy"), outcome.bundle)]
    ours, theirs = (session.run({"observation": observation})["action_norm"] for session in sessions)
    assert np.abs(ours - theirs).max() < 2.0
    strict = msgspec.structs.replace(wanted, max_difference=0.0)
    refused = quantize_bundle("drive-policy", tmp_path / "refused", strict, lambda _: None)
    assert refused.bundle is None
    assert "normalised units at most lost, limit 0" in refused.verdict
    assert not (tmp_path / "refused").exists()


def test_a_forecaster_takes_scenes_from_an_npz(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scene = np.repeat(np.arange(20), 3)
    walk = rng.normal(0.0, 5.0, (60, 1, 2)) + np.cumsum(rng.normal(0.0, 1.0, (60, 11, 2)), axis=1)
    arrays = {"history_m": walk.astype(np.float32), "present": np.ones((60, 11), bool)}
    np.savez(tmp_path / "seen.npz", **arrays, class_id=np.zeros(60, np.int64), scene=scene)
    wanted = PrecisionSettings(
        precision=Precision.fp16, calibrate=tmp_path / "seen.npz", max_difference=100.0, device="cpu", timed_runs=3
    )
    outcome = quantize_bundle("drive-forecaster", tmp_path / "out", wanted, lambda _: None)
    assert outcome.facts["calibration"]["available"] == 20
    assert outcome.facts["difference"]["outputs"]["position_m"]["mean"] < 0.1


def write_traffic(path: Path, ticks: int = 24) -> Path:
    """A recording of what policy and forecaster read: two cars ahead, the nearer one braking."""
    writer = RecordingWriter(path, clock="lockstep")
    line = np.stack([np.arange(-40.0, 122.0, 2.0), np.zeros(81)], axis=1).astype(np.float32)
    ids = np.arange(2, dtype=np.int32)
    for tick in range(ticks):
        header = Header(run_id="r", tick=tick, seq=tick, t_capture_ns=tick * 100_000_000, valid=True)
        place = np.array([[20.0 + tick - 0.01 * tick**2, 0.0], [40.0 + tick, 3.5]], np.float32)
        tracks = Tracks(
            header=header,
            cameras=("camera_front",),
            track_id=ids,
            class_id=np.zeros(2, np.int32),
            score=np.ones(2, np.float32),
            odom_position_m=place,
            odom_velocity_mps=np.full((2, 2), (8.0, 0.0), np.float32),
            odom_heading_rad=np.zeros(2, np.float32),
            size_m=np.full((2, 2), (4.4, 1.8), np.float32),
            covariance=np.tile(np.eye(4, dtype=np.float32), (2, 1, 1)),
            age_s=np.full(2, 0.1 * tick, np.float32),
            unseen_s=np.zeros(2, np.float32),
        )
        shape = (2, 1, 15)
        forecast = Forecast(
            header=header,
            track_id=ids,
            probability=np.ones(shape[:2], np.float32),
            odom_position_m=np.broadcast_to(place[:, None, None], (*shape, 2)).copy(),
            spread_m=np.ones((*shape, 3), np.float32),
        )
        messages = {
            "vehicle_state": VehicleState(header=header, speed_mps=8.0 - 0.1 * tick),
            "route": Route(header=header, odom_reference_m=line),
            "tracks": tracks,
            "forecast": forecast,
        }
        for service, message in messages.items():
            writer.add(service, "any", tick, message, wire.encode(service, message))
    writer.close()
    return path


def test_recordings_give_what_policy_and_forecaster_saw(tmp_path: Path) -> None:
    path = write_traffic(tmp_path / "drive.mcap")
    seen, available = record_inputs(path, load_bundle("drive-policy"), 100, seed=0)
    assert available == len(seen) == 24
    speed = load_bundle("drive-policy").meta.extra["observation_names"].index("ego_speed")
    found = [float(case["observation"][0, speed]) for case in seen]
    np.testing.assert_allclose(found, 8.0 - 0.1 * np.arange(24), atol=1e-4)
    seen, _ = record_inputs(path, load_bundle("drive-forecaster"), 100, seed=0)
    assert seen[-1]["history_m"].shape == (2, 11, 2)
    assert seen[-1]["present"].all()
    np.testing.assert_allclose(seen[-1]["history_m"][1, :, 0], 40.0 + np.arange(3, 24, 2), atol=1e-4)
    with pytest.raises(CalibrationError, match="expected at least 16 inputs of drive-policy, got 5"):
        record_inputs(write_traffic(tmp_path / "short.mcap", 5), load_bundle("drive-policy"), 100, seed=0)
    with pytest.raises(CalibrationError, match="expected an npz file or recordings"):
        record_inputs(tmp_path / "seen.txt", load_bundle("drive-policy"), 100, seed=0)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"speed": np.zeros((64, 3), np.float32)}, "observation: missing; expected float32"),
        ({"observation": np.zeros((64, 3), np.float32)}, r"observation: expected float32 \['batch', 159\], got"),
        ({"observation": np.zeros((64, 159))}, r"got float64 \[64, 159\]"),
        ({"observation": np.zeros((3, 159), np.float32)}, "expected at least 16 inputs, got 3"),
        ({"observation": np.full((64, 159), np.nan, np.float32)}, "observation: expected finite numbers"),
    ],
)
def test_inputs_that_do_not_fit_are_named(arrays: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "seen.npz", **arrays)
    settings = PrecisionSettings(precision=Precision.int8, calibrate=tmp_path / "seen.npz", device="cpu")
    with pytest.raises(CalibrationError, match=message):
        quantize_bundle("drive-policy", tmp_path / "out", settings, lambda _: None)


def test_a_file_that_is_no_npz_is_named_without_advice(tmp_path: Path) -> None:
    (tmp_path / "seen.npz").write_text("text")
    settings = PrecisionSettings(precision=Precision.int8, calibrate=tmp_path / "seen.npz", device="cpu")
    with pytest.raises(CalibrationError, match=r"seen.npz: not an npz of arrays; expected .*, without objects$"):
        quantize_bundle("drive-policy", tmp_path / "out", settings, lambda _: None)


def test_a_policy_has_no_labels(tmp_path: Path, data: Path) -> None:
    settings = PrecisionSettings(precision=Precision.int8, calibrate=data, labels=data)
    with pytest.raises(CalibrationError, match="a policy has no AP"):
        quantize_bundle("drive-policy", tmp_path / "out", settings, lambda _: None)


def test_a_graph_without_weights_is_refused() -> None:
    helper, tensor = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "nothing",
        [helper.make_tensor_value_info("x", tensor.FLOAT, [1, 3])],
        [helper.make_tensor_value_info("y", tensor.FLOAT, [1, 3])],
    )
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10).SerializeToString()
    with pytest.raises(QuantizeError, match="int8: expected Conv, Gemm, MatMul"):
        Int8Builder(data, [{"x": np.ones((1, 3), np.float32)}])
    with pytest.raises(QuantizeError, match="fp16: expected nodes with weights"):
        convert_to_half(data)
