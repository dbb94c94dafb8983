"""An ONNX Runtime session on the device that was asked for, or none: no silent fall-back, the same bits every time."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from visuomotor.deploy.runtime.bundle import META_FILE, Bundle, BundleError
from visuomotor.deploy.runtime.device import PROVIDERS, DeviceError, check_device, find_obstacle

LOG = logging.getLogger(__name__)
ORT_FATAL = 4  # ONNX Runtime reports a provider that fails to load on its log and then goes on; we look and raise
DTYPES: dict[str, str] = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}


class Session:
    """A loaded network: ``run`` takes and returns arrays by name.

    ``device`` is "cpu", "cuda" or "tensorrt", ``provider`` the execution provider that the session really took, and
    ``reason`` says why ``auto`` chose it (empty when the device was named).
    """

    def __init__(self, session: ort.InferenceSession, device: str, reason: str) -> None:
        self._session = session
        self.device = device
        self.reason = reason
        self.provider: str = session.get_providers()[0]
        self.input_names: tuple[str, ...] = tuple(node.name for node in session.get_inputs())
        self.output_names: tuple[str, ...] = tuple(node.name for node in session.get_outputs())
        self.input_shapes: dict[str, tuple[int | str, ...]] = {n.name: tuple(n.shape) for n in session.get_inputs()}
        self.input_dtypes: dict[str, str] = {n.name: DTYPES.get(n.type, n.type) for n in session.get_inputs()}

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name. Raises ValueError that names the input when one is missing, unknown or of another dtype."""
        if inputs.keys() != self.input_shapes.keys():
            raise ValueError(f"inputs: expected {sorted(self.input_names)}, got {sorted(inputs)}")
        for name, array in inputs.items():
            if array.dtype.name != self.input_dtypes[name]:
                raise ValueError(f"input {name}: expected dtype {self.input_dtypes[name]}, got {array.dtype.name}")
        return dict(zip(self.output_names, self._session.run(None, dict(inputs)), strict=True))

    def warm_up(self, **dimensions: int) -> None:
        """Run once on zeros. Free dimensions take the value given by name, otherwise 1."""
        self.run(
            {
                name: np.zeros(
                    [d if isinstance(d, int) else dimensions.get(d, 1) for d in shape], self.input_dtypes[name]
                )
                for name, shape in self.input_shapes.items()
            }
        )


def make_session(source: Bundle | Path | bytes, device: str = "auto", threads: int = 1) -> Session:
    """Session of a bundle, an ONNX file or a serialised graph, warmed up once.

    ``device``: "auto" takes CUDA where it works and the CPU otherwise, and logs which and why; any other is had or
    DeviceError is raised. ``threads``: for one operator; with 1, results are the same bits every time. Raises
    BundleError when the graph's inputs or outputs are not those that ``bundle.json`` declares.
    """
    check_device(device)
    if device != "auto":
        session = _open(source, device, threads, "")
    else:
        obstacle = find_obstacle("cuda")
        if not obstacle:
            try:
                session = _open(source, "cuda", threads, "auto: a CUDA device answers")
            except DeviceError as error:
                obstacle = str(error)
        if obstacle:
            session = _open(source, "cpu", threads, f"auto: {obstacle}")
        LOG.info(
            "%s on %s (%s)", source.name if isinstance(source, Bundle) else "model", session.device, session.reason
        )
    if isinstance(source, Bundle):
        _check_signature(source, session)
    session.warm_up()
    return session


def _open(source: Bundle | Path | bytes, device: str, threads: int, reason: str) -> Session:
    model: Any = str(source.model_path) if isinstance(source, Bundle) else source
    model = str(model) if isinstance(model, Path) else model
    ort.set_default_logger_severity(ORT_FATAL)
    if device != "cpu":
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find; the check below decides
            ort.preload_dlls(directory="")
    try:
        session = ort.InferenceSession(model, _make_options(threads), providers=_list_providers(device))
    except Exception as error:  # ONNX Runtime's own exceptions share no public base
        what = source.model_path if isinstance(source, Bundle) else "model"
        if device != "cpu":
            raise DeviceError(f"device '{device}' is not to be had: {_first_line(error)}") from error
        raise BundleError(f"{what}: ONNX Runtime does not load it: {_first_line(error)}") from error
    taken = session.get_providers()[0]
    if taken != PROVIDERS[device]:
        raise DeviceError(
            f"device '{device}' is not to be had: ONNX Runtime took {taken} in place of {PROVIDERS[device]}; "
            "CUDA and cuDNN come with pip install 'onnxruntime-gpu[cuda,cudnn]'"
        )
    session.disable_fallback()
    return Session(session, device, reason)


def _make_options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.use_deterministic_compute = True
    options.log_severity_level = ORT_FATAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


def _list_providers(device: str) -> Sequence[str | tuple[str, dict[str, str]]]:
    # Inside a GPU session ONNX Runtime keeps the arithmetic on shapes on the CPU by design, so the CPU provider stays
    # in the list; that the GPU's provider was taken is checked after the session is made.
    cuda = (PROVIDERS["cuda"], {"cudnn_conv_algo_search": "DEFAULT", "use_tf32": "0"})
    if device == "cuda":
        return [cuda, PROVIDERS["cpu"]]
    if device == "tensorrt":
        cache = Path.home() / ".cache" / "visuomotor" / "tensorrt"
        cache.mkdir(parents=True, exist_ok=True)
        options = {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(cache)}
        return [(PROVIDERS["tensorrt"], options), cuda, PROVIDERS["cpu"]]
    return [PROVIDERS["cpu"]]


def _check_signature(bundle: Bundle, session: Session) -> None:
    file = bundle.path / META_FILE
    for key, specs, names in (
        ("inputs", bundle.meta.inputs, session.input_names),
        ("outputs", bundle.meta.outputs, session.output_names),
    ):
        declared = tuple(spec.name for spec in specs)
        if set(declared) != set(names):
            raise BundleError(f"{file}: {key}: expected the graph's {sorted(names)}, got {sorted(declared)}")
    for spec in bundle.meta.inputs:
        dtype = session.input_dtypes[spec.name]
        if spec.dtype != dtype:
            raise BundleError(f"{file}: inputs.{spec.name}.dtype: expected the graph's {dtype}, got {spec.dtype}")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
