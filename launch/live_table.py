"""What a person sees while a run goes on: a live table at a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from visuomotor.launch.collector import RunCollector
from visuomotor.launch.evaluate.metrics import make_metrics
from visuomotor.launch.notify import ServiceManager
from visuomotor.messages.schema import Truth

LINE_PERIOD_S = 5.0
REDRAW_PERIOD_S = 0.25


class LiveTable:
    """Shows a RunCollector; call ``update`` as often as one likes."""

    def __init__(
        self,
        collector: RunCollector,
        episodes: int,
        title: str,
        console: Console | None = None,
        service: ServiceManager | None = None,
    ) -> None:
        self.console = console or Console(stderr=True)
        self._service = service or ServiceManager()
        self._collector = collector
        self._episodes = episodes
        self._describe = make_metrics(collector.kind).progress
        self._title = title
        self._live: Live | None = None
        self._due_s = 0.0
        self._line_due_s = 0.0
        self.truth: Truth | None = None
        self._rates: dict[str, float] = {}
        self._counted: tuple[float, dict[str, int]] = (time.monotonic(), {})

    def __enter__(self) -> LiveTable:
        if self.console.is_terminal:
            self._live = Live(self._draw(), console=self.console, auto_refresh=False, transient=True)
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)

    def say(self, text: str) -> None:
        """A line that stays."""
        (self._live.console if self._live is not None else self.console).print(text, highlight=False, soft_wrap=True)

    def update(self) -> None:
        """Redraw, at most four times a second; without a terminal a line of progress every few seconds.

        A service manager is told in place of that: a journal of months needs no lines of progress.
        """
        if self._service.listens:
            self._service.status(self._service_text)
            return
        now = time.monotonic()
        if self._live is not None and now >= self._due_s:
            self._due_s = now + REDRAW_PERIOD_S
            self._measure_rates(now)
            self._live.update(self._draw(), refresh=True)
        elif self._live is None and now >= self._line_due_s:
            if self._line_due_s:
                self.say(self._progress_text())
            self._line_due_s = now + LINE_PERIOD_S

    def _measure_rates(self, now_s: float) -> None:
        """Steps per second of the wall clock, over the last second or more."""
        since_s, before = self._counted
        if now_s - since_s >= 1.0:
            counts = {name: node.steps_heard for name, node in self._collector.nodes.items()}
            self._rates = {name: (n - before.get(name, 0)) / (now_s - since_s) for name, n in counts.items()}
            self._counted = (now_s, counts)

    def _progress_text(self) -> str:
        number = len(self._collector.episodes)
        seed = self._collector.episodes[-1].seed if number else 0
        text = f"episode {number}/{self._episodes}, seed {seed}"
        truth = self.truth
        if truth is not None:
            text += f": {self._describe(truth)[0]}, {truth.header.tick / 10:.1f} s"
        return text

    def _service_text(self) -> str:
        nodes = self._collector.nodes
        steps = max((node.steps for node in nodes.values()), default=0)
        notes = [f"{name}: {node.text}" for name, node in nodes.items() if node.text]
        text = f"{self._progress_text()}, {steps} steps, {100 * self._collector.missed_share():.1f} % deadlines missed"
        return "; ".join([text, *notes])

    def _draw(self) -> Group:
        table = Table(title=self._title, title_justify="left", expand=False)
        table.add_column("node")
        table.add_column("state")
        table.add_column("provider")
        for column in ("rate Hz", "age ms", "step p50 ms", "p99 ms", "missed"):
            table.add_column(column, justify="right")
        now_ns = time.monotonic_ns()
        for name, node in self._collector.nodes.items():
            spread = node.summary_ms()
            age_ms = (now_ns - node.heard_ns) * 1e-6 if node.heard_ns else 0.0
            style = "red" if node.state == "fault" else ""
            table.add_row(
                name,
                Text(node.state, style=style),
                node.provider.replace("ExecutionProvider", "") or "-",
                f"{self._rates.get(name, 0.0):.1f}",
                f"{age_ms:.0f}",
                f"{spread['p50']:.1f}",
                f"{spread['p99']:.1f}",
                str(node.missed),
            )
        done = self._describe(self.truth)[1] if self.truth is not None else 0.0
        return Group(table, Text(self._progress_text()), ProgressBar(total=1.0, completed=done, width=60))
