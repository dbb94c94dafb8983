"""``visuomotor export``: what was trained elsewhere becomes a bundle. Thin doors to ``deploy.export``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from visuomotor.launch.cli_options import PLAIN, JsonFile

export = typer.Typer(help="Make a bundle of a trained network, proven equal to its original.", **PLAIN)


class StackAxis(StrEnum):
    """Where VecFrameStack put the frames, in what the policy sees."""

    first = "first"
    last = "last"


@export.callback()
def choose() -> None:
    """Keep the name of the sub-command in the command line while there is only one."""


@export.command("policy")
def export_policy(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="Zip of stable-baselines3, or folder of train policy.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The bundle.")],
    vecnormalize: Annotated[
        str | None, typer.Option(metavar="FILE|none", help="Of VecNormalize.save; a zip needs it, or the word none.")
    ] = None,
    task: Annotated[str | None, typer.Option(metavar="NAME", help="What it is for.  [default: custom]")] = None,
    fields: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML or JSON: name and unit of every number, in order.")
    ] = None,
    frame_stack: Annotated[int, typer.Option(min=1, metavar="N", help="Frames of VecFrameStack.")] = 1,
    stack_axis: Annotated[StackAxis | None, typer.Option(help="Where they are.  [default: VecFrameStack's]")] = None,
    recorded: Annotated[
        Path | None, typer.Option(metavar="FILE", help="npz of whole episodes, to prove parity on as well.")
    ] = None,
    json_file: JsonFile = None,
) -> int:
    """Raw observation in, the environment's action out: normaliser, stack, clip and unscale go into the graph."""
    from visuomotor.deploy.export.parity import ParityError

    try:
        if checkpoint.is_dir():
            options: dict[str, object] = {
                "vecnormalize": vecnormalize,
                "task": task,
                "fields": fields,
                "recorded": recorded,
                "frame-stack": None if frame_stack == 1 else frame_stack,
            }
            for name, value in options.items():
                if value not in (None, "none"):
                    raise ValueError(f"--{name}: expected a zip of stable-baselines3, got the folder {checkpoint}")
            from visuomotor.deploy.export.policy import export_policy as export_own

            bundle = export_own(checkpoint, out)
        else:
            if vecnormalize is None:
                raise ValueError(
                    f"--vecnormalize: {checkpoint} does not say whether training normalised its observations; give the "
                    "file of VecNormalize.save, or the word none"
                )
            from visuomotor.deploy.export.sb3 import CUSTOM, export_sb3

            bundle = export_sb3(
                checkpoint,
                out,
                vecnormalize=vecnormalize,
                task=task or CUSTOM,
                fields=fields,
                frame_stack=frame_stack,
                stack_axis=None if stack_axis is None else "first" if stack_axis is StackAxis.first else "last",
                recorded=recorded,
            )
    except ParityError as error:
        typer.echo(f"visuomotor: {checkpoint}: {error}", err=True)
        return 1
    return _say(bundle, json_file)


def _say(bundle: Any, json_file: Path | None) -> int:
    from visuomotor.launch.evaluate.score import write_json

    parity = bundle.meta.parity
    unit = " in normalised units" if "rows" in parity else ""
    typer.echo(f"bundle: {bundle.path}")
    typer.echo(f"parity: largest difference {parity['max_abs_error']:.2e}{unit} over {parity['cases']} batches")
    if json_file is not None:
        write_json(json_file, {"bundle": str(bundle.path), "parity": parity})
    return 0
