"""Hostile inputs to everything that reads bytes or files of others: each is accepted, or refused in its module's words.

    python benchmarks/fuzz.py [--inputs 1000000] [--seed 0] [--target NAME ...] [--json benchmarks/results/fuzz.json]
    python benchmarks/fuzz.py --target wire --seed 0 --only 1234        # one input again, in this process

Each target runs in a process of its own, with a limit on its memory; this one watches the time that an input takes.
What goes wrong (another exception, a crash, a hang, memory) is saved under runs/fuzz with its seed and number. Exit
code 1 when anything did. With ``--json`` the rows of targets that were not run stay in the file.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import inspect
import json
import mmap
import resource
import subprocess
import sys
import tempfile
import time
import traceback
import zlib
from collections import Counter
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import psutil
from fuzz_bus import Rendezvous, Sockets, Wire, normalise
from fuzz_files import FILE_TARGETS
from fuzz_record import RECORD_TARGETS

from visuomotor.launch.evaluate.score import machine

INPUT_CPU_S = 5.0  # of one input; more is a hang
INPUT_WALL_S = 60.0  # the same for one that waits
MESSAGES_MAX = 2000
FAILURES_MAX = 20  # saved of one target
COVERAGE_INPUTS = 1500
MEGABYTE = 1 << 20


class Target(Protocol):
    """One reader with a source of inputs for it; ``share`` is its part in a million and some inputs."""

    name: str
    share: int
    refusals: tuple[type[Exception], ...]
    memory_mb: int  # what it may take beyond what it has when its corpus is made
    readers: tuple[Any, ...]  # functions whose lines count for the coverage

    def make(self, rng: np.random.Generator) -> bytes: ...
    def read(self, data: bytes) -> bool: ...
    def is_past_header(self, message: str) -> bool: ...
    def close(self) -> None: ...


TARGETS: dict[str, Any] = {kind.name: kind for kind in (Wire, Sockets, Rendezvous, *FILE_TARGETS, *RECORD_TARGETS)}


ERRORS_CHARS_MAX = 20_000  # kept of what a target printed


def rng_of(name: str, seed: int, number: int) -> np.random.Generator:
    """The random stream of one input; number -1 is that of the corpus."""
    return np.random.default_rng([seed, zlib.crc32(name.encode()), number + 1])


def save(folder: Path, name: str, seed: int, number: int, data: bytes, why: str) -> str:
    """Keep an input that went wrong, and say where."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{seed}-{number}.bin"
    path.write_bytes(data)
    path.with_suffix(".txt").write_text(why)
    return str(path)


def run_inputs(target: Target, seed: int, first: int, last: int, folder: Path, at: mmap.mmap | None) -> dict[str, Any]:
    """Inputs ``first`` to ``last`` in this process; writes the number of the one in work to ``at``."""
    accepted, past_header, failed, slowest = 0, 0, 0, (0.0, -1)
    messages: Counter[str] = Counter()
    failures: list[dict[str, str]] = []
    for number in range(first, last):
        data = target.make(rng_of(target.name, seed, number))
        if at is not None:
            at[:8] = number.to_bytes(8, "little")
        started = time.process_time()
        try:
            if target.read(data):
                accepted += 1
            past_header += 1
        except target.refusals as error:
            text = str(error)
            past_header += target.is_past_header(text)
            if len(messages) < MESSAGES_MAX:
                messages[normalise(text)] += 1
        except Exception as error:
            failed += 1
            if len(failures) < FAILURES_MAX:
                path = save(folder, target.name, seed, number, data, traceback.format_exc())
                failures.append({"what": f"{type(error).__name__}: {error}"[:200], "input": path})
        slowest = max(slowest, (time.process_time() - started, number))
    return {
        "inputs": last - first,
        "accepted": accepted,
        "refused": last - first - accepted - failed,
        "past_header": past_header,
        "messages": len(messages - Counter({"": messages[""]})),
        "most_common": [text for text, _ in messages.most_common(12) if text],
        "slowest_ms": round(1e3 * slowest[0], 1),
        "slowest_input": slowest[1],
        "failures": failures,
        "failed": failed,
    }


