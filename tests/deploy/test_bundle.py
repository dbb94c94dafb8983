from pathlib import Path

import msgspec
import numpy as np
import pytest

from visuomotor.deploy.runtime.bundle import (
    Bundle,
    BundleError,
    BundleMeta,
    TensorSpec,
    check_place,
    load_bundle,
    write_bundle,
)
from visuomotor.deploy.runtime.device import DeviceError, check_device, find_obstacle
from visuomotor.deploy.runtime.session import make_session

onnx = pytest.importorskip("onnx")


def make_model(scale: float = 2.0) -> bytes:
    """y = scale * x + [1, 2, 3], any number of rows."""
    helper, tensor = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "scale"], ["sx"]), helper.make_node("Add", ["sx", "shift"], ["y"])],
        "affine",
        [helper.make_tensor_value_info("x", tensor.FLOAT, ["A", 3])],
        [helper.make_tensor_value_info("y", tensor.FLOAT, ["A", 3])],
        [
            onnx.numpy_helper.from_array(np.float32(scale), "scale"),
            onnx.numpy_helper.from_array(np.array([1, 2, 3], np.float32), "shift"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10).SerializeToString()


def make_meta(**changes: object) -> BundleMeta:
    meta = BundleMeta(
        kind="policy",
        task="drive",
        inputs=(TensorSpec(name="x", dtype="float32", shape=("A", 3), unit="m", low=-1.0, high=1.0),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=("A", 3)),),
        extra={"observation_hash": "abc"},
    )
    return msgspec.structs.replace(meta, **changes)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_bundle(tmp_path / "toy", model=make_model(), meta=make_meta(), report="# How it was made\n")


def test_round_trip_keeps_everything_and_lists_every_file(bundle: Bundle) -> None:
    again = load_bundle(bundle.path, kind="policy")
    assert again.meta == bundle.meta
    assert set(again.meta.sha256) == {"model.onnx", "report.md"}
    assert again.weights_path is None
    assert again.meta.inputs[0].shape == ("A", 3)
    assert again.get_extra("observation_hash", str) == "abc"
    assert [p.name for p in bundle.path.parent.iterdir()] == ["toy"]  # no temporary folder left


def test_weights_are_copied_and_hashed(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"weights")
    bundle = write_bundle(tmp_path / "b", model=make_model(), meta=make_meta(), report="", weights=tmp_path / "w")
    assert bundle.weights_path is not None
    assert bundle.weights_path.read_bytes() == b"weights"
    bundle.weights_path.write_bytes(b"weightz")
    with pytest.raises(BundleError, match=r"weights.safetensors: sha256: expected"):
        load_bundle(bundle.path)


