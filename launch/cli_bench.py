"""The sub-command ``bench``: a thin door to ``launch.bench``."""

from __future__ import annotations

from typing import Annotated

import typer

from visuomotor.launch.cli_options import DeviceName, JsonFile


def bench(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="Folder, or name of a shipped bundle.")],
    device: Annotated[DeviceName, typer.Option(help="Where; one that is not to be had is an error.")] = DeviceName.auto,
    threads: Annotated[int, typer.Option(min=1, max=64, help="Of every way alike.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, metavar="N", help="Timed calls of each way.")] = 200,
    rows: Annotated[
        int | None, typer.Option(min=1, help="Agents or cars in one call.  [default: 8 for a forecaster, else 1]")
    ] = None,
    fp16: Annotated[bool, typer.Option("--fp16", help="Half precision; with --device tensorrt.")] = False,
    compile: Annotated[bool, typer.Option(help="Try torch.compile too; it may take a minute.")] = True,
    json_file: JsonFile = None,
) -> int:
    """Latency and memory of a bundle: this runtime, bare ONNX Runtime, OpenCV and torch, measured in one run."""
    from visuomotor.launch.bench import Settings, print_bench, run_bench

    result = run_bench(
        bundle,
        Settings(device=device.value, threads=threads, calls=repeats, rows=rows or 0, fp16=fp16, compile=compile),
    )
    print_bench(result)
    if json_file is not None:
        import msgspec

        from visuomotor.launch.evaluate.score import write_json

        write_json(json_file, msgspec.to_builtins(result))
    return 0
