"""An ONNX Runtime session on the device that was asked for, or none: no silent fall-back, the same bits every time."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime as ort

from visuomotor.deploy.runtime.binding import GRAPH_ID, NO_GRAPH, Binding, BindingError, resolve_shape
from visuomotor.deploy.runtime.bundle import META_FILE, Bundle, BundleError
from visuomotor.deploy.runtime.device import PROVIDERS, DeviceError, check_device, find_obstacle
from visuomotor.deploy.runtime.placement import check_placement, describe_placement, read_placement
from visuomotor.deploy.runtime.tuning import ORT_FATAL, Tuning, list_providers, make_options

LOG = logging.getLogger(__name__)
MOST_ROWS = 64  # of a free dimension: TensorRT builds its engines for 1 to this many at the start, not on the road
PROOF_TOLERANCE = 1e-3  # absolute and relative; both calls run the same kernels
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
Shape = tuple[int | str, ...]


class Session:
    """A loaded network: ``run`` takes and returns arrays by name.

    ``device`` is "cpu", "cuda" or "tensorrt", ``provider`` the execution provider that the session really took,
    ``placement`` how many nodes of which operator each provider got, ``placement_text`` the same for people, and
    ``reason`` says why ``auto`` chose the device (empty when it was named).
    """

    def __init__(self, session: ort.InferenceSession, device: str, reason: str, tuning: Tuning | None = None) -> None:
        self._session = session
        self.device = device
        self.reason = reason
        self.tuning = tuning or Tuning()
        self.provider: str = session.get_providers()[0]
        self.placement = read_placement(session)
        self.placement_text = describe_placement(self.placement, self.provider)
        inputs, outputs = session.get_inputs(), session.get_outputs()
        self.input_names: tuple[str, ...] = tuple(node.name for node in inputs)
        self.output_names: tuple[str, ...] = tuple(node.name for node in outputs)
        self.input_shapes: dict[str, Shape] = {n.name: tuple(n.shape) for n in inputs}
        self.input_dtypes: dict[str, str] = {n.name: DTYPES.get(n.type, n.type) for n in inputs}
        self._output_shapes: dict[str, Shape] = {n.name: tuple(n.shape) for n in outputs}
        self._dtypes = {n.name: DTYPES.get(n.type, n.type) for n in (*inputs, *outputs)}
        self._expected = {name: np.dtype(dtype) for name, dtype in self.input_dtypes.items() if dtype in np.sctypeDict}
        self._fetch = list(self.output_names)
        self._bindings: list[Binding] = []
        self._plain: ort.RunOptions | None = None
        if self.tuning.cuda_graph:
            self._plain = ort.RunOptions()
            self._plain.add_run_config_entry(GRAPH_ID, str(NO_GRAPH))

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name, the caller's own. On a GPU bound shapes (``bind``) go through their buffers.

        Raises ValueError that names the input when one is missing, unknown or of another dtype.
        """
        if inputs.keys() != self.input_shapes.keys():
            raise ValueError(f"inputs: expected {sorted(self.input_names)}, got {sorted(inputs)}")
        for name, array in inputs.items():
            if array.dtype != self._expected.get(name):
                raise ValueError(f"input {name}: expected dtype {self.input_dtypes[name]}, got {array.dtype.name}")
        for binding in self._bindings:
            if binding.takes(inputs):
                return binding.run(inputs)
        return self._run_plain(inputs)

    def _run_plain(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(self.output_names, self._session.run(self._fetch, dict(inputs), self._plain), strict=True))

    def bind(self, **dimensions: int) -> Binding:
        """Buffers at fixed addresses for one set of shapes; free dimensions are given by name (``bind(batch=4)``).

        On a GPU ``run`` takes them for these shapes from then on, and with ``Tuning.cuda_graph`` the graph is captured
        here. Raises BindingError when a dimension is missing, depends on the data, or when the bound calls do not
        compute what plain ones do on inputs that change.
        """
        binding = Binding(
            self._session,
            "cpu" if self.device == "cpu" else "cuda",
            {name: resolve_shape(name, shape, dimensions) for name, shape in self.input_shapes.items()},
            {name: resolve_shape(name, shape, dimensions) for name, shape in self._output_shapes.items()},
            self._dtypes,
            len(self._bindings) if self.tuning.cuda_graph else NO_GRAPH,
        )
        for inputs in self._vary(dimensions):
            _compare(binding.run(inputs), self._run_plain(inputs))
        if self.device != "cpu":
            self._bindings.append(binding)
        return binding

    def _vary(self, dimensions: Mapping[str, int]) -> Iterator[dict[str, np.ndarray]]:
        """Inputs that differ: images and numbers at random; flags are set and indices zero, which any graph takes."""
        rng = np.random.default_rng(0)
        for _ in range(3):  # a CUDA graph is captured in the first call and replayed in the others
            case = {}
            for name, free in self.input_shapes.items():
                shape, dtype = resolve_shape(name, free, dimensions), np.dtype(self.input_dtypes[name])
                if dtype.kind == "f":
                    case[name] = rng.normal(size=shape).astype(dtype)
                elif dtype == np.uint8:
                    case[name] = rng.integers(0, 256, shape, dtype)
                else:
                    case[name] = np.full(shape, dtype.kind == "b", dtype)
            yield case

    def warm_up(self, **dimensions: int) -> None:
        """Run once on zeros. Free dimensions take the value given by name, otherwise 1."""
        self._run_plain(
            {
                name: np.zeros(
                    [d if isinstance(d, int) else dimensions.get(d, 1) for d in shape], self.input_dtypes[name]
                )
                for name, shape in self.input_shapes.items()
            }
        )

    @property
    def free_dimensions(self) -> tuple[str, ...]:
        """Names of the dimensions of the inputs that are not fixed."""
        return tuple(dict.fromkeys(d for shape in self.input_shapes.values() for d in shape if isinstance(d, str)))

    @property
    def bindable(self) -> bool:
        """Whether the shapes of inputs and outputs follow from ``free_dimensions``, not from the data."""
        shapes = (*self.input_shapes.values(), *self._output_shapes.values())
        return all(isinstance(d, int) or d in self.free_dimensions for shape in shapes for d in shape)


