"""Options that several sub-commands share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from visuomotor.launch.inject import HELP
from visuomotor.launch.tasks import PARTS

PLAIN: dict[str, Any] = {"pretty_exceptions_enable": False, "rich_markup_mode": None, "no_args_is_help": True}


class Clock(StrEnum):
    """Clocks of a run."""

    lockstep = "lockstep"
    realtime = "realtime"


class DeviceName(StrEnum):
    """Where networks run."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    tensorrt = "tensorrt"


class PerceptionMode(StrEnum):
    """How what is around the robot becomes known."""

    real = "real"
    truth = "truth"
    blind = "blind"


def check_file(path: Path | None) -> Path | None:
    """A file that will be written at the end: what cannot be is said before the work. Raises ValueError."""
    if path is not None:
        if path.is_dir():
            raise ValueError(f"{path} cannot be written: {path} is a folder; expected a file")
        above = next(parent for parent in path.absolute().parents if parent.exists())
        if not above.is_dir():
            raise ValueError(f"{path} cannot be written: {above} is a file; expected a folder")
    return path


def check_out(path: Path) -> None:
    """That a bundle can be written there is found out before the work, or hours of training. Raises BundleError."""
    from visuomotor.deploy.runtime.bundle import check_place

    check_place(path, "--out: ")


Seed = Annotated[int | None, typer.Option(min=0, help="First seed; any integer >= 0.  [default: 0]")]
Seeds = Annotated[str | None, typer.Option(metavar="A:B", help="Half-open range of seeds, in place of --seed.")]
Episodes = Annotated[int | None, typer.Option(min=1, help="How many episodes, one seed after the other.")]
JsonFile = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", help="Write the score here too, for machines.", callback=check_file),
]
Jobs = Annotated[int, typer.Option(min=1, help="Processes at once.")]
Policy = Annotated[
    str | None, typer.Option(metavar="BUNDLE|BASELINE", help="What commands the robot.  [default: the profile's]")
]
TaskName = Annotated[str, typer.Option("--task", metavar="|".join(PARTS), help="What the robot is to do.")]
Forecaster = Annotated[str | None, typer.Option(metavar="BUNDLE|cv|none", help="The forecaster.")]
Detector = Annotated[
    str | None,
    typer.Option(metavar="BUNDLE|FOLDER|CAMERA=BUNDLE,...", help="Other detectors than the profile's."),
]
Guard = Annotated[bool, typer.Option("--guard/--no-guard", help="The guard; off in simulation only.")]
Device = Annotated[DeviceName | None, typer.Option(help="Where networks run; one that is not to be had is an error.")]
ProfileFile = Annotated[str | None, typer.Option(metavar="FILE", help="Profile to start from.")]
RunDir = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of sockets and logs.  [default: runs/<time>]")]
KeepRuns = Annotated[
    str | None,
    typer.Option("--keep", metavar="RUNS,SIZE,AGE", help="Remove older folders in runs/, as in 50,2GB,30d."),
]
MaxDuration = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", help="End an episode after so long at the latest, as a timeout."),
]
Host = Annotated[
    str | None, typer.Option("--as", metavar="HOST", help="Which host of the profile this is, where it has several.")
]
Report = Annotated[Path | None, typer.Option(metavar="DIR", help="Write score.json, report.html and a video here.")]
Record = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Record every message into this MCAP file, frames lossless.")
]
Lossy = Annotated[bool, typer.Option("--lossy", help="With --record: frames as JPEG; replay and regress refuse them.")]
View = Annotated[bool, typer.Option("--view", help="Show cameras, tracks and forecasts live in Rerun's viewer.")]
Inject = Annotated[
    list[str] | None,
    typer.Option(metavar="SPEC", help=HELP),
]


@contextmanager
def show_progress(unit: str) -> Iterator[Callable[[str, int, int], None]]:
    """A bar at a terminal, a line now and then elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(unit, total=None)
        said = time.monotonic()

        def update(text: str, done: int, total: int) -> None:
            nonlocal said
            bar.update(task, description=text, completed=done, total=total)
            if not console.is_terminal and (done == total or time.monotonic() - said > 10.0):
                said = time.monotonic()
                console.print(f"{text}: {done} of {total} {unit}", highlight=False, soft_wrap=True)

        yield update
