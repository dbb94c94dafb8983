"""bench: real workers on small networks; what torch rebuilds is what the bundle's graph computes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from visuomotor.deploy.runtime.bench_worker import BARE, BOUND, OPENCV, OURS, SPINNING, Job, Request, make_inputs
from visuomotor.deploy.runtime.bundle import BundleError, BundleMeta, TensorSpec, load_bundle, write_bundle
from visuomotor.deploy.runtime.device import find_obstacle
from visuomotor.deploy.runtime.session import make_session
from visuomotor.launch.bench import RUNTIME_WORKER, TORCH_BEST, Settings, Worker, WorkerError, run_bench
from visuomotor.launch.cli import run_app

onnx = pytest.importorskip("onnx")


@pytest.fixture
def double(tmp_path: Path) -> Path:
    """A bundle without weights: y = 2 x."""
    helper, tensor = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "double",
        [helper.make_tensor_value_info("x", tensor.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", tensor.FLOAT, ["batch", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10).SerializeToString()
    shape = {"dtype": "float32", "shape": ("batch", 3)}
    meta = BundleMeta(
        kind="policy",
        task="drive",
        inputs=(TensorSpec(name="x", low=2.0, high=3.0, **shape),),
        outputs=(TensorSpec(name="y", **shape),),
    )
    return write_bundle(tmp_path / "double", model=model, meta=meta, report="").path


def test_every_way_is_measured_or_says_why_not(
    double: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "out" / "bench.json"
    command = ["bench", str(double), "--repeats", "12", "--threads", "2", "--device", "cpu", "--json", str(file)]
    assert run_app(command) == 0
    result = json.loads(file.read_text())
    ways = {row["way"]: row for row in result["ways"]}
    assert {OURS, BARE, SPINNING, BOUND, OPENCV, TORCH_BEST} <= set(ways)
    for way in (OURS, BARE, SPINNING, BOUND):
        row = ways[way]
        latency, started = row["latency_ms"], row["started"]
        assert 0.0 < latency["p50"] <= latency["p95"] <= latency["p99"] <= latency["max"]
        assert started["load_ms"] > 0.0
        assert started["first_ms"] > 0.0
        assert started["peak_mb"] > 20.0
        assert row["differs"] == 0.0
    assert ways[OPENCV]["latency_ms"] or ways[OPENCV]["started"]["error"]
    assert not ways[TORCH_BEST]["latency_ms"]
    assert "weights" in ways[TORCH_BEST]["started"]["error"] or "not installed" in ways[TORCH_BEST]["started"]["error"]
    assert result["placement"] == {"CPUExecutionProvider": {"Add": 1}}
    assert result["ratios"]["visuomotor / onnxruntime"] > 0.0
    out = capsys.readouterr().out
    assert "CPUExecutionProvider took 1 nodes: 1 Add" in out
    assert "torch best: " in out


def test_a_worker_times_the_calls_asked_for_and_gives_its_outputs(double: Path) -> None:
    job = Job(bundle=str(double), device="cpu", threads=1, rows=4, ways=(OURS,))
    with Worker(RUNTIME_WORKER, job) as worker:
        assert len(worker.ask(Request(way=OURS, calls=7))) == 7
        outputs = worker.ask(Request(way=OURS))
    expected = 2 * make_inputs(load_bundle(double).meta.inputs, 4)["x"]
    np.testing.assert_array_equal(np.float32(outputs["y"]), expected)
    assert worker._process.returncode == 0


def test_the_last_words_of_a_worker_that_dies(tmp_path: Path) -> None:
    job = Job(bundle=str(tmp_path), device="cpu", threads=1, rows=1, ways=(OURS,))
    with pytest.raises(WorkerError, match=r"^/.*bundle.json: cannot be read"):
        Worker(RUNTIME_WORKER, job)


def test_a_graph_that_does_not_run_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = TensorSpec(name="x", dtype="float32", shape=(1,))
    meta = BundleMeta(kind="policy", task="drive", inputs=(spec,), outputs=(spec,))
    bundle = write_bundle(tmp_path / "b", model=b"not a graph", meta=meta, report="")
    assert run_app(["bench", str(bundle.path), "--device", "cpu", "--no-compile"]) == 2
    err = capsys.readouterr().err
    assert f"visuomotor: {bundle.path}/model.onnx: ONNX Runtime does not load it" in err


def test_an_input_that_cannot_be_made_names_the_description(double: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = double / "bundle.json"
    file.write_text(file.read_text().replace("float32", "float33"))
    assert run_app(["bench", str(double), "--device", "cpu", "--no-compile"]) == 2
    assert f"visuomotor: {file}: inputs: expected numbers' types" in capsys.readouterr().err


def test_inputs_are_within_the_declared_ranges() -> None:
    def spec(name: str, dtype: str, low: float | None = None, high: float | None = None) -> TensorSpec:
        return TensorSpec(name=name, dtype=dtype, shape=("A", 50), low=low, high=high)

    specs = (
        spec("frame", "uint8", 0, 255),
        spec("share", "float32", 0.0, 1.0),
        spec("free", "float32"),
        spec("class_id", "int64", 0, 4),
        spec("scene", "int64"),
        spec("present", "bool"),
    )
    arrays = make_inputs(specs, rows=40)
    assert all(array.shape == (40, 50) for array in arrays.values())
    assert {name: array.dtype.name for name, array in arrays.items()} == {s.name: s.dtype for s in specs}
    assert (arrays["frame"].min(), arrays["frame"].max()) == (0, 255)
    assert 0.0 <= arrays["share"].min() < arrays["share"].max() <= 1.0
    assert arrays["free"].min() < 0.0 < arrays["free"].max()
    assert set(arrays["class_id"].ravel()) == {0, 1, 2, 3, 4}
    assert not arrays["scene"].any()
    assert arrays["present"].all()
    assert not np.array_equal(arrays["share"], make_inputs(specs, rows=40, seed=1)["share"])


@pytest.mark.parametrize("name", ["drive-detector-side", "drive-forecaster", "drive-policy"])
def test_torch_rebuilds_what_the_graph_computes(name: str) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("stable_baselines3")
    from visuomotor.deploy.export.rebuild import rebuild
    from visuomotor.deploy.export.torch_worker import fuse_norms

    bundle = load_bundle(name)
    inputs = make_inputs(bundle.meta.inputs, rows=5)
    expected = make_session(bundle, "cpu").run(inputs)
    network = rebuild(bundle)
    for form in (network, fuse_norms(network)):
        with torch.inference_mode():
            outputs = form(*(torch.from_numpy(array) for array in inputs.values()))
        for spec, output in zip(bundle.meta.outputs, outputs, strict=True):
            if spec.name in ("score", "count", "position_m", "probability", "action_norm"):
                np.testing.assert_allclose(output.numpy(), expected[spec.name], rtol=2e-3, atol=2e-3)


def test_a_bundle_without_weights_cannot_be_rebuilt(double: Path) -> None:
    pytest.importorskip("torch")
    from visuomotor.deploy.export.rebuild import rebuild

    with pytest.raises(BundleError, match=r"bundle.json: no weights.safetensors"):
        rebuild(load_bundle(double))


@pytest.mark.slow  # starts nine processes, four of them with torch
def test_torch_is_measured_under_its_best_setting_and_eager() -> None:
    pytest.importorskip("torch")
    result = run_bench("drive-policy", Settings(device="cpu", calls=20, compile=False), quiet=True)
    ways = {row.way: row for row in result.ways}
    tried = {name: value for name, value in result.torch_tried.items() if not name.startswith("bfloat16")}
    assert set(tried) == {"eager", "jit.freeze", "jit.optimize_for_inference"}
    assert tried[ways["torch best"].started.settings] == min(tried.values())
    assert ways["torch eager"].started.settings == "eager"
    for way in ("torch best", "torch eager"):
        assert ways[way].differs is not None
        assert ways[way].differs < 1e-4
        assert ways[way].started.first_ms > 0.0
        assert result.ratios[f"{way} / visuomotor"] > 0.0


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
@pytest.mark.parametrize(
    "command",
    [["launch", "drive"], ["launch", "vehicle", "--camera", "a.mp4"], ["bench", "drive-policy"]],
    ids=" ".join,
)
def test_a_device_that_is_not_there_ends_the_command_at_once(command: list[str], device: str, tmp_path: Path) -> None:
    if not (obstacle := find_obstacle(device)):
        pytest.skip(f"this machine offers {device}")
    cv2 = pytest.importorskip("cv2")
    writer = cv2.VideoWriter(str(tmp_path / "a.mp4"), cv2.VideoWriter.fourcc(*"vp09"), 10.0, (384, 224))
    for _ in range(3):
        writer.write(np.zeros((224, 384, 3), np.uint8))
    writer.release()
    full = [sys.executable, "-m", "visuomotor.launch.cli", *command, "--device", device]
    done = subprocess.run(full, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 2, done.stderr
    assert done.stderr.strip() == (
        f"visuomotor: device '{device}' is not to be had: {obstacle}; choose --device cpu or auto"
    )
    assert done.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]  # nothing was begun
