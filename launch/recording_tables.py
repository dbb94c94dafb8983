"""What ``latency``, ``replay`` and ``regress`` print."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from visuomotor.deploy.record.reader import Recording
from visuomotor.launch.evaluate.difference import TopicDifference
from visuomotor.launch.evaluate.lineage import PathReport, PathStage
from visuomotor.launch.replay import Comparison

BAR_CELLS, BAR_CELLS_MIN = 32, 7
UNLIMITED = 1000  # characters; no table is as wide
FIELDS_SHOWN = 6


def make_console() -> Console:
    """Standard output; a file or a pipe has no width to which a table would have to be cut."""
    console = Console()
    if not console.is_terminal:
        console.width = UNLIMITED
    return console


def print_cut(recording: Recording, console: Console) -> None:
    """Say that a recording ends early, and how much of the file cannot be used."""
    if not recording.complete:
        why = f" ({recording.damage})" if recording.damage else ""
        console.print(
            f"{recording.path}: was not closed: read to the cut, {recording.lost_bytes} bytes after it are lost{why}",
            highlight=False,
            soft_wrap=True,
        )


def print_latency(report: PathReport, console: Console) -> None:
    """The waterfall, what was lost on the way, and the rates."""
    wide = _stage_table(report, BAR_CELLS)
    too_wide = Measurement.get(console, console.options.update(width=UNLIMITED), wide).maximum - console.width
    console.print(_stage_table(report, min(BAR_CELLS, max(BAR_CELLS_MIN, BAR_CELLS - too_wide))))
    for name, values in report.totals_ms.items():
        numbers_text = ", ".join(f"{key} {value:.1f}" for key, value in values.items())
        console.print(f"{name.replace('_', ' ')}: {numbers_text} ms", highlight=False)
    console.print(
        f"{report.commands} commands: {report.complete} followed to the actuator, {report.not_actuated} overtaken or "
        f"cut off, {report.repeated} repeated, {report.incomplete} without a whole path, {report.several_hosts} over "
        "clocks of several hosts",
        highlight=False,
        soft_wrap=True,
    )
    _print_counts(report, console)


def _stage_table(report: PathReport, bar_cells: int) -> Table:
    whole_ms = max((stage.start_ms + stage.p50_ms for stage in report.stages), default=0.0)
    table = Table(title=f"camera to actuator, {report.clock}, ms; waterfall of medians")
    table.add_column("stage", overflow="fold")
    for name in ("starts", "p50", "p95", "p99", "max"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("medians", width=bar_cells)
    for name, stage in zip(stage_names(report.stages), report.stages, strict=True):
        bar = ""
        if whole_ms > 0.0:
            before = min(bar_cells - 1, round(bar_cells * stage.start_ms / whole_ms))
            cells = round(bar_cells * stage.p50_ms / whole_ms)
            bar = " " * before + ("-" if stage.inner else "#") * max(1, min(cells, bar_cells - before))
        numbers = (stage.start_ms, stage.p50_ms, stage.p95_ms, stage.p99_ms, stage.max_ms)
        table.add_row(name, *(f"{n:.2f}" for n in numbers), bar)
    return table


def stage_names(stages: Sequence[PathStage]) -> list[str]:
    """A row's name for each stage: of one inside another, what it adds to the name of that, indented under it."""
    names: list[str] = []
    around: list[str] = []  # what the stage above is, outermost first
    for stage in stages:
        if not stage.inner:
            around = [stage.name.split(":")[0]]
            names.append(stage.name)
            continue
        while around and not stage.name.startswith(f"{around[-1]}."):
            around.pop()
        added = stage.name.removeprefix(f"{around[-1]}.") if around else stage.name
        names.append(" " * max(1, len(around)) + added)
        around.append(stage.name)
    return names


def _print_counts(report: PathReport, console: Console) -> None:
    table = Table(title="messages")
    for name in ("service", "sent and recorded", "rate Hz", "not recorded", "no command came of it"):
        table.add_column(name, justify="left" if name == "service" else "right")
    for service, count in report.messages.items():
        unused = str(report.unused[service]) if service in report.unused else ""
        missing = str(report.not_recorded.get(service, 0))
        table.add_row(service, str(count), f"{report.rate_hz[service]:.2f}", missing, unused)
    console.print(table)
    for node, causes in report.refused.items():
        if any(causes.values()):
            text = ", ".join(f"{count} {cause}" for cause, count in causes.items())
            console.print(f"{node} refused: {text}", highlight=False)
    if report.clock == "realtime":
        missed = ", ".join(f"{node} {count}" for node, count in report.missed_deadlines.items())
        console.print(f"missed deadlines: {missed}", highlight=False)


def print_comparison(result: Comparison, console: Console) -> None:
    """Digest per topic, and of each topic that differs the first message, field by field."""
    for note in result.notes:
        console.print(f"note: {note}", highlight=False, soft_wrap=True)
    parts = ", ".join(f"{part} {value}" for part, value in result.replaced.items())
    count = "1 episode" if result.episodes == 1 else f"{result.episodes} episodes"
    title = f"{result.ticks} ticks of {count}, recorded in {result.clock}" + (f", with {parts}" if parts else "")
    console.print(f"{title}, against {result.against}:", highlight=False, soft_wrap=True, markup=False)
    table = Table()
    lockstep = result.clock == "lockstep"
    called = ("recorded", "replayed") if lockstep else ("recorded parts", "replaced parts")
    digests = ("digest", "digest of the replay") if lockstep else [f"digest, {name}" for name in called]
    for name in ("topic", "ticks", "differ", *digests):
        table.add_column(name, justify="right" if name in ("ticks", "differ") else "left")
    for topic in result.topics.values():
        same = "the same" if topic.changed == 0 else topic.replayed_digest[:16]
        table.add_row(topic.service, str(topic.ticks), str(topic.changed), topic.recorded_digest[:16], same)
    console.print(table)
    for topic in result.topics.values():
        if topic.changed:
            _print_topic(topic, console, called)


def _print_topic(topic: TopicDifference, console: Console, called: tuple[str, str]) -> None:
    where = f"episode {topic.first_episode}, tick {topic.first_tick}"
    console.print(
        f"{topic.service}: differs on {topic.changed} of {topic.ticks} ticks, first in {where}:", highlight=False
    )
    for field in topic.first_fields[:FIELDS_SHOWN]:
        console.print(f"  {field.describe(*called)}", highlight=False, soft_wrap=True, markup=False)
    if len(topic.first_fields) > FIELDS_SHOWN:
        console.print(f"  and {len(topic.first_fields) - FIELDS_SHOWN} fields more", highlight=False)
    if topic.largest:
        largest = ", ".join(f"{field} {value:.3g}" for field, value in sorted(topic.largest.items()))
        console.print(f"  largest over all ticks: {largest}", highlight=False, soft_wrap=True, markup=False)
