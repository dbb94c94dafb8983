"""What ``visuomotor train forecaster`` and ``visuomotor eval forecaster`` do: data, training, scores, bundle."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch

from visuomotor.deploy.export.forecaster import export_forecaster
from visuomotor.deploy.runtime.bundle import Bundle, load_bundle, write_bundle
from visuomotor.messages.tasks import DEFAULT_TASK
from visuomotor.perception.baseline_forecasters import ConstantVelocity, Kalman
from visuomotor.perception.forecaster import BASELINES, Forecaster, load_forecaster
from visuomotor.perception.train import eth_ucy
from visuomotor.perception.train.eth_ucy_data import load_split
from visuomotor.perception.train.forecaster_adversarial import AdversarialSettings, Adversary
from visuomotor.perception.train.forecaster_data import SceneSet, batches
from visuomotor.perception.train.forecaster_folds import RESULTS, cross_validate
from visuomotor.perception.train.forecaster_metrics import by_manoeuvre, score_agents
from visuomotor.perception.train.forecaster_model import ForecasterConfig
from visuomotor.perception.train.forecaster_rows import FORECASTERS, ForecasterRow
from visuomotor.perception.train.forecaster_train import TrainingResult, TrainingSettings, train

RECORDED = "eth-ucy"  # recordings of pedestrians: a benchmark that is split by scene, not by episode
TASKS = (*FORECASTERS, RECORDED)
Report = Callable[[str], None]


def train_forecaster(
    task: str = DEFAULT_TASK,
    out: Path | str | None = None,
    *,
    data: Path | str | None = None,
    runs: Path | str | None = None,
    resume: bool = False,
    epochs: int | None = None,
    seed: int = 1,
    time_limit_s: float | None = None,
    adversarial: float = 0.0,
    l1: float = 0.0,
    report: Report = print,
) -> Bundle:
    """Train the forecaster of a task and write its bundle to ``out`` (default ``models/<task>-forecaster``).

    ``data``: a folder of track samples (default as ``track_folder``, made from the simulator when it is not there); for
    eth-ucy the folder with ``raw/``. ``runs`` holds checkpoints and TensorBoard events (default
    ``runs/forecaster-<task>``); ``resume`` goes on from there. ``adversarial`` is the weight of a discriminator's term
    (0: none), ``l1`` of an L1 penalty. Raises ValueError on an unknown task, missing data or a negative weight.
    """
    _check(task, adversarial, l1)
    torch.set_num_threads(1)
    folder = Path(runs or f"runs/forecaster-{task}")
    loaded = _load(task, data, report)
    settings = _settings(loaded.settings, seed, epochs, time_limit_s, l1)
    result = train(
        loaded.train_set,
        loaded.tune_set,
        loaded.config,
        settings,
        folder,
        resume=resume,
        report=report,
        extra_loss=_adversary(adversarial, loaded.config, seed),
    )
    training: dict[str, Any] = {
        "data": loaded.source,
        "agents": len(loaded.train_set),
        "seed": seed,
        "settings": msgspec.to_builtins(asdict(settings) | {"time_limit_s": str(settings.time_limit_s)}),
        "epochs": result.epochs,
        "best_epoch": result.best_epoch,
        "seconds": round(result.seconds),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} thread",
    }
    if adversarial:
        training["adversarial"] = asdict(AdversarialSettings(adversarial))
    if l1:
        training["zero_share"] = result.zero_share

    row = FORECASTERS.get(task)
    bundle = export_forecaster(
        result.network,
        Path(out or f"models/{task}-forecaster"),
        task=task,
        training=training,
        metrics={},
        report="",
        code_revision=_revision(),
        class_names=(row or FORECASTERS[DEFAULT_TASK]).perception.task.class_names,
    )
    if row is not None:  # scored as it will run, so it has to exist first
        scores = eval_forecaster(bundle.path, data=loaded.root, report=report)
        bundle = _describe(bundle, scores["forecasters"]["lstm"], track_report(scores, result, training, row))
    else:
        bundle = _describe(bundle, {"validation_score_m": result.best_score}, _eth_report(result, training))
    report(f"wrote {bundle.path}")
    return bundle


def cross_validate_forecaster(
    task: str = DEFAULT_TASK,
    *,
    folds: int,
    data: Path | str | None = None,
    runs: Path | str | None = None,
    resume: bool = False,
    epochs: int | None = None,
    seed: int = 1,
    time_limit_s: float | None = None,
    adversarial: float = 0.0,
    l1: float = 0.0,
    report: Report = print,
) -> dict[str, Any]:
    """Train and score ``folds`` networks on the train split, each without some of its episodes; see ``cross_validate``.

    Options are those of ``train_forecaster``; ``time_limit_s`` is that of each fold. Writes ``folds.json`` to ``runs``
    (default ``runs/forecaster-<task>-folds``) and no bundle. Raises ValueError as ``train_forecaster`` does, on fewer
    than 2 folds or more than there are episodes, and for eth-ucy, which is split by scene in its own module.
    """
    _check(task, adversarial, l1)
    if task == RECORDED:
        raise ValueError("folds: eth-ucy leaves one scene out: python -m visuomotor.perception.train.eth_ucy")
    if folds < 2:  # before tracks are made for it
        raise ValueError(f"folds: expected 2 or more, got {folds}")
    torch.set_num_threads(1)
    folder = Path(runs or f"runs/forecaster-{task}-folds")
    loaded = _load(task, data, report)
    found = cross_validate(
        loaded.train_set,
        loaded.tune_set,
        loaded.config,
        _settings(loaded.settings, seed, epochs, time_limit_s, l1),
        folds,
        folder,
        resume=resume,
        report=report,
        make_extra_loss=lambda: _adversary(adversarial, loaded.config, seed),
        task=FORECASTERS[task].perception,
        miss_m=FORECASTERS[task].miss_m,
        note={"task": task, "adversarial": adversarial},
    )
    report(f"wrote {folder / RESULTS}")
    return found


class _TaskData(NamedTuple):
    root: Path
    train_set: SceneSet
    tune_set: SceneSet
    config: ForecasterConfig
    settings: TrainingSettings
    source: dict[str, Any]


def _load(task: str, data: Path | str | None, report: Report) -> _TaskData:
    if task in FORECASTERS:
        row = FORECASTERS[task]
        root = Path(data) if data is not None else track_folder(task)
        _need_tracks(root, row, report)
        train_set, tune_set = SceneSet.load(root / "train.npz"), SceneSet.load(root / "tune.npz")
        source: dict[str, Any] = {
            split: json.loads((root / f"{split}.json").read_text()) for split in ("train", "tune", "evaluation")
        }
        return _TaskData(root, train_set, tune_set, row.config, row.settings, source)
    if data is None:
        raise ValueError("data: expected the folder of the ETH/UCY recordings (with raw/), got none")
    root = Path(data)
    train_set, tune_set = load_split(root, None, "train", 1), load_split(root, None, "val", 1)
    source = {"recordings": "ETH (BIWI) and UCY, training parts of all scenes", "validation": "their val parts"}
    return _TaskData(root, train_set, tune_set, eth_ucy.CONFIG, eth_ucy.SETTINGS, source)


def track_folder(task: str) -> Path:
    """Where the track samples of a task are unless somebody says otherwise."""
    return Path("data/tracks" if task == DEFAULT_TASK else f"data/{task}-tracks")


def _check(task: str, adversarial: float, l1: float) -> None:
    """Refuse what is wrong before tracks are made for it."""
    if task not in TASKS:
        raise ValueError(f"task: expected one of {', '.join(TASKS)}, got {task!r}")
    AdversarialSettings(adversarial)
    TrainingSettings(l1=l1)


def _settings(
    base: TrainingSettings, seed: int, epochs: int | None, time_limit_s: float | None, l1: float
) -> TrainingSettings:
    limit = base.time_limit_s if time_limit_s is None else time_limit_s
    return replace(base, seed=seed, epochs=epochs or base.epochs, time_limit_s=limit, l1=l1)


def _adversary(weight: float, config: ForecasterConfig, seed: int) -> Adversary | None:
    return Adversary(config, AdversarialSettings(weight), seed) if weight else None


def _describe(bundle: Bundle, metrics: dict[str, Any], text: str) -> Bundle:
    """The same bundle with metrics and report."""
    meta = msgspec.structs.replace(bundle.meta, metrics=metrics)
    model = bundle.model_path.read_bytes()
    return write_bundle(bundle.path, model=model, meta=meta, report=text, weights=bundle.weights_path)


def eval_forecaster(
    forecaster: str | Path = f"{DEFAULT_TASK}-forecaster",
    *,
    task: str | None = None,
    data: Path | str | None = None,
    split: str = "evaluation",
    json_file: Path | str | None = None,
    report: Report = print,
) -> dict[str, Any]:
    """Score a forecaster beside constant velocity and Kalman with the same number of futures, by manoeuvre.

    ``task`` is by default the bundle's, and ``data`` that of ``track_folder``.

    Returns (and writes to ``json_file``) ``forecasters`` -> name -> manoeuvre -> metric -> mean, low, high, n.
    """
    row = FORECASTERS[task] if task else _row_of(forecaster)
    path = (Path(data) if data is not None else track_folder(row.perception.name)) / f"{split}.npz"
    if not path.is_file():
        raise ValueError(f"{path}: expected track samples; make them with train_forecaster or tracks_data")
    samples = SceneSet.load(path)
    learned = load_forecaster(forecaster, task=row.perception, device="cpu")
    if learned is None:
        raise ValueError("forecaster: expected a bundle, cv or kalman, got none")
    compared: dict[str, Forecaster] = {
        "lstm": learned,
        "cv": ConstantVelocity(row.perception),
        "kalman": Kalman(row.perception),
    }
    results = {name: score_forecaster(one, samples, row) for name, one in compared.items()}
    out = {"split": split, "forecaster": str(forecaster), "agents": int(samples.scored.sum()), "forecasters": results}
    for line in table(results):
        report(line)
    if json_file is not None:
        Path(json_file).parent.mkdir(parents=True, exist_ok=True)
        Path(json_file).write_text(json.dumps(out, indent=1) + "\n")
    return out


def _row_of(forecaster: str | Path) -> ForecasterRow:
    """The row of the task that a bundle was made for; for a baseline or a benchmark's bundle of the default task."""
    if str(forecaster) in (*BASELINES, "none"):
        return FORECASTERS[DEFAULT_TASK]
    return FORECASTERS.get(load_bundle(forecaster, "forecaster").meta.task, FORECASTERS[DEFAULT_TASK])