def test_writing_replaces_a_bundle_but_never_another_folder(bundle: Bundle, tmp_path: Path) -> None:
    second = write_bundle(bundle.path, model=make_model(3.0), meta=make_meta(), report="second")
    assert second.digest != bundle.digest
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    with pytest.raises(BundleError, match=r"thesis.tex is a file; expected a folder"):
        check_place(tmp_path / "mine" / "thesis.tex" / "a" / "b")
    with pytest.raises(BundleError, match="exists and is no bundle"):
        write_bundle(other, model=make_model(), meta=make_meta(), report="")
    assert (other / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("file", ["model.onnx", "report.md"])
def test_one_changed_byte_is_found(bundle: Bundle, file: str) -> None:
    data = bytearray((bundle.path / file).read_bytes())
    data[-1] ^= 1
    (bundle.path / file).write_bytes(data)
    with pytest.raises(BundleError, match=rf"{file}: sha256: expected [0-9a-f]{{64}}, got [0-9a-f]{{64}}"):
        load_bundle(bundle.path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: text[: len(text) // 2], "not a bundle description"),
        (lambda text: text.replace('"policy"', '"poetry"'), r"Invalid enum value 'poetry' - at `\$.kind`"),
        (lambda text: text.replace('"task"', '"tusk"'), "tusk"),
        (lambda text: text.replace('"format": 1', '"format": 2'), "format: expected 1, got 2"),
        (lambda text: text.replace('"model.onnx"', '"../model.onnx"'), "sha256"),
    ],
)
def test_a_broken_description_names_file_and_key(bundle: Bundle, edit: object, message: str) -> None:
    path = bundle.path / "bundle.json"
    path.write_text(edit(path.read_text()))  # type: ignore[operator]
    with pytest.raises(BundleError, match=message) as caught:
        load_bundle(bundle.path)
    assert "bundle.json" in str(caught.value)


def test_missing_bundle_missing_file_and_wrong_kind(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="nowhere: no such bundle"):
        load_bundle(tmp_path / "nowhere")
    with pytest.raises(BundleError, match="kind: expected 'detector', got 'policy'"):
        load_bundle(bundle.path, kind="detector")
    with pytest.raises(BundleError, match=r"extra.class_names: missing"):
        bundle.get_extra("class_names")
    (bundle.path / "report.md").unlink()
    with pytest.raises(BundleError, match=r"report.md: cannot be read"):
        load_bundle(bundle.path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match=r"bundle.json: cannot be read"):
        load_bundle(tmp_path / "empty")


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_session_computes_for_any_number_of_rows(bundle: Bundle, rows: int) -> None:
    session = make_session(bundle, device="cpu")
    x = np.random.default_rng(rows).normal(size=(rows, 3)).astype(np.float32)
    y = session.run({"x": x})["y"]
    assert y.shape == (rows, 3)
    np.testing.assert_allclose(y, 2 * x + np.array([1, 2, 3], np.float32), rtol=1e-6)
    assert session.provider == "CPUExecutionProvider"
    assert session.reason == ""


def test_session_refuses_wrong_inputs_by_name(bundle: Bundle) -> None:
    session = make_session(bundle, device="cpu")
    with pytest.raises(ValueError, match="input x: expected dtype float32, got float64"):
        session.run({"x": np.zeros((1, 3))})
    with pytest.raises(ValueError, match=r"inputs: expected \['x'\], got \['z'\]"):
        session.run({"z": np.zeros((1, 3), np.float32)})


def test_declared_inputs_must_be_those_of_the_graph(tmp_path: Path) -> None:
    wrong = (TensorSpec(name="observation", dtype="float32", shape=("A", 3)),)
    bundle = write_bundle(tmp_path / "b", model=make_model(), meta=make_meta(inputs=wrong), report="")
    with pytest.raises(BundleError, match=r"inputs: expected the graph's \['x'\], got \['observation'\]"):
        make_session(bundle, device="cpu")
    wrong = (TensorSpec(name="x", dtype="uint8", shape=("A", 3)),)
    bundle = write_bundle(tmp_path / "b", model=make_model(), meta=make_meta(inputs=wrong), report="")
    with pytest.raises(BundleError, match=r"inputs.x.dtype: expected the graph's float32, got uint8"):
        make_session(bundle, device="cpu")


def test_a_file_that_is_no_graph_is_a_bundle_error(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b", model=b"not a graph", meta=make_meta(), report="")
    with pytest.raises(BundleError, match=r"model.onnx: ONNX Runtime does not load it"):
        make_session(bundle, device="cpu")


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_a_device_that_is_not_there_is_an_error_and_auto_says_why(
    bundle: Bundle, device: str, capfd: pytest.CaptureFixture[str]
) -> None:
    if not (obstacle := find_obstacle(device)):
        pytest.skip(f"this machine offers {device}")
    with pytest.raises(DeviceError, match=f"device '{device}' is not to be had: ") as caught:
        make_session(bundle, device=device)
    assert obstacle in str(caught.value)
    if find_obstacle("cuda"):
        session = make_session(bundle, device="auto")
        assert session.device == "cpu"
        assert session.reason == f"auto: {find_obstacle('cuda')}"
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")  # ONNX Runtime printed nothing of its own


def test_unknown_device() -> None:
    with pytest.raises(DeviceError, match="device: expected one of auto, cpu, cuda, tensorrt, got 'tpu'"):
        check_device("tpu")
