"""One call of ``visuomotor launch``: check everything, start the nodes, run the episodes, score, report."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from visuomotor.deploy.runtime.bundle import Bundle, BundleError, Kind, load_bundle
from visuomotor.deploy.runtime.device import check_device
from visuomotor.launch.collector import RunCollector
from visuomotor.launch.disk import DiskWatch, explain_disk_error
from visuomotor.launch.evaluate.score import Score, provenance
from visuomotor.launch.hosts import adapt, assume, make_plan
from visuomotor.launch.inject import Injection, parse_injections
from visuomotor.launch.live_table import LiveTable
from visuomotor.launch.notify import find_service_manager
from visuomotor.launch.output import lossy_output
from visuomotor.launch.process_table import make_table
from visuomotor.launch.profile import BASELINE_FORECASTERS, Profile
from visuomotor.launch.recording import RECORDER, check_recording, describe_recording, describe_run, make_recorder
from visuomotor.launch.result_table import print_result
from visuomotor.launch.run_folders import Keep, remove_old_runs
from visuomotor.launch.signals import handling
from visuomotor.launch.standstill import choose_gauge
from visuomotor.launch.supervisor import OPERATOR, Fault, Outcome, Supervisor
from visuomotor.launch.tasks import VEHICLE
from visuomotor.messages.bus import Received
from visuomotor.messages.camera import CameraModel, load_camera
from visuomotor.messages.digest import episode_digest
from visuomotor.messages.run_directory import RunDirectory
from visuomotor.messages.schema import Episode, NodeHealth, Truth
from visuomotor.messages.services import CONTROL_RATE_HZ

RUNS = Path("runs")
WATCHED = ("truth", "command", "policy_command", "tracks", "forecast", "detections")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says beyond the profile."""

    seeds: Sequence[int]
    report: Path | None = None
    record: Path | None = None
    lossy: bool = False
    view: bool = False
    json_file: Path | None = None
    inject: tuple[str, ...] = ()
    run_dir: Path | None = None
    keep: Keep | None = None  # of run folders; None: all of them
    host: str = ""  # which of the profile's hosts this is


def launch(profile: Profile, options: Options) -> int:
    """Run all episodes; returns the exit code. Bad input raises ValueError before any process is started."""
    if profile.hosts is not None and not options.host:
        members = ", ".join(profile.hosts.members)
        raise ValueError(f"{profile.source}: hosts: this run is on {members}; expected --as HOST")
    here = adapt(profile, options.host) if options.host else profile
    check_device(here.device)
    bundles = check_bundles(profile)
    cameras = {name: load_camera(Path(f)) for name, f in zip(profile.cameras, profile.camera_files, strict=True)}
    wants_frames = options.report is not None or options.view
    sends: dict[str, tuple[str, ...]] = {spec.name: spec.outputs for spec in make_table(profile)}
    if options.record is not None:
        sends[RECORDER] = ()
    faults = parse_injections(options.inject, sends)
    _make_folders(options)
    check_recording(options.record, options.lossy)
    view = _open_view(profile) if options.view else None
    service = find_service_manager()
    if service.listens:  # its watchdog sends this to a supervisor that hangs, which then says where
        faulthandler.register(signal.SIGQUIT, all_threads=True, chain=True)
    if options.keep is not None:
        remove_old_runs(RUNS, options.keep)
    path = options.run_dir or RUNS / time.strftime(f"{profile.task}-%Y%m%d-%H%M%S-{os.getpid()}")
    with RunDirectory(path) as run_dir:
        table = make_table(here, render=True if wants_frames else None, run_dir=str(run_dir.path))
        plan = make_plan(profile, table, options.host, bundles, faults) if options.host else None
        if options.record is not None:
            facts = describe_run(profile, options.seeds, bundles)
            table.append(make_recorder(table, profile, options.record, options.lossy, facts, run_dir.path))
        frames = tuple(cameras) if wants_frames else ()
        collector = RunCollector(
            profile.task, [spec.name for spec in table], capture=options.report is not None, view=view
        )
        supervisor = Supervisor(
            table,
            run_dir,
            clock=profile.clock,
            timeouts=profile.timeouts,
            faults=faults,
            observe=(*WATCHED, profile.parts.task.state, profile.parts.task.context, *frames),
            service=service,
            goes_on=profile.restart != "never",
            hosts=plan,
        )
        title = f"{profile.task}: policy {profile.policy}, perception {profile.perception.mode}, {profile.clock}"
        rows: list[dict[str, Any]] = []
        fault: Fault | None = None
        disk = DiskWatch(run_dir.path)
        live_table = LiveTable(collector, len(options.seeds), title, service=service)
        with lossy_output(), supervisor.interruptible(), supervisor, live_table as live:
            live.say(f"{title}; starting {len(table)} nodes, logs in {run_dir.path}")
            if plan is not None:
                others = ", ".join(host for host in plan.network.addresses if host != options.host)
                live.say(f"nodes elsewhere: waits for {others}")
                for warning in assume(plan.network):
                    live.say(f"WARNING: {warning}")
            supervisor.start()
            for index, seed in enumerate(options.seeds):
                row, outcome = _run_episode(profile, supervisor, collector, live, disk, index, seed, faults)
                rows.append(row)
                if outcome.fault is not None:
                    fault = outcome.fault
                    if profile.restart == "never" or seed == options.seeds[-1] or not supervisor.restart_dead():
                        break
                    live.say(f"{fault.node} {fault.text}; dead nodes were started anew")
            elsewhere = supervisor.describe_hosts()
            service.stopping("the run has ended")
        if options.record is not None:
            sys.stderr.write(describe_recording(run_dir.path, options.record, supervisor.lost.get(RECORDER, "")) + "\n")
        if profile.task == VEHICLE:
            _add_vehicle_counts(rows, run_dir.path)
            sys.stderr.write("".join(f"ended: {row['end']}, {row['duration_s']:.1f} s\n" for row in rows))
        score = make_score(profile, collector, rows, bundles, faults)
        if plan is not None:
            score.assumed += assume(plan.network)
            score.provenance["hosts"] = elsewhere
        with leaving_cleanly():
            unwritten = _write(score, collector, cameras, options, run_dir.path)
        print_result(score)
        if fault is not None:
            stood = "was braked to a stop" if rows[-1]["braked_to_stop"] else "was not seen to stop"
            where = f"log: {supervisor.processes.log_path(fault.node)}" if fault.node in collector.nodes else ""
            sys.stderr.write(
                f"visuomotor: fault: {fault.node} {fault.text}; the {profile.parts.robot} {stood}. {where}\n"
            )
        if unwritten:
            sys.stderr.write(f"visuomotor: results are lost: {unwritten}\n")
        asked_to_stop = service.listens and fault is not None and fault.node == OPERATOR
        return 0 if (fault is None or asked_to_stop) and not unwritten else 1


