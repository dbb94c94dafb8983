"""What ``latency``, ``replay`` and ``regress`` print."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from visuomotor.deploy.record.reader import Recording
from visuomotor.launch.evaluate.difference import TopicDifference
from visuomotor.launch.evaluate.lineage import PathReport
from visuomotor.launch.replay import Comparison

BAR_CELLS = 32
FIELDS_SHOWN = 6


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
    whole_ms = max((stage.start_ms + stage.p50_ms for stage in report.stages), default=0.0)
    table = Table(title=f"camera to actuator, {report.clock}, ms")
    for name in ("stage", "starts", "p50", "p95", "p99", "max", "waterfall of medians"):
        table.add_column(name, justify="left" if name in ("stage", "waterfall of medians") else "right")
    for stage in report.stages:
        bar = ""
        if whole_ms > 0.0:
            before = round(BAR_CELLS * stage.start_ms / whole_ms)
            bar = " " * before + ("-" if stage.inner else "#") * max(1, round(BAR_CELLS * stage.p50_ms / whole_ms))
        numbers = (stage.start_ms, stage.p50_ms, stage.p95_ms, stage.p99_ms, stage.max_ms)
        table.add_row(("  " if stage.inner else "") + stage.name, *(f"{n:.2f}" for n in numbers), bar)
    console.print(table)
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
    title = f"{result.ticks} ticks of {count}" + (f", with {parts}" if parts else "")
    console.print(f"{title}, against {result.against}:", highlight=False, soft_wrap=True, markup=False)
    table = Table()
    for name in ("topic", "ticks", "differ", "digest", "digest of the replay"):
        table.add_column(name, justify="right" if name in ("ticks", "differ") else "left")
    for topic in result.topics.values():
        same = "the same" if topic.changed == 0 else topic.replayed_digest[:16]
        table.add_row(topic.service, str(topic.ticks), str(topic.changed), topic.recorded_digest[:16], same)
    console.print(table)
    for topic in result.topics.values():
        if topic.changed:
            _print_topic(topic, console)


def _print_topic(topic: TopicDifference, console: Console) -> None:
    where = f"episode {topic.first_episode}, tick {topic.first_tick}"
    console.print(
        f"{topic.service}: differs on {topic.changed} of {topic.ticks} ticks, first in {where}:", highlight=False
    )
    for field in topic.first_fields[:FIELDS_SHOWN]:
        console.print(f"  {field}", highlight=False, soft_wrap=True, markup=False)
    if len(topic.first_fields) > FIELDS_SHOWN:
        console.print(f"  and {len(topic.first_fields) - FIELDS_SHOWN} fields more", highlight=False)
    if topic.largest:
        largest = ", ".join(f"{field} {value:.3g}" for field, value in sorted(topic.largest.items()))
        console.print(f"  largest over all ticks: {largest}", highlight=False, soft_wrap=True, markup=False)
