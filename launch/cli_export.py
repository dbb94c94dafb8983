"""Sub-commands that make bundles of networks that exist already: thin doors to the functions that do it."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from visuomotor.launch.cli_options import PLAIN, JsonFile, check_out

export = typer.Typer(help="Make a bundle of a network that exists already.", **PLAIN)


class LayoutName(StrEnum):
    """Layouts of ``deploy.export.foreign_layouts``, which is not imported before it is needed."""

    yolox = "yolox"
    ultralytics = "ultralytics"
    end2end = "end2end"


class StackAxis(StrEnum):
    """Where VecFrameStack put the frames, in what the policy sees."""

    first = "first"
    last = "last"


@export.command("detector")
def export_detector(
    onnx: Annotated[Path, typer.Option(metavar="FILE", help="The network, batch fixed to 1.")],
    layout: Annotated[LayoutName, typer.Option(help="How its output is laid out (docs/own_detector.md).")],
    labels: Annotated[Path, typer.Option(metavar="FILE", help="Names of its classes, one a line.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The bundle.")],
    camera: Annotated[
        str, typer.Option(metavar="front|left|right|WxH", help="Whose frames it gets: a camera of the driving profile.")
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
    check_out(out)
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

    check_out(out)
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
            from visuomotor.control.train.checkpoint_folder import check_folder

            check_folder(checkpoint)
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
    return _say_policy(bundle, json_file)


def _find_size(text: str) -> tuple[int, int]:
    """Width and height of "640x384" or of a camera of the profile that runs when none is named."""
    from visuomotor.launch.profile import load_profile
    from visuomotor.launch.tasks import DEFAULT
    from visuomotor.messages.camera import load_camera

    if found := re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text):
        return int(found[1]), int(found[2])
    profile = load_profile(DEFAULT.profile)
    files = dict(zip(profile.cameras, profile.camera_files, strict=True))
    if (name := f"camera_{text}") not in files:
        known = ", ".join(camera.removeprefix("camera_") for camera in files)
        raise ValueError(f"--camera: expected WIDTHxHEIGHT or one of {known}, got {text!r}")
    model = load_camera(Path(files[name]))
    return model.width, model.height


def _say_policy(bundle: Any, json_file: Path | None) -> int:
    from visuomotor.launch.evaluate.score import write_json

    parity = bundle.meta.parity
    unit = " in normalised units" if "rows" in parity else ""
    typer.echo(f"bundle: {bundle.path}")
    typer.echo(f"parity: largest difference {parity['max_abs_error']:.2e}{unit} over {parity['cases']} batches")
    if json_file is not None:
        write_json(json_file, {"bundle": str(bundle.path), "parity": parity})
    return 0
