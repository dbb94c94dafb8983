"""One process of ``visuomotor bench``: makes ways to run a bundle, says what that cost, then times calls on request.

A worker writes one JSON line when it is ready (``Ready``) and then one per request: ``{"way", "calls"}`` is answered
with the milliseconds of each call, ``{"way"}`` alone with its outputs. This file's own ways are ONNX Runtime, with this
package's wrapper and without, and OpenCV; torch's are in ``deploy.export.torch_worker``.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime as ort

from visuomotor.deploy.runtime.bundle import META_FILE, Bundle, BundleError, TensorSpec, load_bundle
from visuomotor.deploy.runtime.device import PROVIDERS
from visuomotor.deploy.runtime.pinned import read_gpu_memory
from visuomotor.deploy.runtime.session import make_session
from visuomotor.deploy.runtime.tuning import Tuning, list_providers, make_options

Arrays = dict[str, np.ndarray]
Call = Callable[[], Arrays]
SETTLE = 2  # calls before those that count: caches are the others' when a worker's turn comes
OURS, BARE, BOUND, SPINNING, GRAPH, OPENCV = (
    *("visuomotor", "onnxruntime", "visuomotor bound", "onnxruntime spinning", "visuomotor cuda graph"),
    "opencv dnn",
)


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker shall do. ``rows`` is the size of free dimensions."""

    bundle: str
    device: str
    threads: int
    rows: int
    ways: tuple[str, ...]
    fp16: bool = False
    compile: bool = True  # torch.compile may take a minute
    setting: str = ""  # of torch, where only one way is made


class Started(msgspec.Struct, kw_only=True):
    """What it cost to get a way going; ``error`` in place of everything where it cannot be done."""

    error: str = ""
    settings: str = ""
    load_ms: float = 0.0
    first_ms: float = 0.0
    peak_mb: float = 0.0  # resident memory of the process, libraries and interpreter included
    gpu_mb: float = 0.0  # in use on the GPU since before the way was loaded
    placement: dict[str, dict[str, int]] = {}


class Ready(msgspec.Struct, kw_only=True):
    """A worker's first line. ``tried``: settings that were compared to find the best, with their median, ms."""

    ways: dict[str, Started]
    tried: dict[str, float | str] = {}


class Request(msgspec.Struct, kw_only=True):
    """``calls`` timed calls of a way, or, with 0, its outputs."""

    way: str
    calls: int = 0


def make_inputs(specs: tuple[TensorSpec, ...], rows: int, seed: int = 0) -> Arrays:
    """Random inputs within the ranges that a bundle declares; flags are set, integers without a range are 0."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for spec in specs:
        shape = [size if isinstance(size, int) else rows for size in spec.shape]
        dtype = np.dtype(spec.dtype)
        values: np.ndarray
        if dtype.kind == "f":
            if spec.low is not None and spec.high is not None:
                values = rng.uniform(spec.low, spec.high, shape)
            else:
                values = rng.normal(size=shape)
        elif dtype.kind in "iu":
            low, high = int(spec.low or 0), int(spec.high or 0)
            values = rng.integers(low, max(low, high), shape, endpoint=True)
        else:
            values = np.ones(shape)
        arrays[spec.name] = values.astype(dtype)
    return arrays


def start(make: Callable[[], tuple[Call, str, Mapping[str, Mapping[str, int]]]]) -> tuple[Call | None, Started]:
    """Load a way and run it once; an error becomes the row's text."""
    gpu_before, began = read_gpu_memory(), time.perf_counter()
    try:
        call, settings, placement = make()
        loaded = time.perf_counter()
        call()
    except Exception as error:  # whatever a foreign library says against the graph belongs into the table
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        kind = "" if isinstance(error, BundleError) else f"{type(error).__name__}: "
        return None, Started(error=f"{kind}{' '.join(lines)[:240]}")
    first_ms = 1e3 * (time.perf_counter() - loaded)
    for _ in range(SETTLE):
        call()
    return call, Started(
        settings=settings,
        load_ms=1e3 * (loaded - began),
        first_ms=first_ms,
        peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        gpu_mb=max(0, read_gpu_memory() - gpu_before) / 2**20,
        placement={provider: dict(nodes) for provider, nodes in placement.items()},
    )