def make_session(
    source: Bundle | Path | bytes, device: str = "auto", threads: int = 1, tuning: Tuning | None = None
) -> Session:
    """Session of a bundle, an ONNX file or a serialised graph, warmed up once.

    ``device``: "auto" takes CUDA where it works and the CPU otherwise, and logs which and why; any other is had or
    DeviceError is raised, also when heavy nodes went to the CPU. ``threads``: for one operator; with 1, results are
    the same bits every time. Raises TuningError when the device lacks what ``tuning`` asks for, BundleError when the
    graph's inputs or outputs are not those that ``bundle.json`` declares.
    """
    check_device(device)
    tuning = tuning or Tuning()
    tuning.check(device)
    if device != "auto":
        return _start(source, device, threads, tuning, "")
    obstacle = find_obstacle("cuda")
    session = None
    if not obstacle:
        try:
            session = _start(source, "cuda", threads, tuning, "auto: a CUDA device answers")
        except DeviceError as error:
            obstacle = str(error)
    if session is None:
        tuning = msgspec.structs.replace(tuning, cuda_graph=False)
        session = _start(source, "cpu", threads, tuning, f"auto: {obstacle}")
    LOG.info("%s on %s (%s)", source.name if isinstance(source, Bundle) else "model", session.device, session.reason)
    return session


def _start(source: Bundle | Path | bytes, device: str, threads: int, tuning: Tuning, reason: str) -> Session:
    """A network with free dimensions may go without the CUDA graph that the profile wants for the others."""
    try:
        return _warm(_open(source, device, threads, tuning, reason), source)
    except DeviceError as error:
        if not tuning.cuda_graph:
            raise
        without = msgspec.structs.replace(tuning, cuda_graph=False)
        session = _warm(_open(source, device, threads, without, reason), source)
        if not session.free_dimensions:
            raise
        LOG.warning("%s: no CUDA graph: %s", source.name if isinstance(source, Bundle) else "model", error)
        return session


def _warm(session: Session, source: Bundle | Path | bytes) -> Session:
    if isinstance(source, Bundle):
        _check_signature(source, session)
    if session.device == "cpu":
        session.warm_up()
        return session
    try:
        if session.device == "tensorrt" and session.free_dimensions:
            session.warm_up(**dict.fromkeys(session.free_dimensions, MOST_ROWS))
        session.warm_up()
        if session.bindable:
            session.bind(**dict.fromkeys(session.free_dimensions, 1))
    except Exception as error:  # ONNX Runtime's own exceptions share no public base
        raise DeviceError(f"device '{session.device}' is not to be had: first run: {_first_line(error)}") from error
    return session


def _open(source: Bundle | Path | bytes, device: str, threads: int, tuning: Tuning, reason: str) -> Session:
    model: Any = str(source.model_path) if isinstance(source, Bundle) else source
    model = str(model) if isinstance(model, Path) else model
    ort.set_default_logger_severity(ORT_FATAL)
    if device != "cpu":
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find; the check below decides
            ort.preload_dlls(directory="")
    try:
        providers = list_providers(device, tuning, model)
        session = ort.InferenceSession(model, make_options(threads, tuning), providers=providers, enable_fallback=0)
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
    opened = Session(session, device, reason, tuning)
    check_placement(opened.placement, device)
    return opened


def _compare(bound: Mapping[str, np.ndarray], plain: Mapping[str, np.ndarray]) -> None:
    for name, value in plain.items():
        if not np.allclose(bound[name], value, PROOF_TOLERANCE, PROOF_TOLERANCE, equal_nan=True):
            raise BindingError(f"{name}: a bound call computes something else than a plain one on the same inputs")


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
