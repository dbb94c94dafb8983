"""The table of results that ends a run."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from visuomotor.launch.evaluate.score import Score

LATENCY_KEY = "camera_to_command"


def print_result(score: Score, console: Console | None = None) -> None:
    """One row per episode, and one line each on latency and guard."""
    console = console or Console()
    table = Table(
        title=f"{score.task} {score.suite}: policy {score.policy}, perception {score.perception}", min_width=60
    )
    for name in ("seed", "end", "time s", "speed m/s", "route %", "min TTC s", "guard ticks"):
        table.add_column(name, justify="left" if name == "end" else "right")
    for row in score.episodes:
        end = str(row["end"]) + (f": {row['fault_node']}" if row.get("fault_node") else "")
        table.add_row(
            str(row["seed"]),
            end,
            f"{row['duration_s']:.1f}",
            _number(row.get("mean_speed_mps"), 1),
            _number(row.get("route_completion"), 0, 100.0),
            _number(row.get("min_ttc_s"), 1),
            str(row.get("guard_ticks", 0)),
        )
    console.print(table)
    if latency := score.latency_ms.get(LATENCY_KEY):
        console.print(
            f"camera to command: p50 {latency['p50']:.1f} ms, p99 {latency['p99']:.1f} ms; "
            f"missed deadlines {100 * score.missed_deadlines:.1f} %",
            highlight=False,
        )
    causes = ", ".join(f"{name} {count}" for name, count in score.guard_interventions.items())
    guard = f"acted on {100 * score.guard_tick_share:.1f} % of ticks" + (f" ({causes})" if causes else "")
    console.print(f"guard: {guard if score.guard else 'switched off'}", highlight=False)
    for line in score.assumed:
        console.print(f"assumed: {line}", highlight=False)


def _number(value: float | None, digits: int, scale: float = 1.0) -> str:
    return "-" if value is None else f"{value * scale:.{digits}f}"