def serve(calls: Mapping[str, Call], ready: Ready, out: int) -> None:
    """Answer requests until standard input ends."""

    def answer(data: object) -> None:
        with open(out, "wb", closefd=False) as stream:
            stream.write(msgspec.json.encode(data) + b"\n")

    answer(ready)
    for line in sys.stdin.buffer:
        request = msgspec.json.decode(line, type=Request)
        call = calls[request.way]
        if not request.calls:
            answer({name: value.tolist() for name, value in call().items()})
            continue
        for _ in range(SETTLE):
            call()
        times_ms = []
        for _ in range(request.calls):
            began = time.perf_counter()
            call()
            times_ms.append(1e3 * (time.perf_counter() - began))
        answer(times_ms)


def take_output() -> int:
    """A file descriptor of standard output; what libraries print goes to standard error from then on."""
    out = os.dup(1)
    os.dup2(2, 1)
    return out


def run_bare(
    job: Job, bundle: Bundle, inputs: Arrays, *, spinning: bool
) -> tuple[Call, str, dict[str, dict[str, int]]]:
    """ONNX Runtime as its documentation shows it, with the options that the wrapper sets."""
    tuning = Tuning(spinning=spinning, fp16=job.fp16)
    model = str(bundle.model_path)
    options = make_options(job.threads, tuning)
    session = ort.InferenceSession(model, options, providers=list_providers(job.device, tuning, model))
    if (taken := session.get_providers()[0]) != PROVIDERS[job.device]:
        raise RuntimeError(f"took {taken} in place of {PROVIDERS[job.device]}")
    names = [output.name for output in session.get_outputs()]
    text = f"{job.threads} thread(s), {'spinning' if spinning else 'no spinning'}"
    return lambda: dict(zip(names, session.run(None, inputs), strict=True)), text, {}


def run_ours(job: Job, bundle: Bundle, inputs: Arrays, way: str) -> tuple[Call, str, Mapping[str, Mapping[str, int]]]:
    """This package's session: as nodes use it, with bound buffers, or with a CUDA graph."""
    tuning = Tuning(cuda_graph=way == GRAPH, fp16=job.fp16)
    session = make_session(bundle, job.device, job.threads, tuning)
    if session.tuning != tuning:
        raise RuntimeError("no CUDA graph of this network: ONNX Runtime does not capture it")
    if way == OURS and job.device == "cpu":
        return lambda: session.run(inputs), f"{job.threads} thread(s), no spinning", session.placement
    binding = session.bind(**dict.fromkeys(session.free_dimensions, job.rows))
    text = "bound buffers"
    if job.device != "cpu":
        text += ", host memory pinned" if binding.pinned else ", host memory not pinned"
    return lambda: binding.run(inputs), text, session.placement


def run_opencv(job: Job, bundle: Bundle, inputs: Arrays) -> tuple[Call, str, dict[str, dict[str, int]]]:
    """OpenCV's own inference of the same file."""
    import cv2

    cv2.setNumThreads(job.threads)
    net = cv2.dnn.readNetFromONNX(str(bundle.model_path))
    names = [spec.name for spec in bundle.meta.outputs]

    def call() -> Arrays:
        for name, array in inputs.items():
            net.setInput(array, name)
        return dict(zip(names, net.forward(names), strict=True))

    return call, f"OpenCV {cv2.__version__}, {cv2.getNumThreads()} thread(s)", {}


def main() -> None:
    """Worker process; its only argument is the job as JSON."""
    out = take_output()
    job = msgspec.json.decode(sys.argv[1], type=Job)
    bundle = load_bundle(Path(job.bundle))
    if job.device != "cpu":
        ort.preload_dlls(directory="")  # CUDA's runtime tells the memory in use, before a way is loaded too
    try:
        inputs = make_inputs(bundle.meta.inputs, job.rows)
    except (TypeError, ValueError) as error:
        sys.exit(f"{bundle.path / META_FILE}: inputs: expected numbers' types, sizes and ranges ({error})")
    calls: dict[str, Call] = {}
    ready = Ready(ways={})
    for way in job.ways:
        if way == OPENCV:
            call, ready.ways[way] = start(partial(run_opencv, job, bundle, inputs))
        elif way in (BARE, SPINNING):
            call, ready.ways[way] = start(partial(run_bare, job, bundle, inputs, spinning=way == SPINNING))
        else:
            call, ready.ways[way] = start(partial(run_ours, job, bundle, inputs, way))
        if call is not None:
            calls[way] = call
    serve(calls, ready, out)


if __name__ == "__main__":
    main()
