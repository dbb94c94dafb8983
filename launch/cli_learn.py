"""Sub-commands that make data, train and evaluate: thin doors to the functions that do it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from visuomotor.launch.cli_options import (
    PLAIN,
    Detector,
    Device,
    Episodes,
    Forecaster,
    Guard,
    Jobs,
    JsonFile,
    PerceptionMode,
    Policy,
    ProfileFile,
    Seeds,
    TaskName,
    check_out,
    show_progress,
)
from visuomotor.launch.tasks import DEFAULT, parts_of_suite
from visuomotor.messages.tasks import get_task

if TYPE_CHECKING:
    from visuomotor.launch.profile import Profile

train = typer.Typer(help="Train a network and write its bundle.", **PLAIN)
evaluate = typer.Typer(help="Measure a network, or the whole graph over a suite of scenarios.", **PLAIN)

Data = Annotated[Path | None, typer.Option(metavar="DIR", help="The data set.  [default: data/<task>]")]
Tracks = Annotated[Path | None, typer.Option(metavar="DIR", help="Track samples, made when not there.")]
Bundles = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the bundle(s).")]
Runs = Annotated[Path, typer.Option(metavar="DIR", help="Folder for checkpoints and TensorBoard.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")]
TrainSeed = Annotated[int, typer.Option(min=0, help="Seed of the training.")]
Minutes = Annotated[float | None, typer.Option(min=0.0, help="At most so many minutes of training.")]


@train.command("detector")
def train_detector(
    task: TaskName = DEFAULT.name,
    data: Data = None,
    more: Annotated[list[Path] | None, typer.Option(metavar="DIR", help="A further set of training images.")] = None,
    out: Bundles = Path("runs/models"),
    runs: Runs = Path("runs"),
    epochs: Annotated[int, typer.Option(min=1)] = 20,
    batch: Annotated[int, typer.Option(min=1)] = 32,
    seed: TrainSeed = 0,
    resume: Resume = False,
    init: Annotated[Path | None, typer.Option(metavar="RUN|BUNDLE", help="Start from these weights.")] = None,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    max_minutes: Minutes = None,
) -> int:
    """Train the detector on a rendered data set and export one bundle per camera size."""
    chosen = _find_data(task, data)
    for folder in (chosen, *(more or ())):
        _need(folder / "train" / "annotations.json", f"visuomotor render {task} --out {folder}")
    from visuomotor.deploy.export.detector import export_detector
    from visuomotor.perception.train.detector_tasks import get_detector_task
    from visuomotor.perception.train.detector_train import train_detector

    for name in get_detector_task(task).bundles.values():
        check_out(out / name)
    run = train_detector(
        chosen,
        runs,
        more=tuple(more or ()),
        epochs=epochs,
        batch=batch,
        seed=seed,
        resume=resume,
        init=init,
        threads=threads,
        max_minutes=max_minutes,
    )
    return _say_bundles(export_detector(run, chosen, out))


@train.command("forecaster")
def train_forecaster(
    task: TaskName = DEFAULT.name,
    data: Tracks = None,
    out: Bundles = Path("runs/models"),
    runs: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for checkpoints and TensorBoard.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1)] = None,
    seed: TrainSeed = 1,
    resume: Resume = False,
    max_minutes: Minutes = None,
    adversarial: Annotated[float, typer.Option(min=0.0, help="Weight of a discriminator's term (GAN); 0: none.")] = 0.0,
    l1: Annotated[float, typer.Option("--l1", min=0.0, help="L1 penalty: small weights become exactly 0.")] = 0.0,
    folds: Annotated[
        int | None, typer.Option(min=2, help="Cross-validate with so many folds of episodes; makes no bundle.")
    ] = None,
) -> int:
    """Train the forecaster on tracks as the tracker delivers them and export its bundle."""
    get_task(task)  # before anything slow is imported
    if folds is None:
        check_out(out / f"{task}-forecaster")
    from visuomotor.perception.train import forecaster_tasks

    common: dict[str, Any] = {
        "data": data,
        "runs": runs,
        "resume": resume,
        "epochs": epochs,
        "seed": seed,
        "time_limit_s": None if max_minutes is None else 60.0 * max_minutes,
        "adversarial": adversarial,
        "l1": l1,
        "report": typer.echo,
    }
    if folds is not None:
        forecaster_tasks.cross_validate_forecaster(task, folds=folds, **common)
        return 0
    bundle = forecaster_tasks.train_forecaster(task, out / f"{task}-forecaster", **common)
    return _say_bundles([bundle])


@train.command("policy")
def train_policy(
    out: Bundles = Path("runs/models"),
    runs: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Checkpoints and TensorBoard.  [default: runs/<task>-policy]")
    ] = None,
    task: TaskName = DEFAULT.name,
    forecaster: Annotated[
        str | None, typer.Option(metavar="BUNDLE|cv|kalman|none[,..]", help="[default: as the task has it]")
    ] = None,
    seed: TrainSeed = 0,
    max_minutes: Annotated[float, typer.Option(min=0.0, help="Minutes over all sessions.")] = 75.0,
    max_steps: Annotated[int | None, typer.Option(min=1, help="At most so many transitions of PPO.")] = None,
    resume: Resume = False,
) -> int:
    """Train the policy in PyBullet under the perception error model and export its best checkpoint."""
    check_out(out / f"{task}-policy")
    from visuomotor.control.train.policy import make_settings, train_policy
    from visuomotor.deploy.export.policy import export_policy

    changes = {"forecaster": forecaster} if forecaster else {}
    settings = None if resume else make_settings(task, seed=seed, **changes)
    best = train_policy(
        task,
        runs or Path(f"runs/{task}-policy"),
        settings=settings,
        max_minutes=max_minutes,
        max_steps=max_steps,
        resume=resume,
        report=typer.echo,
    )
    return _say_bundles([export_policy(best, out / f"{task}-policy")])


@evaluate.command("detector")
def eval_detector(
    bundles: Annotated[list[str] | None, typer.Argument(metavar="[BUNDLE]...", help="[default: shipped]")] = None,
    task: TaskName = DEFAULT.name,
    data: Data = None,
    split: Annotated[str, typer.Option(help="train, val or test")] = "test",
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many images.")] = None,
    device: Device = None,
    json_file: JsonFile = None,
) -> int:
    """COCO AP, precision, recall by range, position error by range, latency."""
    folder = _find_data(task, data)
    _need(folder / split / "annotations.json", f"visuomotor render {task} --out {folder}")
    from visuomotor.perception.train.detector_eval import eval_detector

    chosen = bundles or list(dict.fromkeys(_profile(task).perception.detectors.values()))
    result = eval_detector(chosen, folder, split, limit=limit, device=device.value if device else "auto")
    _print_summary(result["summary"])
    return _write_json(json_file, result)


@evaluate.command("forecaster")
def eval_forecaster(
    bundle: Annotated[str | None, typer.Argument(metavar="[BUNDLE]", help="[default: shipped]")] = None,
    task: TaskName = DEFAULT.name,
    data: Tracks = None,
    split: Annotated[str, typer.Option(help="train, tune or evaluation")] = "evaluation",
    json_file: JsonFile = None,
) -> int:
    """ADE, FDE, miss rate and NLL by manoeuvre, beside constant velocity and Kalman."""
    from visuomotor.perception.train.forecaster_tasks import eval_forecaster

    chosen = bundle or _profile(task).perception.forecaster
    eval_forecaster(chosen, task=task, data=data, split=split, json_file=json_file, report=typer.echo)
    return 0


@evaluate.command("policy")
def eval_policy(
    policy: Annotated[str | None, typer.Argument(metavar="[BUNDLE|BASELINE]", help="[default: shipped]")] = None,
    task: TaskName = DEFAULT.name,
    perception: Annotated[PerceptionMode, typer.Option()] = PerceptionMode.truth,
    forecaster: Forecaster = None,
    episodes: Episodes = None,
    seeds: Seeds = None,
    jobs: Jobs = 1,
    json_file: JsonFile = None,
) -> int:
    """Run the evaluation cases of a task's suite without rendering: true tracks, unless told otherwise."""
    return eval_suite(
        _profile(task).suite,
        policy=policy,
        perception=perception,
        forecaster=forecaster,
        episodes=episodes,
        seeds=seeds,
        jobs=jobs,
        json_file=json_file,
    )


