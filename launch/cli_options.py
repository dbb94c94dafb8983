"""Options that several sub-commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from visuomotor.launch.inject import HELP

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


class Task(StrEnum):
    """What is learned for."""

    drive = "drive"


class PerceptionMode(StrEnum):
    """How road users become known."""

    real = "real"
    truth = "truth"
    blind = "blind"


Seed = Annotated[int | None, typer.Option(min=0, help="First seed; any integer >= 0.  [default: 0]")]
Seeds = Annotated[str | None, typer.Option(metavar="A:B", help="Half-open range of seeds, in place of --seed.")]
Episodes = Annotated[int | None, typer.Option(min=1, help="How many episodes, one seed after the other.")]
JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write the score here too, for machines.")
]
Policy = Annotated[str | None, typer.Option(metavar="BUNDLE|idm|random", help="The driver.  [default: the profile's]")]
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
