"""Faults put into the driving graph, 20 seeds each: does every run go on safely or stop in the declared time?

    python benchmarks/faults.py [--rows ROW,...] [--seeds 1000:1020] [--minutes M] [--jobs 2] [--again] [--table]

Each run is the command line that a user types: the shipped graph on its cameras, 15 s from its start, the fault after
5 s. Finished runs are kept in results/faults.jsonl, so that a second call goes on where the first one stopped; --again
drives the chosen rows anew, --table only writes benchmarks/results/faults.json and docs/faults.md's table.

The seeds are of the evaluation split, beyond those that anything was measured or tuned on. The declared time of a stop
from the speed v at the fault is detect_s + RESPONSE_S + (v + A_MAX * detect_s) / A_BRAKE: what the fault needs to be
noticed, during which the car may still accelerate, and a service brake's deceleration.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import msgspec
import psutil
import yaml

from visuomotor.control.config import ENVELOPE
from visuomotor.launch.evaluate.score import machine
from visuomotor.launch.profile import load_profile

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "benchmarks" / "results" / "faults.jsonl"
RESULT = ROOT / "benchmarks" / "results" / "faults.json"
PAGE = ROOT / "docs" / "faults.md"
BEGIN, END = "<!-- table: written by benchmarks/faults.py -->", "<!-- end of table -->"

DURATION_S, AT_S = 15, 5
HANG_S = {"realtime": 120.0, "lockstep": 600.0}  # of wall clock, for one episode and the start
ORPHAN_S = 30.0  # the source may brake for 20 s after its supervisor's death
HITS = ("collision", "off the road")
BATCH = 5  # seeds that one process tree drives, where a fault leaves no trace in it
LEAST_HZ = 9.5  # of the world, in a run that counts
DISK_BYTES = 16 << 20  # of the file system that fills up: some seconds of recording
RESPONSE_S = 0.8  # two ticks until a command acts, the brake's ramp at 25 m/s3, a tick of rounding at either end, 0.2 s
A_MAX, A_BRAKE = ENVELOPE.max_acceleration_mps2, -ENVELOPE.min_acceleration_mps2
STOPS, STOP_TICKS = ("stale_policy", "stale_vehicle_state", "not_finite"), 20  # of the guard: not a stop in traffic
HEARTBEAT_S, WATCHDOG_S, STALE_S, FROZEN_S, GUARD_PERIOD_S = 0.5, 0.3, 0.3, 0.3, 0.15


class Row(msgspec.Struct, frozen=True):
    """One line of the table. ``inject``: alternatives, one per seed in turn. ``detect_s`` None: the drive goes on."""

    name: str
    title: str
    inject: tuple[str, ...] = ()
    detect_s: float | None = None
    profile: str = "drive"
    exit_code: int = 0
    alone: bool = False  # a process tree per seed
    record: bool = False
    disk: bool = False  # run folder and recording on a file system of DISK_BYTES
    control: str = "none"  # the row of the same seeds without the fault


def both_ends(fault: str) -> tuple[str, str]:
    """The fault at the car and at the vehicle node, in turn."""
    return f"world=can:{fault}@5s", f"vehicle=can:{fault}@5s"


SILENT_S = HEARTBEAT_S + GUARD_PERIOD_S  # nothing comes from the policy: held for the heartbeat
KILL = {"exit_code": 1, "alone": True}
CAN = {"profile": "sim-can", "alone": True, "control": "none_can"}
NODES = ("world", "perception", "policy", "guard")
ROWS = (
    Row("none", "nothing (control)"),
    Row("none_can", "nothing (control), car behind CAN", profile="sim-can", alone=True, control="none_can"),
    Row("kill_world", "`world` killed: the simulated car itself", ("world=kill@5s",), 0.0, **KILL),
    Row("kill_perception", "`perception` killed", ("perception=kill@5s",), SILENT_S, **KILL),
    Row("kill_policy", "`policy` killed", ("policy=kill@5s",), SILENT_S, **KILL),
    Row("kill_guard", "`guard` killed", ("guard=kill@5s",), WATCHDOG_S, **KILL),
    Row("kill_recorder", "`recorder` killed", ("recorder=kill@5s",), alone=True, record=True),
    Row("kill_supervisor", "supervisor killed", ("supervisor=kill@5s",), 0.2 + WATCHDOG_S, exit_code=-9, alone=True),
    Row("kill_vehicle", "`vehicle`, the CAN node, killed", ("vehicle=kill@5s",), WATCHDOG_S, **{**CAN, **KILL}),
    Row("frozen", "cameras repeat one picture", ("world=stuck@5s",), FROZEN_S + SILENT_S),
    Row("black", "cameras black", ("world=black@5s",), FROZEN_S + SILENT_S),
    Row("mute", "front camera sends nothing", ("world=mute:camera_front@5s",), SILENT_S),
    Row(
        "latency",
        "200 ms of latency: perception, policy, guard in turn",
        tuple(f"{node}=latency:200ms@5s" for node in NODES[1:]),
    ),
    Row(
        "loss",
        "30 % of messages lost: world, perception, policy, guard in turn",
        tuple(f"{node}=loss:30%@5s" for node in NODES),
    ),
    Row(
        "nan_network",
        "the policy's network returns NaN, inf in turn",
        ("policy=network:nan@5s", "policy=network:inf@5s"),
        SILENT_S,
    ),
    Row("nan_wire", "NaN, inf in turn in `policy_command`", ("policy=nan@5s", "policy=inf@5s"), GUARD_PERIOD_S),
    Row(
        "clock",
        "a node's clock steps by 3 s, forward and back: world, perception, policy, guard in turn",
        tuple(f"{node}=clock:{step}@5s" for step in ("+3s", "-3s") for node in NODES),
        STALE_S + SILENT_S,
        alone=True,
    ),
    Row(
        "disk_full",
        "disk full: for the recorder, for the whole run in turn",
        ("recorder=full@5s", ""),
        alone=True,
        record=True,
        disk=True,
    ),
    Row("can_checksum", "CAN: wrong checksums", both_ends("checksum"), STALE_S + SILENT_S, **CAN),
    Row("can_counter", "CAN: counters stuck", both_ends("counter"), STALE_S + SILENT_S, **CAN),
    Row("can_foreign", "CAN: foreign frames, wrong lengths", both_ends("foreign"), **CAN),
    Row("can_flood", "CAN: flood of the most urgent frames", both_ends("flood"), **CAN),
)
BY_NAME = {row.name: row for row in ROWS}


def choose_fault(row: Row, seed: int) -> str:
    """The fault of this seed; empty for none."""
    return row.inject[seed % len(row.inject)] if row.inject else ""


def expected_exit(record: dict[str, Any]) -> int:
    """What the command line should end with: 1 also where the disk did not take the run's own score."""
    row = BY_NAME[record["row"]]
    return 1 if row.disk and not record["fault"] else row.exit_code


