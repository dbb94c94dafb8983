"""What runs, or ran, on this machine: sockets, services, run folders, nodes that have lost their run."""

from __future__ import annotations

import json
from pathlib import Path

import psutil

from visuomotor.launch.checks.examination import Check, Place
from visuomotor.launch.run_folders import list_run_folders
from visuomotor.launch.service import Scope, UnitState, ask_systemd, find_units
from visuomotor.messages.run_directory import RunDirectory, RunDirectoryError

RUNS_MANY_BYTES = 5 * 10**9
RUN_NODE = "visuomotor.launch.run_node"


def check_running(place: Place) -> list[Check]:
    """Run directory, installed services, leftovers."""
    return [check_run_directory(), *check_services(), check_run_folders(place.runs), check_orphans()]


def check_run_directory() -> Check:
    """Whether sockets and locks of a run can be made."""
    try:
        with RunDirectory() as run_dir:
            return Check("run directory", "ok", str(run_dir.path.parent))
    except RunDirectoryError as error:
        return Check("run directory", "bad", str(error), "free some room there, or set TMPDIR to a folder of one's own")


def check_services() -> list[Check]:
    """Every installed service of ours."""
    checks = []
    scopes: tuple[Scope, ...] = ("system", "user")
    for scope in scopes:
        for path in find_units(scope):
            checks.append(describe_unit(path, ask_systemd(path.name, scope), scope))
    return checks or [Check("service", "ok", "none installed")]


def describe_unit(path: Path, state: UnitState, scope: Scope) -> Check:
    """One unit and how it does."""
    name = f"service {path.stem.removeprefix('visuomotor-')}"
    flag = " --user" if scope == "user" else ""
    journal = f"journalctl {'--user-unit' if scope == 'user' else '--unit'}={path.name}"
    program = next((line.split()[0] for line in _values(path, "ExecStart")), "").strip('"')
    if not Path(program).exists():
        do = "visuomotor service install again, from where it is installed now"
        return Check(name, "bad", f"{path}: starts {program}, which is no more", do)
    if not state.known:
        return Check(name, "note", f"{path}: systemd does not answer here", "look from the host, not from a container")
    found = f"{state.active} ({state.result}), {state.restarts} restarts"
    if state.active == "failed":
        do = f"{journal}; then systemctl{flag} reset-failed {path.name} and start it"
        return Check(name, "bad", found, do)
    if state.restarts:
        return Check(name, "note", found, f"{journal} says why")
    return Check(name, "ok", found)


def _values(path: Path, key: str) -> list[str]:
    lines = path.read_text().splitlines()
    return [line.removeprefix(f"{key}=") for line in lines if line.startswith(f"{key}=") and not line.endswith("=")]


def check_run_folders(folder: Path) -> Check:
    """How much old runs take."""
    runs = list_run_folders(folder)
    size = sum(run.size_bytes for run in runs)
    found = f"{len(runs)} in {folder.absolute()}, {size / 1e6:.0f} MB"
    if size > RUNS_MANY_BYTES:
        do = "visuomotor launch ... --keep 50,2GB,30d removes the oldest; recordings in them stay"
        return Check("run folders", "note", found, do)
    return Check("run folders", "ok", found)


def check_orphans() -> Check:
    """Node processes whose run is gone: each ends itself within half a minute, unless it is stuck."""
    orphans = []
    for process in psutil.process_iter(["cmdline", "ppid"]):
        line = process.info["cmdline"] or []
        if RUN_NODE in line[:-1] and process.info["ppid"] != _parent_of_job(Path(line[-1])):
            orphans.append(process.pid)
    if not orphans:
        return Check("orphaned nodes", "ok", "none")
    numbers = " ".join(map(str, sorted(orphans)))
    return Check("orphaned nodes", "note", f"processes {numbers}", f"wait half a minute; then kill -9 {numbers}")


def _parent_of_job(job: Path) -> int:
    """Process that started a node, by its job file; -1 where that is gone."""
    try:
        return int(json.loads(job.read_text())["parent_pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return -1