def score_forecaster(forecaster: Forecaster, samples: SceneSet, row: ForecasterRow) -> dict[str, Any]:
    """Scores by manoeuvre of one forecaster, run as in the graph."""
    scores: dict[str, list[np.ndarray]] = {}
    manoeuvre, group = [], []
    for batch in batches(samples, 400, None):
        futures = forecaster.predict(batch.history_m, batch.present, batch.class_id, batch.scene)
        keep = batch.scored
        position, spread, probability = (f[keep] for f in futures)
        part = score_agents(position, spread, probability, batch.future_m[keep], batch.future_present[keep], row.miss_m)
        for name, values in part.items():
            scores.setdefault(name, []).append(values)
        manoeuvre.append(batch.manoeuvre[keep])
        group.append(batch.group[keep])
    joined = {name: np.concatenate(values) for name, values in scores.items()}
    return by_manoeuvre(joined, np.concatenate(manoeuvre), np.concatenate(group), row.manoeuvres)


def table(results: dict[str, Any]) -> list[str]:
    """Markdown table of minADE / minFDE and of the most probable future, by manoeuvre."""
    lines = [
        "| manoeuvre | n | "
        + " | ".join(f"{name}: minADE / minFDE / ADE / FDE (m), miss, NLL" for name in results)
        + " |",
        "|---" * (2 + len(results)) + "|",
    ]
    first = next(iter(results.values()))
    for manoeuvre, values in first.items():
        cells = []
        for scores in results.values():
            s = {k: v["mean"] for k, v in scores[manoeuvre].items()}
            cells.append(
                f"{s['min_ade_m']:.3f} / {s['min_fde_m']:.3f} / {s['ade_m']:.3f} / {s['fde_m']:.3f}, "
                f"{s['miss_rate']:.2f}, {s['nll']:.2f}"
            )
        lines.append(f"| {manoeuvre} | {values['ade_m']['n']} | " + " | ".join(cells) + " |")
    return lines