def drive(row: Row, seeds: list[int], clock: str, slot: int) -> list[dict[str, Any]]:
    """One process tree over consecutive seeds; a record for each that it drove."""
    fault = choose_fault(row, seeds[0])
    disk = DISK_BYTES if row.disk and not fault else 0
    with folder(disk) as (temporary, place):
        run_dir, score = place / "run", temporary / "score.json"
        command = [sys.executable, "-m", "visuomotor.launch.cli", "launch"]
        command += ["drive", "--clock", clock, "--episodes", str(len(seeds))] if row.profile == "drive" else ["vehicle"]
        command += ["--seed", str(seeds[0]), "--max-duration", str(DURATION_S)]
        command += ["--profile", str(own_bus(row.profile, temporary, slot))] if row.profile != "drive" else []
        command += ["--inject", fault] if fault else []
        command += ["--record", str(place / "a.mcap")] if row.record else []
        command += ["--run-dir", str(run_dir), "--json", str(score)]
        started = time.monotonic()
        environment = dict(os.environ, TMPDIR=str(temporary), OMP_NUM_THREADS="1", COLUMNS="200")
        with (temporary / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, process_group=0)
            hang = False
            try:
                process.wait(HANG_S[clock] * (1.0 + 0.25 * (len(seeds) - 1)))
            except subprocess.TimeoutExpired:
                hang = True
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        wall_s = time.monotonic() - started
        orphans, gone_s = await_orphans(run_dir, ORPHAN_S if row.name == "kill_supervisor" or hang else 2.0)
        said = (temporary / "log").read_text(errors="replace")
        result = json.loads(score.read_text()) if score.exists() else {"episodes": [], "rate_hz": {}}
        episodes = result["episodes"]
        if row.name == "kill_supervisor" and (run_dir / "orphaned.json").exists():
            episodes = [as_episode(json.loads((run_dir / "orphaned.json").read_text()), seeds[0])]
        known = {
            "row": row.name, "clock": clock, "fault": fault, "exit_code": process.returncode, "hang": hang,
            "wall_s": round(wall_s / max(1, len(episodes)), 1), "orphans": orphans, "gone_after_s": gone_s,
            "left": find_left(temporary, run_dir), "revision": revision(), "world_hz": result["rate_hz"].get("truth"),
            "said": [line for line in said.splitlines() if line.startswith(("visuomotor: ", "recording", "Traceback"))],
        }  # fmt: skip
        if not episodes:
            return [known | {"seed": seeds[0], "episode": None, "log": said[-2000:]}]
        kept = ("end", "duration_s", "collision", "collision_at_fault", "offroad", "mean_speed_mps", "rest_at_s")
        kept += ("injected", "fault_node", "fault", "braked_to_stop", "guard_interventions")
        return [
            known | {"seed": e["seed"], "episode": {key: e[key] for key in kept if key in e}} for e in episodes
        ]  # fmt: skip


