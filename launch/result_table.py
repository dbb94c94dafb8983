"""The table of results that ends a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from visuomotor.launch.evaluate.metrics import Column, measures_of
from visuomotor.launch.evaluate.score import Score

LATENCY_KEY = "camera_to_command"


def print_result(score: Score, console: Console | None = None, *, per_episode: bool = True) -> None:
    """One row per episode, the summary with its intervals where there are several, and lines on latency and guard."""
    console = console or Console()
    if per_episode:
        console.print(_episode_table(score))
    if len(score.episodes) > 1:
        console.print(_summary_table(score))
    if latency := score.latency_ms.get(LATENCY_KEY):
        text = f"camera to command: p50 {latency['p50']:.1f} ms, p99 {latency['p99']:.1f} ms"
        if score.clock == "realtime":
            text += f"; missed deadlines {100 * score.missed_deadlines:.1f} %"
        console.print(text, highlight=False)
    for host, facts in score.provenance.get("hosts", {}).get("others", {}).items():
        if "clock_bound_ms" in facts:
            bound = f"{facts['clock_bound_ms']:.3f} ms"
            console.print(f"host {host}: clock, and so transport there and back, known within {bound}", highlight=False)
    causes = ", ".join(f"{name} {count}" for name, count in score.guard_interventions.items())
    guard = f"acted on {100 * score.guard_tick_share:.1f} % of ticks" + (f" ({causes})" if causes else "")
    console.print(f"guard: {guard if score.guard else 'switched off'}", highlight=False)
    for row in score.episodes:
        if "frames_read" in row:
            text = f"{row['frames_read']} frames read, {row['frames_published']} published"
            console.print(f"camera: {text}, {row['frames_between_ticks']} between ticks of 10 Hz", highlight=False)
    for line in score.assumed:
        console.print(f"assumed: {line}", highlight=False)


def _episode_table(score: Score) -> Table:
    title = f"{score.task} {score.suite}: policy {score.policy}, perception {score.perception}"
    table = Table(title=title, min_width=60)
    columns = measures_of(score.task).columns
    for name in ("seed", "end", "time s", *(column.title for column in columns), "guard ticks"):
        table.add_column(name, justify="left" if name == "end" else "right")
    for row in score.episodes:
        end = str(row["end"]) + (f": {row['fault_node']}" if row.get("fault_node") else "")
        table.add_row(
            str(row["seed"]),
            end,
            f"{row['duration_s']:.1f}",
            *(_cell(row, column) for column in columns),
            str(row.get("guard_ticks", 0)),
        )
    return table


def _summary_table(score: Score) -> Table:
    table = Table(title=f"{len(score.episodes)} episodes: mean and 95 % interval", min_width=60)
    table.add_column("metric")
    for name in ("mean", "low", "high"):
        table.add_column(name, justify="right")
    for name, estimate in score.summary.items():
        table.add_row(name, *(f"{value:.3f}" for value in (estimate.mean, estimate.low, estimate.high)))
    return table


def _cell(row: Mapping[str, Any], column: Column) -> str:
    value = row.get(column.key)
    if value is None:
        return "-"
    text = f"{value * column.scale:.{column.digits}f}"
    return f"{text}/{row[column.of]}" if column.of else text