def child(options: argparse.Namespace) -> None:
    """Entry of a target's process: limits, corpus, inputs; the result goes to standard output."""
    faulthandler.enable()
    target: Target = TARGETS[options.target[0]](rng_of(options.target[0], options.seed, -1))
    for number in (-2, -3, -4):  # what is made once, such as caches, is not the inputs' memory
        with contextlib.suppress(Exception):
            target.read(target.make(rng_of(target.name, options.seed, number + 2**20)))
    before_mb = _peak_mb()
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + target.memory_mb * MEGABYTE,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with options.child.open("r+b") as file, mmap.mmap(file.fileno(), 8) as at:
        result = run_inputs(target, options.seed, options.first, options.inputs, options.folder, at)
    result |= {"peak_mb": round(_peak_mb(), 1), "grown_mb": round(_peak_mb() - before_mb, 1)}
    target.close()
    print(json.dumps(result))


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_target(name: str, seed: int, inputs: int, folder: Path) -> dict[str, Any]:
    """All inputs of a target; after a crash or a hang the next process goes on behind that input."""
    total: dict[str, Any] = {}
    failures: list[dict[str, str]] = []
    started, first = time.monotonic(), 0
    while first < inputs and len(failures) < FAILURES_MAX:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
            at = Path(place) / "at"
            at.write_bytes(first.to_bytes(8, "little"))
            command = [sys.executable, __file__, "--target", name, "--seed", str(seed), "--folder", str(folder)]
            command += ["--first", str(first), "--inputs", str(inputs), "--child", str(at)]
            said, complained = Path(place) / "said", Path(place) / "complained"  # files: a full pipe looks like a hang
            with said.open("wb") as stdout, complained.open("wb") as stderr:
                process = subprocess.Popen(command, stdout=stdout, stderr=stderr, cwd=place)
                why = _watch(process, at)
                process.wait()
            out, errors = said.read_text(), complained.read_text(errors="replace")[-ERRORS_CHARS_MAX:]
            if not why and process.returncode == 0:
                part = json.loads(out)
                failures += part.pop("failures")
                total = part if not total else total | {k: total[k] + part[k] for k in ADDED}
                break
            number = int.from_bytes(at.read_bytes(), "little")
            why = why or f"exit code {process.returncode}"
            data = TARGETS[name](rng_of(name, seed, -1)).make(rng_of(name, seed, number))
            failures.append({"what": why, "input": save(folder, name, seed, number, data, f"{why}\n{errors}")})
            total = total or dict.fromkeys(ADDED, 0)
            total["inputs"] += number + 1 - first
            total["failed"] += 1
            first = number + 1
    return total | {"failures": failures, "seconds": round(time.monotonic() - started, 1)}


ADDED = ("inputs", "accepted", "refused", "past_header", "failed")


def _watch(process: subprocess.Popen[bytes], at: Path) -> str:
    """Wait for a target's process; kill it when one input takes too long, and say so."""
    seen, cpu_s, since = b"", 0.0, time.monotonic()
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
        with contextlib.suppress(psutil.Error):
            now, used = at.read_bytes(), sum(watched.cpu_times()[:2])
            if now != seen:
                seen, cpu_s, since = now, used, time.monotonic()
            elif used - cpu_s > INPUT_CPU_S or (
                time.monotonic() - since > INPUT_WALL_S and watched.status() != psutil.STATUS_RUNNING
            ):  # one that is ready to run and gets no processor is not the input's fault
                process.kill()
                return f"hang: one input took over {INPUT_CPU_S:.0f} s of CPU or {INPUT_WALL_S:.0f} s"
    return ""