@contextmanager
def folder(disk_bytes: int) -> Iterator[tuple[Path, Path]]:
    """A temporary folder, and in it the place of the run: on a file system of its own where its size is given."""
    temporary = Path(tempfile.mkdtemp(prefix="vmf", dir="/tmp"))
    place = temporary / "p"
    place.mkdir()
    try:
        if disk_bytes:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={disk_bytes}", "tmpfs", str(place)], check=True)
        yield temporary, place
    finally:
        if disk_bytes:
            subprocess.run(["umount", str(place)], check=True)
        shutil.rmtree(temporary)


def own_bus(name: str, place: Path, slot: int) -> Path:
    """A copy of a shipped profile with a CAN bus that no other run is on."""
    profile = load_profile(name)
    data = yaml.safe_load(profile.source.read_text())
    data["cameras"] = dict(zip(profile.cameras, profile.camera_files, strict=True))
    data["can"]["options"]["port"] += 1 + slot
    file = place / f"{name}.yaml"
    file.write_text(yaml.safe_dump(data))
    return file


def await_orphans(run_dir: Path, limit_s: float) -> tuple[list[str], float]:
    """Command lines of this run's processes that are still there after ``limit_s``, and when the last one was gone."""
    started = time.monotonic()
    while True:
        lines = [" ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline", "status"])
                 if p.info["status"] != psutil.STATUS_ZOMBIE]  # fmt: skip
        found = [line for line in lines if str(run_dir) in line]
        waited_s = time.monotonic() - started
        if not found or waited_s > limit_s:
            return found, round(waited_s, 1)
        time.sleep(0.1)


