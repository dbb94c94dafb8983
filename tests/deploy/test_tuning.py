"""What a session is told and what it says of itself: settings, providers, engine cache, placement."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

pytest.importorskip("onnx")

from graphs import make_double

from visuomotor.deploy.runtime import tuning as tuning_module
from visuomotor.deploy.runtime.bundle import load_bundle
from visuomotor.deploy.runtime.device import DeviceError, describe_gpu, find_obstacle
from visuomotor.deploy.runtime.placement import check_placement, describe_placement, merge_placements
from visuomotor.deploy.runtime.session import make_session
from visuomotor.deploy.runtime.tuning import (
    Tuning,
    TuningError,
    engine_folders,
    list_providers,
    make_options,
    read_tuning,
)

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
GPU = {"gpu": "A", "driver": "580.1", "tensorrt": 101300, "onnxruntime": "1.31.1"}


@pytest.mark.parametrize("spinning", [False, True])
def test_spinning_and_threads_reach_the_session(spinning: bool):
    options = make_options(3, Tuning(spinning=spinning))
    assert options.intra_op_num_threads == 3
    assert options.inter_op_num_threads == 1
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == str(int(spinning))
    assert options.get_session_config_entry("session.inter_op.allow_spinning") == "0"


@pytest.mark.parametrize(
    ("settings", "device", "message"),
    [
        ({"cuda_graph": True}, "cpu", "runtime.cuda_graph: expected device cuda or tensorrt, got 'cpu'"),
        ({"fp16": True}, "cpu", "runtime.fp16: expected device tensorrt, got 'cpu'"),
        ({"fp16": True}, "cuda", "runtime.fp16: expected device tensorrt, got 'cuda'"),
        ({"fp16": True}, "auto", "runtime.fp16: expected device tensorrt, got 'auto'"),
        ({"cuda_graph": True}, "auto", ""),
        ({"cuda_graph": True, "fp16": True}, "tensorrt", ""),
        ({"spinning": True}, "cpu", ""),
    ],
)
def test_settings_that_the_device_lacks_are_refused(settings: dict, device: str, message: str):
    if message:
        with pytest.raises(TuningError, match=message):
            Tuning(**settings).check(device)
    else:
        Tuning(**settings).check(device)


@pytest.mark.parametrize("settings", [{"spinnning": True}, {"fp16": "yes"}])
def test_a_wrong_key_or_value_is_named(settings: dict):
    with pytest.raises(
        TuningError, match=f"runtime: .*{next(iter(settings)) if settings.get('fp16') is None else 'fp16'}"
    ):
        read_tuning(settings)
    assert read_tuning(None) == read_tuning({}) == Tuning()


def test_a_session_refuses_what_its_device_lacks_and_auto_leaves_the_graph_out_on_the_cpu():
    with pytest.raises(TuningError, match=r"runtime\.cuda_graph"):
        make_session(make_double(), "cpu", tuning=Tuning(cuda_graph=True))
    if find_obstacle("cuda"):
        session = make_session(make_double(), "auto", tuning=Tuning(cuda_graph=True, spinning=True))
        assert session.device == "cpu"
        assert session.tuning == Tuning(spinning=True)
        assert (
            session.run({"x": np.ones((2, 3), np.float32), "k": np.ones((2, 3), np.int64)})["y"].tolist()
            == [[2.0] * 3] * 2
        )


def test_providers_and_options_by_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert list_providers("cpu", Tuning(), b"") == [CPU]
    for graph in (False, True):
        (name, cuda), cpu = list_providers("cuda", Tuning(cuda_graph=graph), b"")
        assert (name, cpu, cuda["enable_cuda_graph"]) == (CUDA, CPU, str(int(graph)))
        (name, engine), (second, cuda), cpu = list_providers("tensorrt", Tuning(cuda_graph=graph, fp16=True), b"model")
        assert (name, second, cpu) == (TENSORRT, CUDA, CPU)
        assert engine["trt_cuda_graph_enable"] == str(int(graph))
        assert engine["trt_fp16_enable"] == "1"
        assert "enable_cuda_graph" not in cuda  # only the first provider captures
        assert engine["trt_engine_cache_enable"] == engine["trt_timing_cache_enable"] == "1"
        engines, timings = Path(engine["trt_engine_cache_path"]), Path(engine["trt_timing_cache_path"])
        assert engines.is_dir()
        assert engines.parent == timings
        assert json.loads((timings / "machine.json").read_text())["onnxruntime"] == ort.__version__
    file = tmp_path / "model.onnx"
    file.write_bytes(b"model")
    assert list_providers("tensorrt", Tuning(), str(file))[0][1]["trt_engine_cache_path"] == str(engines)


def test_no_option_is_one_that_the_installed_provider_does_not_know():
    folder = Path(ort.__file__).parent / "capi"
    for device, provider in (("cuda", "cuda"), ("tensorrt", "tensorrt")):
        library = folder / f"libonnxruntime_providers_{provider}.so"
        if not library.exists():
            pytest.skip("this build has no CUDA providers")
        known = library.read_bytes()
        for option in list_providers(device, Tuning(), b"")[0][1]:
            assert option.encode() + b"\0" in known, option


def test_an_engine_is_never_taken_for_that_of_another_model_driver_or_gpu():
    folders = {engine_folders(GPU, b"model")[1]}
    for key, other in (("gpu", "B"), ("driver", "580.2"), ("tensorrt", 101400), ("onnxruntime", "1.32.0")):
        folders.add(engine_folders({**GPU, key: other}, b"model")[1])
    folders.add(engine_folders(GPU, b"other model")[1])
    assert len(folders) == 6
    assert engine_folders(dict(reversed(GPU.items())), b"model")[1] in folders  # the order of the facts does not matter
    assert engine_folders(GPU, b"a")[0] == engine_folders(GPU, b"b")[0]  # timings are shared between graphs


def test_a_cache_that_cannot_be_written_is_told_and_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "visuomotor").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert tuning_module.cache_engines(b"model") == {}
    assert "no engine cache" in caplog.text


def test_the_gpu_is_described_only_where_there_is_one():
    if find_obstacle("cuda"):
        assert describe_gpu() == {}
    else:
        assert set(describe_gpu()) == {"gpu", "capability", "cuda", "driver"}


def test_placement_counts_the_nodes_of_a_real_session():
    session = make_session(make_double(), "cpu")
    assert session.placement == {CPU: {"Add": 2}}
    assert session.placement_text == "CPUExecutionProvider (2 nodes)"
    policy = make_session(load_bundle("drive-policy"), "cpu")
    assert policy.placement[CPU]["Gemm"] == 4
    assert policy.placement_text.startswith("CPUExecutionProvider (")


def test_heavy_nodes_on_the_cpu_of_a_gpu_session_are_an_error_that_names_them():
    shapes_only = {CUDA: Counter(Conv=38, Add=4), CPU: Counter(Shape=3, Gather=2)}
    check_placement(shapes_only, "cuda")
    check_placement({CPU: Counter(Conv=38)}, "cpu")
    check_placement({}, "cuda")  # an ONNX Runtime that cannot say
    strayed = {CUDA: Counter(Add=4), CPU: Counter(Shape=3, LSTM=2, Conv=38)}
    with pytest.raises(DeviceError, match=r"device 'tensorrt' .* ONNX Runtime put 38 Conv, 2 LSTM on the CPU"):
        check_placement(strayed, "tensorrt")


def test_placement_text_begins_with_the_provider_that_was_asked_for():
    placement = {CPU: Counter(Shape=3), CUDA: Counter(Conv=38, Add=2)}
    assert describe_placement(placement, CUDA) == f"{CUDA} (40 nodes) + {CPU} (3 nodes)"
    assert describe_placement({}, CUDA) == CUDA
    assert merge_placements([placement, {CUDA: Counter(Conv=2)}]) == {CPU: {"Shape": 3}, CUDA: {"Conv": 40, "Add": 2}}
