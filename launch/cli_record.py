"""Sub-commands on recordings: ``latency``, ``replay`` and ``regress``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from visuomotor.launch.cli_options import Device, JsonFile, Report

if TYPE_CHECKING:
    from visuomotor.launch.replay import Comparison

RecordingFile = Annotated[Path, typer.Argument(metavar="FILE", help="Recording, as written by launch --record.")]
Replace = Annotated[
    list[str] | None,
    typer.Option(metavar="PART=BUNDLE", help="Another detector, forecaster or policy (repeatable)."),
]


def latency(file: RecordingFile, json_file: JsonFile = None) -> int:
    """Where the time goes between camera and actuator, what was dropped, and which rates were held."""
    from visuomotor.deploy.record.reader import Recording
    from visuomotor.launch.evaluate.lineage import measure
    from visuomotor.launch.recording_tables import make_console, print_cut, print_latency

    recording = Recording(file)
    report = measure(recording)
    if not report.commands:
        raise ValueError(f"{file}: expected commands, found none")
    console = make_console()
    print_cut(recording, console)
    print_latency(report, console)
    _write(json_file, report)
    return 0


def replay(
    file: RecordingFile,
    replace: Replace = None,
    report: Report = None,
    device: Device = None,
    json_file: JsonFile = None,
) -> int:
    """Run the recorded inputs through the nodes again, or through others, and say what came out differently."""
    _replay(file, tuple(replace or ()), report, device and device.value, json_file)
    return 0


def regress(file: RecordingFile, device: Device = None, json_file: JsonFile = None) -> int:
    """Replay with today's code and bundles; exit code 1 and the fields that differ when the outputs are others."""
    return 0 if _replay(file, (), None, device and device.value, json_file).equal else 1


def _replay(
    file: Path, replace: tuple[str, ...], report: Path | None, device: str | None, json_file: Path | None
) -> Comparison:
    from visuomotor.deploy.record.reader import Recording
    from visuomotor.launch.recording_tables import make_console, print_comparison, print_cut
    from visuomotor.launch.replay import check_replayable, parse_replacements, recorded_profile
    from visuomotor.launch.replay_report import replay_and_report

    replaced = parse_replacements(replace)
    recording = Recording(file)
    check_replayable(recording, replaced)
    with recorded_profile(recording) as recorded:
        profile = recorded.override(device=device)
        result = replay_and_report(recording, profile, replaced, report)
    console = make_console()
    print_cut(recording, console)
    print_comparison(result, console)
    _write(json_file, result)
    return result


def _write(path: Path | None, data: object) -> None:
    import msgspec

    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(data), indent=1) + b"\n")