@evaluate.command("suite")
def eval_suite(
    suite: Annotated[str, typer.Argument(help="Name and version; it says which task.")] = DEFAULT.suite,
    policy: Policy = None,
    perception: Annotated[PerceptionMode | None, typer.Option()] = None,
    detector: Detector = None,
    forecaster: Forecaster = None,
    guard: Guard = True,
    episodes: Episodes = None,
    seeds: Seeds = None,
    jobs: Jobs = 1,
    device: Device = None,
    json_file: JsonFile = None,
    progress: Annotated[Path | None, typer.Option(metavar="FILE", help="Finished episodes, to go on from.")] = None,
    profile: ProfileFile = None,
) -> int:
    """Run many seeds in lockstep with all nodes in one process per job; 100 episodes when nothing is said."""
    from visuomotor.deploy.runtime.device import check_device
    from visuomotor.launch.evaluate.suite import make_run, run_suite
    from visuomotor.launch.profile import load_profile
    from visuomotor.launch.result_table import print_result
    from visuomotor.launch.run import check_bundles
    from visuomotor.launch.seeds import choose_seeds

    chosen = load_profile(profile or parts_of_suite(suite).profile).override(
        suite=suite,
        policy=policy,
        perception_mode=perception and perception.value,
        detector=detector,
        forecaster=forecaster,
        guard=None if guard else False,
        device=device and device.value,
    )
    wanted = choose_seeds(None, episodes, seeds, default=100)
    check_device(chosen.device)
    check_bundles(chosen)
    if parts_of_suite(suite) is not chosen.parts:
        raise ValueError(f"{chosen.source}: task: expected that of suite {suite}, got '{chosen.task}'")
    with show_progress("episodes") as update:
        done: list[bool] = []

        def on_episode(row: dict[str, Any]) -> None:
            done.append(bool(row["success"]))
            update(f"success {sum(done)}/{len(done)}", len(done), len(wanted))

        score = run_suite(make_run(chosen), wanted, jobs=jobs, progress=progress, on_episode=on_episode)
    print_result(score, per_episode=len(wanted) <= 20)
    if json_file is not None:
        score.save(json_file)
    return 0


def _profile(task: str) -> Profile:
    """The shipped profile of a task; ValueError with the known ones when there is no such task."""
    from visuomotor.launch.profile import load_profile

    return load_profile(get_task(task).name)


def _find_data(task: str, data: Path | None) -> Path:
    return data or Path("data") / get_task(task).name


def _need(path: Path, command: str) -> None:
    if not path.exists():
        raise ValueError(f"{path}: not there; make the data set first: {command}")


def _say_bundles(bundles: list[Any]) -> int:
    for bundle in bundles:
        typer.echo(f"bundle: {bundle.path}")
    return 0


def _write_json(path: Path | None, data: object) -> int:
    from visuomotor.launch.evaluate.score import write_json

    if path is not None:
        write_json(path, data)
    return 0


def _print_summary(summary: dict[str, Any]) -> None:
    for name, value in summary.items():
        if isinstance(value, dict) and "mean" in value:
            typer.echo(f"{name}: {value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]")
        else:
            typer.echo(f"{name}: {value}")
