"""How a session computes on the device it was given: threads and their idling, graphs, precision, engine cache."""

from __future__ import annotations

import ctypes
import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import onnxruntime as ort

from visuomotor.deploy.runtime.device import PROVIDERS, TENSORRT_LIBRARY, describe_gpu

LOG = logging.getLogger(__name__)
ORT_FATAL = 4  # ONNX Runtime reports a provider that fails to load on its log and then goes on; we look and raise
RECORD_PLACEMENT = "session.record_ep_graph_assignment_info"


class TuningError(ValueError):
    """A setting that the chosen device does not have."""


class Tuning(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a profile says under ``runtime``; the defaults are right for several nodes on a few cores.

    ``spinning`` keeps idle threads of a session busy for a while, so that they are faster at the next operator: it pays
    with ``threads`` > 1 and cores to spare. ``cuda_graph`` captures the graph at warm-up and replays it as one launch.
    ``fp16`` lets TensorRT compute in half precision. ``at_once`` looks at all cameras at the same time, each with a
    session and a thread of its own: for a GPU, or cores to spare.
    """

    spinning: bool = False
    cuda_graph: bool = False
    fp16: bool = False
    at_once: bool = False

    def check(self, device: str) -> None:
        """Raise TuningError when ``device`` cannot do it. "auto" may find a GPU, but never takes TensorRT."""
        if self.cuda_graph and device == "cpu":
            raise TuningError("runtime.cuda_graph: expected device cuda or tensorrt, got 'cpu'")
        if self.fp16 and device != "tensorrt":
            raise TuningError(f"runtime.fp16: expected device tensorrt, got '{device}'")


def read_tuning(settings: Mapping[str, Any] | None) -> Tuning:
    """Tuning from a node's configuration. Raises TuningError that names the key."""
    try:
        return msgspec.convert(dict(settings or {}), Tuning)
    except msgspec.ValidationError as error:
        raise TuningError(f"runtime: {error}") from error


def make_options(threads: int, tuning: Tuning) -> ort.SessionOptions:
    """Session options: sequential, deterministic, silent; placement of the nodes is recorded."""
    spin = str(int(tuning.spinning))
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.use_deterministic_compute = True
    options.log_severity_level = ORT_FATAL
    options.add_session_config_entry("session.intra_op.allow_spinning", spin)
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.add_session_config_entry(RECORD_PLACEMENT, "1")
    return options


def list_providers(device: str, tuning: Tuning, model: str | bytes) -> Sequence[str | tuple[str, dict[str, str]]]:
    """Providers in order of preference, with their options. ``model``: ONNX file or serialised graph.

    Inside a GPU session ONNX Runtime keeps the arithmetic on shapes on the CPU by design, so the CPU provider stays in
    the list; what each took is checked after the session is made.
    """
    graph = str(int(tuning.cuda_graph))
    cuda = {"cudnn_conv_algo_search": "DEFAULT", "use_tf32": "0"}
    if device == "cuda":
        return [(PROVIDERS["cuda"], {**cuda, "enable_cuda_graph": graph}), PROVIDERS["cpu"]]
    if device == "tensorrt":
        engine = {"trt_fp16_enable": str(int(tuning.fp16)), "trt_cuda_graph_enable": graph}
        data = Path(model).read_bytes() if isinstance(model, str) else model
        engine |= cache_engines(data)
        return [(PROVIDERS["tensorrt"], engine), (PROVIDERS["cuda"], cuda), PROVIDERS["cpu"]]
    return [PROVIDERS["cpu"]]


def cache_engines(model: bytes) -> dict[str, str]:
    """TensorRT's options for keeping what it builds, empty where nothing can be written.

    An engine is valid for one graph, on one GPU, under one version of driver, TensorRT and ONNX Runtime: each such
    combination has a folder of its own, so that none is ever taken for another. Timings of single operators hold for
    all graphs on the same machine and versions. Both can be deleted at any time.
    """
    machine = {"onnxruntime": ort.__version__, "tensorrt": _tensorrt_version(), **describe_gpu()}
    timings, engines = engine_folders(machine, model)
    try:
        for folder in (timings, engines):
            folder.mkdir(parents=True, exist_ok=True)
        (timings / "machine.json").write_text(json.dumps(machine, indent=1) + "\n")
    except OSError as error:
        LOG.warning("no engine cache: %s: %s; TensorRT builds anew at every start", engines, error.strerror)
        return {}
    return {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(engines),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(timings),
    }


def engine_folders(machine: dict[str, Any], model: bytes) -> tuple[Path, Path]:
    """Folder of the timings of a machine (GPU and versions), and in it that of the engines of one graph."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "visuomotor" / "tensorrt"
    timings = base / hashlib.sha256(json.dumps(machine, sort_keys=True).encode()).hexdigest()[:16]
    return timings, timings / hashlib.sha256(model).hexdigest()[:16]


def _tensorrt_version() -> int:
    try:
        return int(ctypes.CDLL(TENSORRT_LIBRARY).getInferLibVersion())
    except (OSError, AttributeError):
        return 0
