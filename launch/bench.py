"""``visuomotor bench``: one bundle under every way to run it, in one run, and what each costs to start.

Ways live in worker processes (ONNX Runtime with and without the wrapper in one, OpenCV and torch in one each) and take
turns in short rounds, so that whatever else the machine does meets all of them. The first call and the memory are those
of a fresh process per way.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

import msgspec
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from visuomotor.deploy.runtime.bench_worker import (
    BARE,
    BOUND,
    GRAPH,
    OPENCV,
    OURS,
    SPINNING,
    Job,
    Ready,
    Request,
    Started,
)
from visuomotor.deploy.runtime.bundle import Bundle, BundleError, load_bundle
from visuomotor.deploy.runtime.device import check_device, find_obstacle
from visuomotor.deploy.runtime.tuning import Tuning
from visuomotor.launch.evaluate.score import percentiles, provenance

RUNTIME_WORKER = "visuomotor.deploy.runtime.bench_worker"
TORCH_WORKER = "visuomotor.deploy.export.torch_worker"
TORCH_BEST, TORCH_EAGER, TORCH_BFLOAT16 = "torch best", "torch eager", "torch bfloat16"
OWN_ERROR = re.compile(r"^visuomotor(\.\w+)+: ")  # a class of ours, before its message, which says all
ROUND = 10  # calls of a way before it is the next one's turn
SAME_WITHIN = 1e-2  # of an output, in its unit (pixels, metres): rounding of another order of sums
LIKELY_ROWS = {"detector": 1, "forecaster": 8, "policy": 1}  # of a free dimension: agents in view, cars driven


class WorkerError(RuntimeError):
    """A worker that ended before it answered, with its last words."""


class Worker:
    """A process of ``bench_worker``'s protocol."""

    def __init__(self, module: str, job: Job) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        threads = {f"{name}_NUM_THREADS": str(job.threads) for name in ("OMP", "OPENBLAS", "MKL")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, msgspec.json.encode(job).decode()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **threads},
        )
        try:
            self.ready = msgspec.json.decode(self._read(), type=Ready)
        except BaseException:
            self.close()
            raise

    def ask(self, request: Request) -> Any:
        """The answer to one request."""
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(request) + b"\n")
        self._process.stdin.flush()
        return msgspec.json.decode(self._read())

    def _read(self) -> bytes:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            words = self._errors.read().decode(errors="replace").strip().splitlines()
            raise WorkerError(
                OWN_ERROR.sub("", words[-1])[:240] if words else f"ended with code {self._process.returncode}"
            )
        return line

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Row(msgspec.Struct, kw_only=True):
    """One way: cost of its start in a fresh process, and its calls; or why there are none."""

    way: str
    started: Started
    latency_ms: dict[str, float] = {}
    differs: float | None = None  # largest difference of an output from bare ONNX Runtime's


