"""CPU that a recording costs: the whole stack at 10 Hz on its cameras, with a recorder and without, in turn.

    python benchmarks/recording.py [--seconds 15] [--rounds 1] [--json benchmarks/results/recording.json]

CPU seconds of every process of the run over the same stretch of driving, after all are warm. Beside it what the
recording lost and how large it is.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from visuomotor.deploy.record.reader import Recording
from visuomotor.launch.evaluate.score import machine

START_S = 4.0  # of driving, before the measured stretch
BAR_PERCENT = 10.0


def cpu_seconds(process: psutil.Process) -> dict[str, float]:
    """Node -> CPU seconds so far; the supervisor is the process itself."""
    seconds = {"supervisor": sum(process.cpu_times()[:2])}
    for child in process.children():
        name = Path(child.cmdline()[-1]).name.removesuffix(".job.json")
        seconds[name] = sum(child.cpu_times()[:2])
    return seconds


def drive(folder: Path, seconds: float, record: bool) -> dict[str, Any]:
    """One run in realtime; CPU of each node in cores, and what is known of the recording."""
    end_s = START_S + seconds + 8.0  # a busy machine begins to measure late
    command = [sys.executable, "-m", "visuomotor.launch.cli", "launch", "drive", "--seed", "3", "--clock", "realtime"]
    command += ["--inject", f"world=kill@{end_s:.0f}s", "--run-dir", str(folder / "run")]
    command += ["--record", str(folder / "a.mcap")] if record else []
    with (folder / "log").open("wb") as log:
        launched = subprocess.Popen(command, stdout=log, stderr=log)
    process = psutil.Process(launched.pid)
    warm = folder / "run" / "guard.job.json"
    while not warm.exists() or b"starting" not in (folder / "log").read_bytes():
        time.sleep(0.1)
    while len(cpu_seconds(process)) < (6 if record else 5) or not _drives(process):
        time.sleep(0.1)
    time.sleep(START_S)
    started, before = time.monotonic(), cpu_seconds(process)
    time.sleep(seconds)
    elapsed, after = time.monotonic() - started, cpu_seconds(process)
    launched.wait()
    result: dict[str, Any] = {"cores": {name: round((after[name] - before[name]) / elapsed, 4) for name in before}}
    score = json.loads((folder / "run" / "score.json").read_text())
    result["rate_hz"] = score["rate_hz"].get("command")
    result["missed_deadlines"] = round(score["missed_deadlines"], 4)
    if record:
        recording = Recording(folder / "a.mcap")
        frames = sum(r.service.startswith("camera_") for r in recording.read())
        counts = json.loads((folder / "run" / "recorder.json").read_text())
        size = (folder / "a.mcap").stat().st_size
        result["recording"] = {
            "messages": counts["messages"],
            "frames": frames,
            "megabytes_per_minute": round(size / 1e6 / end_s * 60.0, 1),
            "dropped": sum(counts["dropped"].values()),
            "missed": sum(counts["missed"].values()),
        }
    return result


def _drives(process: psutil.Process) -> bool:
    """Whether the world has been at work for a moment: it renders, which start-up does not."""
    world = [c for c in process.children() if c.cmdline()[-1].endswith("world.job.json")]
    return bool(world) and world[0].cpu_percent(0.5) > 20.0 and time.time() - world[0].create_time() > 5.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rounds = []
    for _ in range(options.rounds):
        pair = {}
        for record in (False, True):
            with tempfile.TemporaryDirectory() as name:
                pair["with" if record else "without"] = drive(Path(name), options.seconds, record)
        rounds.append(pair)
        plain = sum(pair["without"]["cores"].values())
        recorder = pair["with"]["cores"]["recorder"]
        whole = sum(pair["with"]["cores"].values())
        pair["recorder_percent"] = round(100.0 * recorder / plain, 1)
        pair["whole_run_percent"] = round(100.0 * (whole / plain - 1.0), 1)
        print(
            f"without {plain:.3f} cores, with {whole:.3f} (recorder {recorder:.3f}): the recorder takes "
            f"{pair['recorder_percent']} % of the run without it, the run {pair['whole_run_percent']} % more; "
            f"bar {BAR_PERCENT} %; {pair['with']['recording']}"
        )
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": machine(), "rounds": rounds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