def track_report(scores: dict[str, Any], result: TrainingResult, training: dict[str, Any], row: ForecasterRow) -> str:
    """The account that goes into the bundle."""
    task = row.perception.task
    horizon_s = task.horizon_steps * task.forecast_step_s
    episodes = {split: training["data"][split]["episodes"] for split in ("train", "evaluation")}
    return "\n".join(
        [
            f"# Forecaster for {row.objects}",
            "",
            f"LSTM encoder-decoder with attention to neighbours; {task.futures} futures of {horizon_s:g} s with "
            "probabilities and covariance.",
            f"Trained on {training['agents']} tracks as the tracker delivers them, from {episodes['train']} simulated",
            f"episodes of the train split, for {result.epochs} epochs ({training['seconds']} s);",
            f"the best epoch, {result.best_epoch}, was chosen on the tune split.",
            "",
            f"Evaluation split, {episodes['evaluation']} episodes, {scores['agents']} tracks; the baselines have six",
            "futures too, tuned on the tune split:",
            "",
            *table(scores["forecasters"]),
            "",
        ]
    )


def _eth_report(result: TrainingResult, training: dict[str, Any]) -> str:
    return "\n".join(
        [
            "# Forecaster for pedestrians, ETH/UCY",
            "",
            "8 observed and 12 predicted steps of 0.4 s. This network saw the training parts of all scenes",
            f"({training['agents']} agents in windows), so it has no held-out scene; leave-one-scene-out scores are in",
            f"`benchmarks/results/eth_ucy.json`. {result.epochs} epochs, best {result.best_epoch}.",
            "Only pedestrians were seen in training: other classes are undefined.",
            "",
        ]
    )


def _need_tracks(root: Path, row: ForecasterRow, report: Report) -> None:
    missing = [split for split in row.episodes if not (root / f"{split}.npz").is_file()]
    if missing:
        from visuomotor.perception.train.tracks_data import make_dataset  # needs the simulator

        report(f"{root}: making {', '.join(missing)} from the simulator")
        make_dataset(root, {split: row.episodes[split] for split in missing}, row, report)


def _revision() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent, check=False
    )
    return done.stdout.strip()