class Result(msgspec.Struct, kw_only=True):
    """What ``--json`` writes."""

    bundle: str
    kind: str
    device: str
    threads: int
    rows: int
    calls: int
    ways: list[Row]
    torch_tried: dict[str, float | str]
    placement: dict[str, dict[str, int]]
    ratios: dict[str, float]
    provenance: dict[str, Any]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured. ``rows`` 0: the usual number of agents or cars of this kind of bundle."""

    device: str = "auto"
    threads: int = 1
    calls: int = 200
    rows: int = 0
    fp16: bool = False
    compile: bool = True
    torch: bool = True


def run_bench(name: str, settings: Settings, *, quiet: bool = False) -> Result:
    """Measure one bundle. Raises BundleError or DeviceError where it does not run as asked."""
    check_device(settings.device)
    device = settings.device
    if device == "auto":
        device = "cpu" if find_obstacle("cuda") else "cuda"
    Tuning(fp16=settings.fp16).check(device)
    bundle = load_bundle(name)
    job = Job(
        bundle=str(bundle.path),
        device=device,
        threads=settings.threads,
        rows=settings.rows or LIKELY_ROWS[bundle.meta.kind],
        ways=(),
        fp16=settings.fp16,
        compile=settings.compile,
    )
    rows: dict[str, Row] = {}
    tried: dict[str, float | str] = {}
    workers: dict[str, Worker] = {}  # way -> who runs it
    opened: list[Worker] = []
    try:
        for module, ways in _list_workers(job):
            if module == TORCH_WORKER and not settings.torch:
                continue
            if module == TORCH_WORKER and importlib.util.find_spec("torch") is None:
                rows[TORCH_BEST] = Row(way=TORCH_BEST, started=Started(error="not installed: visuomotor[train]"))
                continue
            try:
                worker = Worker(module, msgspec.structs.replace(job, ways=ways))
            except WorkerError as error:
                for way in ways:
                    rows[way] = Row(way=way, started=Started(error=str(error)))
                continue
            opened.append(worker)
            tried |= worker.ready.tried
            for way, started in worker.ready.ways.items():
                rows[way] = Row(way=way, started=started)
                if not started.error:
                    workers[way] = worker
        if rows[OURS].started.error:
            reason = rows[OURS].started.error
            raise BundleError(reason if reason.startswith(str(bundle.path)) else f"{bundle.path}: {reason}")
        _take_turns(workers, rows, settings.calls, quiet)
        _compare_outputs(workers, rows)
    finally:
        for worker in opened:
            worker.close()
    for way in workers:
        rows[way].started = _start_cold(job, way, rows[way].started)
    return _conclude(bundle, job, settings, rows, tried)


def _list_workers(job: Job) -> list[tuple[str, tuple[str, ...]]]:
    """Module and ways of each worker."""
    torch = [(TORCH_WORKER, (TORCH_BEST, TORCH_EAGER))]
    if job.device != "cpu":
        return [(RUNTIME_WORKER, (OURS, BARE, GRAPH)), *torch]
    spinning = (SPINNING,) if job.threads > 1 else ()
    return [(RUNTIME_WORKER, (OURS, BARE, *spinning, BOUND)), (RUNTIME_WORKER, (OPENCV,)), *torch]


def _take_turns(workers: Mapping[str, Worker], rows: Mapping[str, Row], calls: int, quiet: bool) -> None:
    times: dict[str, list[float]] = {way: [] for way in workers}
    ways = list(workers)
    rounds: Iterable[int] = range(0, calls, ROUND)
    for done in rounds if quiet else track(list(rounds), "calls", console=Console(stderr=True), transient=True):
        ways = [*ways[1:], ways[0]]  # nobody always follows the same neighbour
        for way in ways:
            times[way] += workers[way].ask(Request(way=way, calls=min(ROUND, calls - done)))
    for way, values in times.items():
        rows[way].latency_ms = percentiles(values)


def _compare_outputs(workers: Mapping[str, Worker], rows: Mapping[str, Row]) -> None:
    if BARE not in workers:
        return
    reference = workers[BARE].ask(Request(way=BARE))
    for way, worker in workers.items():
        outputs = worker.ask(Request(way=way))
        worst = 0.0
        for name, values in reference.items():
            expected, found = np.array(values, float), np.array(outputs[name], float)
            if expected.size != found.size:
                worst = float("inf")
            elif expected.size:
                difference = np.abs(np.ravel(expected) - np.ravel(found))
                worst = max(worst, float(np.nan_to_num(difference, nan=np.inf).max()))
        rows[way].differs = worst


def _start_cold(job: Job, way: str, warm: Started) -> Started:
    """A fresh process with this way alone."""
    module = TORCH_WORKER if way.startswith("torch") else RUNTIME_WORKER
    try:
        with Worker(module, msgspec.structs.replace(job, ways=(way,), setting=warm.settings)) as worker:
            return worker.ready.ways[way]
    except WorkerError as error:
        return Started(error=f"in a fresh process: {error}")


def _conclude(
    bundle: Bundle, job: Job, settings: Settings, rows: Mapping[str, Row], tried: dict[str, float | str]
) -> Result:
    p50 = {way: row.latency_ms["p50"] for way, row in rows.items() if row.latency_ms}
    pairs = {
        "visuomotor / onnxruntime": (OURS, BARE),
        "torch best / visuomotor": (TORCH_BEST, OURS),
        "torch best / onnxruntime spinning": (TORCH_BEST, SPINNING),
        "torch eager / visuomotor": (TORCH_EAGER, OURS),
        "torch bfloat16 / visuomotor": (TORCH_BFLOAT16, OURS),
        "opencv dnn / visuomotor": (OPENCV, OURS),
    }
    return Result(
        bundle=bundle.name,
        kind=bundle.meta.kind,
        device=job.device,
        threads=job.threads,
        rows=job.rows,
        calls=settings.calls,
        ways=list(rows.values()),
        torch_tried=tried,
        placement=rows[OURS].started.placement,
        ratios={name: round(p50[a] / p50[b], 3) for name, (a, b) in pairs.items() if a in p50 and b in p50},
        provenance=provenance({bundle.name: bundle.digest}),
    )


def print_bench(result: Result, console: Console | None = None) -> None:
    """The table, the ratios, and which provider took which nodes."""
    console = console or Console()
    count = f", {result.rows} rows" if result.kind != "detector" else ""
    table = Table(
        title=f"{result.kind} {result.bundle} on {result.device}, {result.threads} thread(s){count}, "
        f"{result.calls} calls each, ms"
    )
    table.add_column("way", no_wrap=True)
    columns = ["load", "first", "p50", "p95", "p99", "max", "peak MB", *(["GPU MB"] if result.device != "cpu" else [])]
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for row in result.ways:
        started, latency = row.started, row.latency_ms
        if not latency:
            table.add_row(row.way, *["-"] * len(columns))
            continue
        cells = [f"{started.load_ms:.0f}", f"{started.first_ms:.1f}"]
        cells += [f"{latency[key]:.{3 if latency[key] < 1.0 else 1}f}" for key in ("p50", "p95", "p99", "max")]
        cells += [f"{started.peak_mb:.0f}", f"{started.gpu_mb:.0f}"]
        table.add_row(row.way, *cells[: len(columns)])
    console.print(table)
    for row in result.ways:
        text = row.started.error or row.started.settings
        if row.differs is not None and row.differs > SAME_WITHIN:
            text += f"; computes something else: outputs differ by up to {row.differs:.2g}"
        console.print(f"{row.way}: {text}", highlight=False)
    for name, ratio in result.ratios.items():
        console.print(f"{name}: {ratio:.3f} x (p50)", highlight=False)
    for provider, nodes in result.placement.items():
        most = ", ".join(f"{n} {op}" for op, n in sorted(nodes.items(), key=lambda item: -item[1])[:6])
        console.print(f"{provider} took {sum(nodes.values())} nodes: {most}, ...", highlight=False)
    if result.torch_tried:
        parts = [f"{s} {v:.2f} ms" if isinstance(v, float) else f"{s}: {v}" for s, v in result.torch_tried.items()]
        console.print(f"torch settings tried: {'; '.join(parts)}", highlight=False)