def find_left(temporary: Path, run_dir: Path) -> list[str]:
    """Sockets, locks and directories of runs that are still there."""
    left = [str(p.relative_to(temporary)) for p in run_dir.glob("vm.sock/*")]
    left += [p.name for p in run_dir.glob("*.lock")]
    return left + [p.name for p in temporary.glob("vm-*/*") if p.name != "visuomotor.lock"]


def as_episode(orphaned: dict[str, Any], seed: int) -> dict[str, Any]:
    """What the world wrote after its supervisor's death, in the form of an episode's row."""
    rest = (orphaned["fault_tick"] + orphaned["ticks_braked"]) * 0.1
    return {
        "seed": seed, "end": orphaned["world_end"] or "fault", "fault_node": "supervisor", "duration_s": rest,
        "collision": orphaned["collision"], "offroad": orphaned["world_end"] == "offroad",
        "rest_at_s": rest if abs(orphaned["speed_mps"]) < 0.1 else None, "braked_to_stop": orphaned["speed_mps"] < 0.1,
        "injected": [{"at_s": orphaned["fault_tick"] * 0.1, "speed_mps": orphaned["fault_speed_mps"]}],
    }  # fmt: skip


def revision() -> str:
    """Commit of the code that was run."""
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()


def read_runs() -> dict[tuple[str, str, int], dict[str, Any]]:
    """(row, clock, seed) -> the newest record that counts."""
    lines = RUNS.read_text().splitlines() if RUNS.exists() else []
    records = [json.loads(line) for line in lines]
    return {(r["row"], r["clock"], r["seed"]): r for r in records if not is_disturbed(r)}


def is_disturbed(record: dict[str, Any]) -> bool:
    """Whether the machine was too busy for a run in realtime: it is driven again, whatever came of it.

    The world ran slow, or so slow that the fault, at five seconds of its node's clock, came before five of the world's.
    """
    if record["row"] == "kill_world":  # nothing is driven that could be disturbed, and its last tick is that before
        return False
    world_hz = record.get("world_hz")
    jump = re.match(r"world=clock:\+(\d+)s", record["fault"] or "")
    if world_hz and jump:  # its rate is of its own clock, which made the run longer
        ticks = 10.0 * DURATION_S
        world_hz = ticks / (ticks / world_hz - float(jump[1]))
    slow = world_hz is not None and world_hz < LEAST_HZ
    early = record["fault"] and record["episode"] is not None and not record["episode"].get("injected")
    return record["clock"] == "realtime" and bool(slow or early)


def plan(rows: list[Row], seeds: range, clock: str, done: set[tuple[str, str, int]]) -> list[tuple[Row, list[int]]]:
    """What is still to be driven, a few seeds of every row after the other; a batch has one fault."""
    tasks = []
    for first in range(seeds.start, seeds.stop, BATCH):
        for row in rows:
            missing = [s for s in range(first, min(first + BATCH, seeds.stop)) if (row.name, clock, s) not in done]
            groups: list[list[int]] = []
            for seed in missing:
                together = groups and not row.alone and groups[-1][-1] == seed - 1 and len(row.inject) <= 1
                groups[-1].append(seed) if together else groups.append([seed])
            tasks += [(row, group) for group in groups]
    return tasks


def run_all(tasks: list[tuple[Row, list[int]]], clock: str, jobs: int, minutes: float) -> None:
    """Drive, keep every record at once, start nothing more when the time is over."""
    deadline = time.monotonic() + 60.0 * minutes
    slots: SimpleQueue[int] = SimpleQueue()
    for slot in range(jobs):
        slots.put(slot)

    def work(task: tuple[Row, list[int]]) -> None:
        if time.monotonic() > deadline:
            return
        slot = slots.get()
        try:
            records = drive(*task, clock, slot)
        finally:
            slots.put(slot)
        RUNS.parent.mkdir(exist_ok=True)
        with RUNS.open("a") as file:
            file.write("".join(json.dumps(record) + "\n" for record in records))
        for record in records:
            if is_disturbed(record):
                print(f"{record['row']:16} {record['seed']} disturbed: world at {record['world_hz']} Hz", flush=True)
                continue
            print(f"{record['row']:16} {record['seed']} {judge(record, {})}", flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(work, tasks))


