"""Sub-command ``quantize``: a bundle in lower precision, measured against its source."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from visuomotor.launch.cli_options import Device, JsonFile


class PrecisionName(StrEnum):
    """Precisions of ``deploy.export.precision``, which is not imported before it is needed."""

    int8 = "int8"
    fp16 = "fp16"


def quantize(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="A float bundle: folder, or name of a shipped one.")],
    precision: Annotated[PrecisionName, typer.Option(help="Of weights and activations.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The new bundle; not written when the loss is too large.")],
    calibrate: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Images, data set, video or recordings; npz or recordings where no frames."),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(metavar="DATASET", help="Labelled data set on which a detector's loss is measured.")
    ] = None,
    max_loss: Annotated[
        float, typer.Option(min=0.0, metavar="POINTS", help="Loss of AP that is still accepted, on --labels.")
    ] = 1.0,
    max_difference: Annotated[
        float, typer.Option(min=0.0, help="Difference of outputs still accepted where there is no AP, normalised.")
    ] = 0.1,
    frames: Annotated[int, typer.Option(min=16, help="How many of --calibrate are used.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice among them.")] = 0,
    unchecked: Annotated[bool, typer.Option("--unchecked", help="Write a detector without knowing its loss.")] = False,
    device: Device = None,
    json_file: JsonFile = None,
) -> int:
    """Make an INT8 or FP16 bundle, and say what it loses and what it wins; exit code 1 when it loses too much."""
    from visuomotor.deploy.export.precision import Precision, PrecisionSettings, quantize_bundle
    from visuomotor.launch.evaluate.score import write_json

    outcome = quantize_bundle(
        bundle,
        out,
        PrecisionSettings(
            precision=Precision(precision.value),
            calibrate=calibrate,
            labels=labels,
            max_loss_points=max_loss,
            max_difference=max_difference,
            frames=frames,
            seed=seed,
            unchecked=unchecked,
            device=device.value if device else "auto",
        ),
        say=typer.echo,
    )
    if json_file is not None:
        write_json(json_file, outcome.facts)
    if outcome.bundle is None:
        typer.echo(f"visuomotor: {outcome.verdict}; {out} was not written", err=True)
        return 1
    typer.echo(outcome.verdict)
    typer.echo(f"bundle: {outcome.bundle.path}")
    return 0
