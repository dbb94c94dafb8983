"""The ``visuomotor`` command: sub-commands, their options, and what their failures look like.

Exit codes: 0 done, 1 failed or ended by a fault, 2 bad input. Heavy modules are imported inside the commands.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from visuomotor import __version__
from visuomotor.launch import (
    cli_bench,
    cli_export,
    cli_hosts,
    cli_learn,
    cli_order,
    cli_precision,
    cli_record,
    cli_render,
    cli_service,
)
from visuomotor.launch.cli_options import (
    PLAIN,
    Clock,
    Detector,
    Device,
    Episodes,
    Forecaster,
    Guard,
    Host,
    Inject,
    JsonFile,
    KeepRuns,
    Lossy,
    MaxDuration,
    PerceptionMode,
    Policy,
    ProfileFile,
    Record,
    Report,
    RunDir,
    Seed,
    Seeds,
    View,
)
from visuomotor.launch.tasks import PARTS, VEHICLE, TaskParts

EXIT_DONE, EXIT_FAILED, EXIT_BAD_INPUT = 0, 1, 2
INTERRUPTED = 130  # what typer makes of Ctrl-C: 128 + SIGINT
EXTRAS = {  # module -> extra that brings it
    "pybullet": "sim",
    "gymnasium": "sim",
    "torch": "train",
    "stable_baselines3": "train",
    "sb3_contrib": "train",
    "onnx": "export",
    "safetensors": "train",
    "tensorboard": "train",
    "faster_coco_eval": "train",
    "matplotlib": "train",
    "can": "vehicle",
    "rerun": "viz",
}

app = typer.Typer(help="See, predict, act: train in simulation, run the same graph on the vehicle.", **PLAIN)
launch = typer.Typer(help="Run the graph: in simulation, or on a real camera.", **PLAIN)
app.add_typer(launch, name="launch")
app.add_typer(cli_render.render, name="render")
app.add_typer(cli_learn.train, name="train")
app.add_typer(cli_learn.evaluate, name="eval")
app.add_typer(cli_export.export, name="export")
app.add_typer(cli_service.service, name="service")
app.add_typer(cli_hosts.keys, name="keys")
app.command()(cli_hosts.join)
app.command()(cli_order.order)
for command in (
    cli_precision.quantize,
    cli_bench.bench,
    cli_record.replay,
    cli_record.regress,
    cli_record.latency,
):
    app.command()(command)


def _launch_command(task: TaskParts) -> Callable[..., int]:
    """``launch TASK``, with the options that fit the task."""
    policies = "|".join(("BUNDLE", *task.baseline_policies))
    policy_option = typer.Option(metavar=policies, help="What commands the robot.  [default: the profile's]")
    order_option = typer.Option(
        metavar="TEXT",
        hidden=not task.takes_orders,
        help='What to pick, as in "red cube, 2 duck".  [default: each case has its own]',
    )

    def launch_task(
        seed: Seed = None,
        episodes: Episodes = None,
        seeds: Seeds = None,
        clock: Annotated[Clock | None, typer.Option(help="lockstep: the same bytes every time.")] = None,
        order: str | None = None,
        policy: str | None = None,
        perception: Annotated[PerceptionMode | None, typer.Option(help="truth and blind: for comparison only.")] = None,
        detector: Detector = None,
        forecaster: Forecaster = None,
        guard: Guard = True,
        device: Device = None,
        max_duration: MaxDuration = None,
        report: Report = None,
        record: Record = None,
        lossy: Lossy = False,
        view: View = False,
        json_file: JsonFile = None,
        inject: Inject = None,
        run_dir: RunDir = None,
        keep: KeepRuns = None,
        profile: ProfileFile = None,
        host: Host = None,
    ) -> int:
        from visuomotor.launch import run
        from visuomotor.launch.profile import load_profile
        from visuomotor.launch.run_folders import parse_keep
        from visuomotor.launch.seeds import choose_seeds

        base = load_profile(profile or task.profile)
        if base.task != task.name:
            raise ValueError(f"{base.source}: task: expected '{task.name}' for this command, got '{base.task}'")
        if order is not None and task.takes_orders and not order.strip():
            raise ValueError("--order: expected what to pick, as in 'red cube, 2 duck', got nothing")
        chosen = base.override(
            clock=clock and clock.value,
            order=order,
            policy=policy,
            perception_mode=perception and perception.value,
            detector=detector,
            forecaster=forecaster,
            guard=None if guard else False,
            device=device and device.value,
            max_duration_s=max_duration,
        )
        return run.launch(
            chosen,
            run.Options(
                seeds=choose_seeds(seed, episodes, seeds),
                report=report,
                record=record,
                lossy=lossy,
                view=view,
                json_file=json_file,
                inject=tuple(inject or ()),
                run_dir=run_dir,
                keep=parse_keep(keep) if keep else None,
                host=host or "",
            ),
        )

    launch_task.__annotations__ |= {
        "policy": Annotated[str | None, policy_option],
        "order": Annotated[str | None, order_option],
    }
    return launch_task


for row in PARTS.values():
    launch.command(row.name, help=f"{row.does}; one episode of seed 0 when nothing is said.")(_launch_command(row))


@launch.command("vehicle")
def launch_vehicle(
    camera: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]FILE|INDEX|DEVICE|ADDRESS",
            help="Video file, camera index, /dev/video0 or RTSP address; of the first camera when no NAME is given "
            "(repeatable).",
        ),
    ] = None,
    route: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Route of waypoints, in place of the profile's.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the simulated car behind a CAN bus.")] = None,
    policy: Policy = None,
    detector: Detector = None,
    forecaster: Forecaster = None,
    device: Device = None,
    max_duration: MaxDuration = None,
    report: Report = None,
    record: Record = None,
    lossy: Lossy = False,
    view: View = False,
    json_file: JsonFile = None,
    inject: Inject = None,
    run_dir: RunDir = None,
    keep: KeepRuns = None,
    profile: ProfileFile = None,
    host: Host = None,
) -> int:
    """Run the same perception, policy and guard on real cameras.

    Video alone (the default) drives nothing: commands go to a dry-run sink. A profile with a CAN bus drives the car
    behind it: a real one (``--profile car.yaml``) or a simulated one (``--profile sim-can``).
    """
    from visuomotor.launch import run
    from visuomotor.launch.profile import load_profile
    from visuomotor.launch.run_folders import parse_keep
    from visuomotor.launch.vehicle_check import check_bus, check_vehicle, choose_sources

    base = load_profile(profile or "vehicle-video")
    if base.task != VEHICLE and base.can is None:
        raise ValueError(f"{base.source}: task: expected 'vehicle', or a simulated car with 'can', got '{base.task}'")
    chosen = base.override(
        policy=policy,
        detector=detector,
        forecaster=forecaster,
        device=device and device.value,
        max_duration_s=max_duration,
        sources=choose_sources(base, camera or []),
        route=None if route is None else str(route.absolute()),
    )
    if chosen.task == VEHICLE:
        if seed is not None:
            raise ValueError(f"{chosen.source.name}: --seed {seed}: only of a simulated car")
        check_vehicle(chosen)
    else:
        check_bus(chosen)
    return run.launch(
        chosen,
        run.Options(
            seeds=[seed or 0],
            report=report,
            record=record,
            lossy=lossy,
            view=view,
            json_file=json_file,
            inject=tuple(inject or ()),
            run_dir=run_dir,
            keep=parse_keep(keep) if keep else None,
            host=host or "",
        ),
    )


@launch.command("car")
def launch_car(
    profile: Annotated[str, typer.Option(metavar="FILE", help="Profile of the vehicle that shall drive it.")],
    seed: Annotated[int, typer.Option(min=0, help="Of its road and traffic.")] = 0,
    route: Annotated[Path | None, typer.Option(metavar="FILE", help="Write its route here, as CSV.")] = None,
    limit_s: Annotated[float, typer.Option(min=1.0, help="Give up waiting for the vehicle's commands.")] = 120.0,
    json_file: JsonFile = None,
) -> int:
    """Simulate a whole car for `launch vehicle` to drive: its CAN bus, its cameras as video streams, its driver.

    It stands by until the first COMMAND comes and ends when none comes any more and the car stands.
    """
    from visuomotor.launch.car import drive_car

    return drive_car(profile, seed, route, limit_s, json_file)


@app.command("doctor")
def doctor(profile: ProfileFile = None, json_file: JsonFile = None) -> int:
    """Say what this machine has, what the installation or a profile lacks, and what to do about it."""
    from visuomotor.launch.doctor import examine

    return examine(profile, json_file)


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"visuomotor {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say it.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more, and show tracebacks.")] = False,
) -> None:
    """Options before the sub-command."""
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
    if verbose:
        os.environ["VISUOMOTOR_VERBOSE"] = "1"
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(name)s: %(message)s")


def main(arguments: list[str] | None = None) -> NoReturn:
    """Entry point of the ``visuomotor`` command."""
    sys.exit(run_app(arguments))


def run_app(arguments: list[str] | None = None) -> int:
    """Run the command line; every expected failure becomes one message on stderr and an exit code."""
    try:
        code = app(args=arguments, prog_name="visuomotor", standalone_mode=False)
        if code == INTERRUPTED:
            return _complain("interrupted", code)
        return code if isinstance(code, int) else EXIT_DONE
    except (KeyboardInterrupt, typer.Abort):
        return _complain("interrupted", EXIT_FAILED)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        return _complain(f"{error.name} is not installed: pip install 'visuomotor[{extra}]'", EXIT_BAD_INPUT)
    except Exception as error:
        return _explain(error)


def _explain(error: Exception) -> int:
    from visuomotor.launch.disk import explain_disk_error

    if reason := explain_disk_error(error):  # may pass: no bad input
        return _complain(reason, EXIT_FAILED)
    if isinstance(error, (ValueError, FileNotFoundError)):
        return _complain(str(error), EXIT_BAD_INPUT)
    if hasattr(error, "show") and hasattr(error, "exit_code"):  # typer's own: a wrong option, argument or command
        error.show()
        return EXIT_BAD_INPUT
    from visuomotor.launch.supervisor import RunError

    if isinstance(error, RunError):
        return _complain(str(error), error.exit_code)
    traceback.print_exc()
    return EXIT_FAILED


def _complain(message: str, code: int) -> int:
    if os.environ.get("VISUOMOTOR_VERBOSE"):
        traceback.print_exc()
    sys.stderr.write(f"visuomotor: {message}\n")
    return code


if __name__ == "__main__":
    main()