def _make_folders(options: Options) -> None:
    """Make the folders of what will be written: a path that cannot be is found out before the run."""
    for option, path in (("--report", options.report), ("--json", options.json_file and options.json_file.parent)):
        if path is not None:
            try:
                path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ValueError(f"{option}: {path} cannot be made ({error.strerror})") from error


def check_bundles(profile: Profile) -> dict[str, Bundle]:
    """Every bundle that a run uses, verified.

    Raises BundleError for the first that is missing, damaged, of another kind or made for another task.
    """
    wanted: list[tuple[str, Kind]] = []
    if profile.perception.mode == "real":
        wanted += [(name, "detector") for name in dict.fromkeys(profile.perception.detectors.values())]
    if profile.perception.forecaster not in BASELINE_FORECASTERS:
        wanted.append((profile.perception.forecaster, "forecaster"))
    if profile.policy not in profile.parts.baseline_policies:
        wanted.append((profile.policy, "policy"))
    bundles = {name: load_bundle(name, kind) for name, kind in wanted}
    for name, bundle in bundles.items():
        if bundle.meta.task != profile.parts.name:
            raise BundleError(f"{name}: bundle.json: task: expected '{profile.parts.name}', got '{bundle.meta.task}'")
    return bundles


def _run_episode(
    profile: Profile,
    supervisor: Supervisor,
    collector: RunCollector,
    live: LiveTable,
    disk: DiskWatch,
    index: int,
    seed: int,
    faults: Mapping[str, Sequence[Injection]],
) -> tuple[dict[str, Any], Outcome]:
    episode = Episode(
        phase="reset", index=index, task=profile.task, suite=profile.suite, split=profile.split, seed=seed
    )
    current = collector.begin(seed, index)
    live.truth = None

    told: set[str] = set()
    pending = [(node, fault) for node, each in faults.items() for fault in each]
    begun: list[dict[str, Any]] = []
    gauge = choose_gauge((profile.parts.task.state,))
    motion: float | None = None

    def on_message(received: Received) -> None:
        nonlocal motion
        collector.add(received)
        motion = gauge.read(received.message) if received.service == gauge.services[0] else motion
        if isinstance(received.message, NodeHealth) and received.message.state != "fault":
            for note in {received.message.text} - told - {""}:
                told.add(note)
                live.say(f"{received.node}: {note}")
        if low := disk.look():
            live.say(low)
        if isinstance(received.message, Truth):
            live.truth = received.message
            now_s = received.message.header.tick / CONTROL_RATE_HZ
            for node, fault in [(node, fault) for node, fault in pending if fault.start_s <= now_s]:
                pending.remove((node, fault))
                begun.append({"node": node, "fault": fault.text, "at_s": fault.start_s, gauge.name: motion})
        live.update()

    outcome = supervisor.run_episode(episode, on_message)
    collector.finish_episode()
    row = current.metrics.result(seed, end=outcome.end if outcome.fault is not None else "")
    if profile.task == VEHICLE:
        row = _vehicle_row(row, outcome, current.span_s)
    if outcome.fault is not None:
        row |= {"fault_node": outcome.fault.node, "fault": outcome.fault.text, "braked_to_stop": outcome.stopped}
    if begun:
        row["injected"] = begun
    row["topic_digests"] = outcome.topic_digests
    row["digest"] = episode_digest(outcome.topic_digests) if outcome.topic_digests else ""
    if profile.task != VEHICLE:  # of a vehicle the interface knows, which says it as it closes
        live.say(f"seed {seed}: {row['end']}, {row['duration_s']:.1f} s")
    return row, outcome