def measure_coverage(name: str, seed: int, inputs: int) -> dict[str, Any]:
    """Lines of the target's readers that its first inputs reach, by coverage.py."""
    from coverage import Coverage

    functions = TARGETS[name].readers
    files = sorted({inspect.getsourcefile(f) or "" for f in functions})
    measured = Coverage(include=files, data_file=None, config_file=False)
    target = TARGETS[name](rng_of(name, seed, -1))
    measured.start()
    with tempfile.TemporaryDirectory() as folder:
        run_inputs(target, seed, 0, inputs, Path(folder), None)
    measured.stop()
    target.close()
    lines = reached = 0
    missing: list[str] = []
    for function in functions:
        source, start = inspect.getsourcelines(function)
        span = range(start + 1, start + len(source))
        _, statements, _, missed, _ = measured.analysis2(inspect.getsourcefile(function) or "")
        lines += sum(line in span for line in statements)
        unreached = [line for line in missed if line in span]
        reached += sum(line in span for line in statements) - len(unreached)
        missing += [f"{Path(inspect.getsourcefile(function) or '').name}:{line}" for line in unreached]
    return {"lines": lines, "reached": reached, "missing": missing}


def again(options: argparse.Namespace) -> None:
    """One input once more, with its traceback."""
    name = options.target[0]
    target = TARGETS[name](rng_of(name, options.seed, -1))
    data = target.make(rng_of(name, options.seed, options.only))
    print(f"{len(data)} bytes: {data[:200]!r}")
    print("accepted" if target.read(data) else "refused")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--inputs", type=int, help="of each target  [default: its share of a million and some]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", choices=TARGETS, action="append")
    parser.add_argument("--folder", type=Path, default=Path("runs/fuzz"), help="for inputs that went wrong")
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--only", type=int, metavar="NUMBER", help="run this input of the target alone, in this process"
    )
    parser.add_argument("--no-coverage", action="store_true")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.folder = options.folder.absolute()
    if options.child is not None:
        return child(options)
    if options.only is not None:
        return again(options)
    results: dict[str, Any] = {}
    for name in options.target or TARGETS:
        count = options.inputs or TARGETS[name].share
        row = results[name] = run_target(name, options.seed, count, options.folder)
        if not options.no_coverage:
            command = [sys.executable, "-c", COVERAGE, name, str(options.seed), str(min(count, COVERAGE_INPUTS))]
            done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
            row["coverage"] = json.loads(done.stdout)
        print(describe(name, row), flush=True)
    if options.json is not None and options.json.exists():
        known = json.loads(options.json.read_text())["targets"]
        results = {name: results.get(name) or known[name] for name in TARGETS if name in results or name in known}
    whole = {
        "inputs": sum(row["inputs"] for row in results.values()),
        "failed": sum(row["failed"] for row in results.values()),
        "seconds": round(sum(row["seconds"] for row in results.values()), 1),
        "peak_mb": max(row.get("peak_mb", 0.0) for row in results.values()),
    }
    print(f"{whole['inputs']} inputs, {whole['failed']} failed, {whole['seconds']} s, {whole['peak_mb']} MB at most")
    if options.json is not None:
        found = {"machine": machine(), "seed": options.seed, "whole": whole, "targets": results}
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(1 if whole["failed"] else 0)


COVERAGE = "import sys, json, fuzz; print(json.dumps(fuzz.measure_coverage(sys.argv[1], *map(int, sys.argv[2:]))))"


def describe(name: str, row: dict[str, Any]) -> str:
    """One line on a target."""
    text = f"{name}: {row['inputs']} inputs, {row['accepted']} accepted, {row['refused']} refused"
    text += (
        f", {100 * row['past_header'] / max(1, row['inputs']):.0f} % past the header, {row.get('messages')} messages"
    )
    if "coverage" in row:
        text += f", {row['coverage']['reached']} of {row['coverage']['lines']} lines"
    text += f", {row['seconds']} s, slowest {row.get('slowest_ms')} ms, {row.get('peak_mb')} MB"
    for failure in row["failures"][:5]:
        text += f"\n    FAILED {failure['what']}: {failure['input']}"
    return text


if __name__ == "__main__":
    main()