def judge(record: dict[str, Any], control: dict[str, Any]) -> dict[str, Any]:
    """What became of one run, and whether that was safe; ``control`` is the same seed's without the fault."""
    row, episode = BY_NAME[record["row"]], record["episode"] or {}
    begun = episode.get("injected") or [{"at_s": float(AT_S), "speed_mps": None}]
    at_s, speed_mps = begun[0]["at_s"], begun[0]["speed_mps"]
    rest_at_s = episode.get("rest_at_s")
    stop_s = None if rest_at_s is None else round(max(0.0, rest_at_s - at_s), 1)
    declared_s = None
    if row.detect_s is not None and speed_mps is not None:
        declared_s = round(row.detect_s + RESPONSE_S + (speed_mps + A_MAX * row.detect_s) / A_BRAKE, 2)
    hit = bool(episode.get("collision") or episode.get("offroad"))
    hit_without = bool((control.get("episode") or {}).get("collision") or (control.get("episode") or {}).get("offroad"))
    problems = [name for name in ("hang", "orphans", "left") if record[name]]
    if row.name == "kill_supervisor":
        problems = [p for p in problems if p != "left"]  # nobody is there to tidy up; the next run does, see the docs
    if record["exit_code"] != expected_exit(record):
        problems.append(f"exit code {record['exit_code']}")
    if not episode:
        problems.append("no score")
    if hit:
        problems.append(f"{episode['end']}{' also without the fault' if hit_without else ''}")
    elif row.detect_s and stop_s is None:
        problems.append("did not stop")
    elif declared_s is not None and stop_s is not None and row.name != "kill_world" and stop_s > declared_s:
        problems.append(f"stopped after {stop_s} s, declared {declared_s:.1f} s")
    causes = episode.get("guard_interventions") or {}
    by_guard = sum(causes.get(cause, 0) for cause in STOPS) >= STOP_TICKS
    alone = control.get("episode") is not None and control["episode"].get("rest_at_s") is None  # so it was no traffic
    braked = row.detect_s is not None or by_guard or alone
    outcome = "collision" if episode.get("collision") else "off the road" if hit else "no car left"
    if not hit and row.name != "kill_world":
        outcome = "stop" if stop_s is not None and braked else "goes on"
    return {
        "outcome": outcome, "speed_mps": speed_mps, "stop_s": stop_s, "declared_s": declared_s, "problems": problems,
        "at_fault": bool(episode.get("collision_at_fault")), "hit_without": hit_without,
    }  # fmt: skip