def _vehicle_row(row: dict[str, Any], outcome: Outcome, span_s: float) -> dict[str, Any]:
    """A real camera has no truth: whatever the metrics derive from it is left out."""
    kept = ("seed", "guard_ticks", "ticks", "guard_interventions")
    done = outcome.fault is None
    end = "source ended" if done else "fault"
    return {name: row[name] for name in kept} | {"success": done, "end": end, "duration_s": round(span_s, 3)}


def _add_vehicle_counts(rows: list[dict[str, Any]], run_dir: Path) -> None:
    """What the vehicle's nodes counted, and how the drive ended by their word where no fault ended it."""
    for file in ("vehicle.json", "can.json"):
        path = run_dir / file
        if rows and path.exists() and path.stat().st_size:  # empty: the disk was full
            counted = json.loads(path.read_text())
            end = counted.pop("end", "")
            rows[0] |= counted
            if end and rows[0]["success"]:
                rows[0]["end"] = end


def make_score(
    profile: Profile,
    collector: RunCollector,
    rows: list[dict[str, Any]],
    bundles: Mapping[str, Bundle],
    faults: Mapping[str, Any],
) -> Score:
    """The result of a run in the one form."""
    assumed = list(rows[0].pop("assumed", [])) if rows else []
    if faults:
        assumed.append(f"faults injected: {', '.join(sorted(faults))}")
    if not profile.guard:
        assumed.append("the guard was switched off")
    origin = provenance({name: bundle.digest for name, bundle in bundles.items()})
    origin["providers"] = {name: node.provider for name, node in collector.nodes.items() if node.provider}
    return Score(
        task=profile.task,
        suite=profile.suite,
        policy=profile.policy,
        perception=profile.perception.mode,
        clock=profile.clock,
        guard=profile.guard,
        forecaster=profile.perception.forecaster,
        episodes=rows,
        latency_ms=collector.latency.summary(),
        rate_hz=collector.rates_hz(profile.clock),
        missed_deadlines=collector.missed_share() if profile.clock == "realtime" else 0.0,
        assumed=assumed,
        provenance=origin,
    ).finish()


def _write(
    score: Score, collector: RunCollector, cameras: Mapping[str, CameraModel], options: Options, run_dir: Path
) -> str:
    """Write all that was asked for; returns what a full disk kept from being written, or nothing."""
    lost = []
    for path in (run_dir / "score.json", options.json_file):
        if path is not None:
            lost.append(_write_if_room(lambda path=path: score.save(path)))  # type: ignore[misc]
    if options.report is not None:
        lost.append(_write_if_room(lambda: _write_report(score, collector, cameras, options)))
    return "; ".join(dict.fromkeys(reason for reason in lost if reason))


@contextlib.contextmanager
def leaving_cleanly() -> Iterator[None]:
    """SIGTERM and SIGHUP end the process with what is open closed, and say so; the score is written by then."""

    def leave(number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        sys.stderr.write(f"visuomotor: {name}: the report was not finished; score.json is in the run's folder\n")
        raise SystemExit(128 + number)

    with handling((signal.SIGTERM, signal.SIGHUP), leave):
        yield


def _write_if_room(write: Callable[[], object]) -> str:
    try:
        write()
    except OSError as error:
        if reason := explain_disk_error(error):
            return reason
        raise
    return ""


def _write_report(score: Score, collector: RunCollector, cameras: Mapping[str, CameraModel], options: Options) -> None:
    from visuomotor.launch.report.page import write_report

    assert options.report is not None
    command = " ".join(["visuomotor", *sys.argv[1:]])
    page = write_report(options.report, score, collector.captures, cameras, command=command)
    sys.stderr.write(f"report: {page}\n")


def _open_view(profile: Profile) -> Any:
    from visuomotor.launch.report.parts import make_part
    from visuomotor.launch.report.view import LiveView

    return LiveView(make_part(profile.task), list(profile.cameras))
