"""``visuomotor render TASK``: labelled pictures from each task's simulator; what may be chosen is each one's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from visuomotor.launch.cli_options import PLAIN, Jobs, show_progress

render = typer.Typer(help="Make labelled data sets from the simulator, in COCO form.", **PLAIN)

Out = Annotated[Path, typer.Option(metavar="DIR", help="The data set; an unfinished one is gone on with.")]
Frames = Annotated[int, typer.Option(min=1, help="Images over all splits and cameras.")]
DataSeed = Annotated[int, typer.Option(min=0, help="Seed of the data set.")]
Only = Annotated[list[str] | None, typer.Option(help="Only this one of train, val, test.")]


@render.command("drive")
def render_drive(
    out: Out,
    frames: Frames = 8000,
    seed: DataSeed = 1,
    jobs: Jobs = 1,
    crowd: Annotated[
        str, typer.Option(help="Who is added to the traffic: around, or people-afar for small people and cyclists.")
    ] = "around",
    camera: Annotated[list[str] | None, typer.Option(help="Only this one of left, right, front.")] = None,
    only: Only = None,
) -> int:
    """Render images of traffic with boxes, ground points, distances, headings and visible shares."""
    from visuomotor.sim.dataset import FOLDERS, drive_cameras, render_drive

    cameras = [c for c in drive_cameras() if camera is None or c.name.removeprefix("camera_") in camera]
    if camera is not None and len(cameras) != len(set(camera)):
        raise ValueError(f"--camera: expected left, right or front, got {', '.join(camera)}")
    folders = only or tuple(FOLDERS)
    with show_progress("images") as update:
        summary = render_drive(
            out, frames, seed, jobs=jobs, cameras=cameras, crowd=crowd, folders=folders, progress=update
        )
    return _say(summary)


@render.command("pick")
def render_pick(out: Out, frames: Frames = 7200, seed: DataSeed = 1, jobs: Jobs = 1, only: Only = None) -> int:
    """Render images of parts on the belt with boxes, points on the belt, yaws and visible shares."""
    from visuomotor.sim.cell.dataset import FOLDERS, render_pick

    with show_progress("images") as update:
        summary = render_pick(out, frames, seed, jobs=jobs, folders=only or tuple(FOLDERS), progress=update)
    return _say(summary)


def _say(summary: Mapping[str, Any]) -> int:
    for name, counts in summary.items():
        typer.echo(f"{name}: {counts}")
    return 0