def summarise() -> dict[str, Any]:
    """The table, per row and clock, and every run that is not as it should be."""
    runs = read_runs()
    table, examined = [], []
    for row in ROWS:
        for clock in ("realtime", "lockstep"):
            mine = {seed: r for (name, c, seed), r in sorted(runs.items()) if (name, c) == (row.name, clock)}
            if not mine:
                continue
            judged = {seed: judge(r, runs.get((row.control, clock, seed), {})) for seed, r in mine.items()}
            examined += [
                {"row": row.name, "clock": clock, "seed": seed, "fault": mine[seed]["fault"], **j}
                for seed, j in judged.items() if j["problems"]
            ]  # fmt: skip
            stops = [j for j in judged.values() if j["outcome"] == "stop" and j["declared_s"] is not None]
            table.append({
                "row": row.name, "title": row.title, "clock": clock, "runs": len(mine),
                "stopped": sum(j["outcome"] == "stop" for j in judged.values()),
                "went_on": sum(j["outcome"] == "goes on" for j in judged.values()),
                "hit": sum(j["outcome"] in HITS for j in judged.values()),
                "hit_without_too": sum(j["hit_without"] and j["outcome"] in HITS for j in judged.values()),
                "late": sum("stop" in " ".join(j["problems"]) for j in judged.values()),
                "longest_stop_s": max((j["stop_s"] for j in stops), default=None),
                "least_reserve_s": min((round(j["declared_s"] - j["stop_s"], 2) for j in stops), default=None),
                "hangs": sum(r["hang"] for r in mine.values()),
                "orphans": sum(bool(r["orphans"]) for r in mine.values()),
                "left": sum(bool(r["left"]) for r in mine.values()) if row.name != "kill_supervisor" else 0,
                "wrong_exit": sum(r["exit_code"] != expected_exit(r) for r in mine.values()),
                "wall_s": max(r["wall_s"] for r in mine.values()),
                "revisions": sorted({r["revision"] for r in mine.values()}),
            })  # fmt: skip
    return {
        "machine": machine(),
        "split": "evaluation",
        "duration_s": DURATION_S,
        "at_s": AT_S,
        "response_s": RESPONSE_S,
        "detect_s": {row.name: row.detect_s for row in ROWS},
        "table": table,
        "examined": examined,
    }


def draw_table(result: dict[str, Any]) -> str:
    """The table as the page shows it."""
    lines = [
        "| fault | clock | runs | stopped | went on | collision or off the road (same seed without the fault, too) "
        "| longest stop, least reserve on the declared time, s | over time | hangs, orphans, leftovers, wrong exit |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["table"]:
        stop = "" if row["longest_stop_s"] is None else f"{row['longest_stop_s']:.1f}, {row['least_reserve_s']:.1f}"
        bad = ", ".join(str(row[key]) for key in ("hangs", "orphans", "left", "wrong_exit"))
        lines.append(
            f"| {row['title']} | {row['clock']} | {row['runs']} | {row['stopped']} | {row['went_on']} | {row['hit']} "
            f"({row['hit_without_too']}) | {stop} | {row['late']} | {bad} |"
        )
    return "\n".join(lines)


def with_table(page: str, result: dict[str, Any]) -> str:
    """The page with the table of a result in its place."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{draw_table(result)}\n\n{END}{rest.partition(END)[2]}"


def write() -> None:
    """The result file and the page's table from all records."""
    result = summarise()
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    PAGE.write_text(with_table(PAGE.read_text(), result))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", default=",".join(BY_NAME), help="some of " + ", ".join(BY_NAME))
    parser.add_argument("--seeds", default="1000:1020", metavar="A:B")
    parser.add_argument("--clock", choices=("realtime", "lockstep"), default="realtime")
    parser.add_argument("--minutes", type=float, default=1e9, help="start no further run after so long")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--again", action="store_true", help="drive also what was driven already")
    parser.add_argument("--table", action="store_true", help="drive nothing")
    parser.add_argument("--check", action="store_true", help="only whether the page shows the result file's table")
    options = parser.parse_args()
    if options.check:
        page = PAGE.read_text()
        same = page == with_table(page, json.loads(RESULT.read_text()))
        parser.exit(0) if same else parser.exit(1, f"{PAGE}: not the table of {RESULT}; run with --table\n")
    if unknown := sorted(set(options.rows.split(",")) - set(BY_NAME)):
        parser.error(f"--rows: no {', '.join(unknown)}; expected some of {', '.join(BY_NAME)}")
    rows = [row for row in ROWS if row.name in options.rows.split(",")]
    if options.clock == "lockstep":
        rows = [row for row in rows if row.profile == "drive" and row.name != "clock"]
    if not options.table:
        first, _, last = options.seeds.partition(":")
        done = set() if options.again else set(read_runs())
        tasks = plan(rows, range(int(first), int(last)), options.clock, done)
        run_all(tasks, options.clock, options.jobs, options.minutes)
    write()


if __name__ == "__main__":
    main()
