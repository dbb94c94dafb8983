"""Sub-commands that make bundles of networks that exist already: thin doors to the functions that do it."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from visuomotor.launch.cli_options import PLAIN

export = typer.Typer(help="Make a bundle of a network that exists already.", **PLAIN)


class LayoutName(StrEnum):
    """Layouts of ``deploy.export.foreign_layouts``, which is not imported before it is needed."""

    yolox = "yolox"
    ultralytics = "ultralytics"
    end2end = "end2end"


@export.callback()
def _group() -> None:
    """Keep the name of the sub-command, also while there is only one."""


@export.command("detector")
def export_detector(
    onnx: Annotated[Path, typer.Option(metavar="FILE", help="The network, batch fixed to 1.")],
    layout: Annotated[LayoutName, typer.Option(help="How its output is laid out (docs/own_detector.md).")],
    labels: Annotated[Path, typer.Option(metavar="FILE", help="Names of its classes, one a line.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The bundle.")],
    camera: Annotated[
        str, typer.Option(metavar="front|left|right|WxH", help="Whose frames it gets: a camera of the drive profile.")
    ] = "front",
    map_file: Annotated[
        Path | None, typer.Option("--map", metavar="FILE", help="YAML, label: class or null; changes COCO's mapping.")
    ] = None,
    score_threshold: Annotated[
        float | None, typer.Option(help="Weaker boxes are left out.  [default: 0.3 for yolox, else 0.25]")
    ] = None,
    nms_iou: Annotated[
        float | None,
        typer.Option(help="Of two boxes of a class that overlap more, one stays.  [default: 0.45, 0.7, 0.8 by layout]"),
    ] = None,
) -> int:
    """Put letterbox, decoding, class mapping and suppression around a foreign detector and write its bundle."""
    width, height = _find_size(camera)
    from visuomotor.deploy.export.foreign_detector import ForeignSettings, import_detector
    from visuomotor.deploy.export.foreign_layouts import Layout

    settings = ForeignSettings(
        layout=Layout(layout.value),
        labels=labels,
        width=width,
        height=height,
        map_file=map_file,
        score_threshold=score_threshold,
        nms_iou=nms_iou,
    )
    bundle = import_detector(onnx, out, settings)
    mapped = ", ".join(f"{label} -> {name}" for label, name in bundle.meta.training["labels"].items())
    typer.echo(f"classes: {mapped}")
    typer.echo(f"bundle: {bundle.path}")
    return 0


def _find_size(text: str) -> tuple[int, int]:
    """Width and height of "640x384" or of a camera of the drive profile."""
    from visuomotor.launch.profile import load_profile
    from visuomotor.messages.camera import load_camera

    if found := re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text):
        return int(found[1]), int(found[2])
    profile = load_profile("drive")
    files = dict(zip(profile.cameras, profile.camera_files, strict=True))
    if (name := f"camera_{text}") not in files:
        known = ", ".join(camera.removeprefix("camera_") for camera in files)
        raise ValueError(f"--camera: expected WIDTHxHEIGHT or one of {known}, got {text!r}")
    model = load_camera(Path(files[name]))
    return model.width, model.height
