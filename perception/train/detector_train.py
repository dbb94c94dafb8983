"""Training of a task's detector, from top to bottom; ``train_detector`` is what the command line calls."""

from __future__ import annotations

import copy
import json
import math
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from visuomotor.perception.train.detector_augment import augment
from visuomotor.perception.train.detector_checkpoint import (
    load_weights,
    restore_checkpoint,
    save_checkpoint,
    save_weights,
)
from visuomotor.perception.train.detector_data import (
    Batch,
    LabelledImage,
    epoch_order,
    group_by_size,
    make_batch,
    read_split,
    read_task,
)
from visuomotor.perception.train.detector_explain import draw_found
from visuomotor.perception.train.detector_infer import evaluate_weights
from visuomotor.perception.train.detector_loss import LossConfig, detector_loss, make_targets
from visuomotor.perception.train.detector_metrics import Found
from visuomotor.perception.train.detector_model import DetectorConfig, DetectorModel, flatten, make_locations
from visuomotor.perception.train.detector_parallel import Peers, run_peers
from visuomotor.perception.train.detector_tasks import AugmentConfig, DetectorTask, get_detector_task


class TrainConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides the outcome of a training run besides the data; see ``settled`` for what may be empty."""

    epochs: int = 20
    batch: int = 32  # of the largest images, over all processes; smaller ones come in larger batches
    seed: int = 0
    threads: int = 2  # processes of one thread each, see detector_parallel
    max_minutes: float | None = None  # the schedule ends here if the epochs do not end before
    learning_rate: float = 2.5e-3
    weight_decay: float = 0.02
    warm_up_steps: int = 150
    clip_norm: float = 8.0
    ema_decay: float = 0.998
    evaluate_minutes: float = 4.0  # at least this long between two evaluations, which happen after epochs
    val_images: int = 700
    patience: int = 8  # evaluations without a better AP
    freeze_backbone: bool = False
    model: DetectorConfig | None = None
    loss: LossConfig = LossConfig()
    augment: AugmentConfig | None = None

    def settled(self, task: DetectorTask) -> TrainConfig:
        """The same with what was left open as the task's row says. Raises ValueError for a model of other classes."""
        prior = task.perception.placement.size_prior_m
        model = self.model or DetectorConfig(size_prior_m=prior)
        if len(model.size_prior_m) != len(prior):
            raise ValueError(
                f"model: expected one for the {len(prior)} classes of {task.task.name}, got {len(model.size_prior_m)}"
            )
        loss = msgspec.structs.replace(
            self.loss,
            class_weight=self.loss.class_weight or task.class_weight,
            heading_weight=self.loss.heading_weight or task.heading_weight,
        )
        return msgspec.structs.replace(self, model=model, loss=loss, augment=self.augment or task.augment)


def train_detector(
    data: Path,
    out: Path,
    *,
    more: Sequence[Path] = (),
    epochs: int = 20,
    batch: int = 32,
    seed: int = 0,
    resume: bool = False,
    init: Path | None = None,
    threads: int = 2,
    max_minutes: float | None = None,
    freeze_backbone: bool = False,
    config: TrainConfig | None = None,
) -> Path:
    """Train on ``data/train``, choose by AP on ``data/val``; return the run folder.

    That is ``out/<task>-detector-seed<seed>``, of the task whose classes the data's categories are. ``more`` are
    further data sets of which the training images are taken, too.

    The folder gets ``config.json``, ``metrics.jsonl``, ``best.safetensors`` (averaged weights), ``last.pt`` (to resume
    from) and TensorBoard's events. ``init`` starts from the weights of another run or bundle. A given ``config``
    replaces the other settings. Raises ValueError for data or weights that do not fit.
    """
    config = config or TrainConfig(
        epochs=epochs,
        batch=batch,
        seed=seed,
        threads=threads,
        max_minutes=max_minutes,
        freeze_backbone=freeze_backbone,
    )
    task = read_task(data)
    config = config.settled(task)
    run = out / f"{task.task.name}-detector-seed{config.seed}"
    run.mkdir(parents=True, exist_ok=True)
    checkpoint = run / "last.pt"
    if resume and not checkpoint.is_file():
        raise ValueError(f"{checkpoint}: nothing to resume from; expected the checkpoint of an earlier run")
    settings = {
        "task": task.task.name,
        "data": [str(Path(*folder.parts[-2:])) for folder in (data, *more)],  # not where they lie on this machine
        "init": str(init) if init else None,
        "revision": _revision(),
        "torch": torch.__version__,
    }
    settings["config"] = msgspec.to_builtins(config)
    (run / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
    print(json.dumps(settings), flush=True)

    with run_peers(config.threads, _train, data, more, run, init, resume, config) as peers:
        _train(peers, data, more, run, init, resume, config)
    return run


def _train(
    peers: Peers, data: Path, more: Sequence[Path], run: Path, init: Path | None, resume: bool, config: TrainConfig
) -> None:
    """One process of the run: its share of the images, the same weights as the others."""
    torch.manual_seed(config.seed + 1000 * peers.rank)
    rng = np.random.default_rng(config.seed)  # the same in all processes: equal batch sizes at every step
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    first = peers.rank == 0

    groups = group_by_size(
        [image for folder in (data, *more) for image in read_split(folder, "train", part=peers.rank, parts=peers.count)]
    )
    val = group_by_size(read_split(data, "val", config.val_images)) if first else []
    if not groups or (first and not val):
        raise ValueError(f"{data}: expected images in train and val, got {len(groups)} and {len(val)} image sizes")

    task = get_detector_task(groups[0][0].task)
    model = DetectorModel(config.model)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if init is not None:
        load_weights(model, init)
    if config.freeze_backbone:
        model.backbone.requires_grad_(False)
    average = copy.deepcopy(model).eval()
    optimizer = _make_optimizer(model, config)
    locations = {g[0].image.shape: make_locations(*g[0].image.shape[:2]) for g in groups}
    bfloat16 = peers.agree(_bfloat16_is_faster(model, groups[0]) if first else False)
    batch = max(4, config.batch // peers.count)
    steps_per_epoch = sum(1 for _ in epoch_order(groups, batch, np.random.default_rng(0)))
    total_steps = steps_per_epoch * config.epochs
    state: dict[str, Any] = {"epoch": 0, "step": 0, "elapsed_s": 0.0, "best": -1.0, "stale": 0}
    if resume:
        state = restore_checkpoint(run / "last.pt", model, average, optimizer, rng)
    else:
        peers.share(model)
        average.load_state_dict(model.state_dict())
    writer = SummaryWriter(str(run)) if first else None
    if first:
        print(f"train {peers.count} x {_describe(groups)}; val {_describe(val)}", flush=True)
        print(f"{steps_per_epoch} steps per epoch, bfloat16 {bfloat16}, start {state}", flush=True)

    started = time.monotonic() - state["elapsed_s"]
    last_evaluation = time.monotonic()
    progress = _progress_share(state["step"], total_steps, state["elapsed_s"], config.max_minutes)
    with _progress(first) as bar:
        shown = bar.add_task("train", total=total_steps, completed=state["step"], text="")
        finished = False
        while not finished:
            model.train()
            if config.freeze_backbone:
                model.backbone.eval()
            sums: dict[str, float] = {}
            seen, epoch_started, steps = 0, time.monotonic(), 0
            for batch_data in _prefetch(groups, batch, config.augment or task.augment, rng, peers.rank):
                rate = learning_rate(config, state["step"], progress)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                terms = _gradients(model, optimizer, batch_data, locations, config, task, bfloat16)
                share = _progress_share(state["step"] + 1, total_steps, time.monotonic() - started, config.max_minutes)
                progress = peers.average(model, share)
                nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
                optimizer.step()
                _update_average(average, model, min(config.ema_decay, (1 + state["step"]) / (10 + state["step"])))
                for name, value in terms.items():
                    sums[name] = sums.get(name, 0.0) + value
                state["step"] += 1
                steps += 1
                seen += len(batch_data.images) * peers.count
                bar.update(shown, completed=state["step"], text=f"loss {terms['total']:.3f}")
                if first and state["step"] % 50 == 0:
                    speed = seen / (time.monotonic() - epoch_started)
                    text = " ".join(f"{k} {v / steps:.3f}" for k, v in sums.items())
                    print(f"step {state['step']} {progress:.3f} lr {rate:.5f} {speed:.1f} img/s {text}", flush=True)
                if progress >= 1.0:
                    break
            state["epoch"] += 1
            finished = progress >= 1.0 or state["epoch"] >= config.epochs
            due = finished or time.monotonic() - last_evaluation > config.evaluate_minutes * 60.0
            if writer is not None:
                for name, value in sums.items():
                    writer.add_scalar(f"train/{name}", value / max(steps, 1), state["step"])
                writer.add_scalar("train/learning_rate", optimizer.param_groups[0]["lr"], state["step"])
                if due:
                    torch.set_num_threads(config.threads)
                    metrics, found = evaluate_weights(average, groups, val, config.seed)
                    torch.set_num_threads(1)
                    last_evaluation = time.monotonic()
                    _log_evaluation(run, writer, state, time.monotonic() - started, metrics, val, found)
                    if metrics["ap50_95"] > state["best"]:
                        state["best"], state["stale"] = metrics["ap50_95"], 0
                        save_weights(average, run / "best.safetensors")
                    else:
                        state["stale"] += 1
                state["elapsed_s"] = time.monotonic() - started
                save_checkpoint(run / "last.pt", model, average, optimizer, rng, state)
            finished = peers.agree(finished or state["stale"] >= config.patience)
    if writer is not None:
        writer.close()
        print(f"done after {state['elapsed_s'] / 60:.1f} min, best AP50:95 {state['best']:.3f}", flush=True)


def learning_rate(config: TrainConfig, step: int, progress: float) -> float:
    """Linear warm-up over steps, then cosine to zero over the share of the run that is done (0..1)."""
    warm = min(1.0, (step + 1) / config.warm_up_steps)
    return config.learning_rate * warm * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))


def _progress_share(step: int, total: int, elapsed_s: float, max_minutes: float | None) -> float:
    share = step / max(total, 1)
    return max(share, elapsed_s / (max_minutes * 60.0)) if max_minutes else share


def _gradients(
    model: DetectorModel,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    locations: dict[tuple[int, ...], Tensor],
    config: TrainConfig,
    task: DetectorTask,
    bfloat16: bool,
) -> dict[str, float]:
    images = torch.from_numpy(batch.images).permute(0, 3, 1, 2).float()
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        raw = model(images)
    targets = make_targets(batch, task.task.symmetry)
    loss, terms = detector_loss(model, raw, locations[batch.images.shape[1:]], targets, config.loss)
    if not torch.isfinite(loss):
        raise FloatingPointError(f"loss is {float(loss)}: {terms}")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    return {"total": float(loss.detach()), **terms}


def _prefetch(
    groups: list[list[LabelledImage]], batch: int, config: AugmentConfig, rng: np.random.Generator, rank: int
) -> Iterator[Batch]:
    """Augmented batches of one epoch, made in a thread ahead of their use (OpenCV releases the interpreter lock)."""
    order = list(epoch_order(groups, batch, rng))
    seeds = rng.integers(0, 2**63, len(order))
    ready: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=3)
    stop = threading.Event()

    def put(item: Batch | BaseException) -> None:
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.2)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for images, seed in zip(order, seeds, strict=True):
                own = np.random.default_rng([int(seed), rank])
                pairs = [augment(i.image, i.objects, config, own) for i in images]
                put(make_batch([p[0] for p in pairs], [p[1] for p in pairs]))
                if stop.is_set():
                    return
        except BaseException as error:  # handed to the training thread, which raises it
            put(error)

    thread = threading.Thread(target=work, name="augment", daemon=True)
    thread.start()
    try:
        for _ in order:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()


def _make_optimizer(model: DetectorModel, config: TrainConfig) -> torch.optim.Optimizer:
    trainable = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trainable if p.ndim > 1]
    plain = [p for p in trainable if p.ndim <= 1]  # norms and biases
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=config.learning_rate,
    )


@torch.no_grad()
def _update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    for a, b in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if a.dtype.is_floating_point:
            a.lerp_(b, 1.0 - decay)


def _bfloat16_is_faster(model: DetectorModel, images: list[LabelledImage]) -> bool:
    """Time two forward and backward passes each way; processors without bfloat16 units are slower with it."""
    trial = copy.deepcopy(model).train()
    stack = np.stack([images[i % len(images)].image for i in range(8)])
    x = torch.from_numpy(stack).permute(0, 3, 1, 2).float()
    best = {}
    for enabled in (False, True):
        times = []
        for _ in range(3):
            start = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                raw = trial(x)
            flatten(raw).square().mean().backward()
            times.append(time.perf_counter() - start)
        best[enabled] = min(times)
    return best[True] < 0.9 * best[False]


def _log_evaluation(
    run: Path,
    writer: SummaryWriter,
    state: dict[str, Any],
    elapsed_s: float,
    metrics: dict[str, Any],
    val: list[list[LabelledImage]],
    found: list[list[Found]],
) -> None:
    line = {"epoch": state["epoch"], "step": state["step"], "minutes": round(elapsed_s / 60.0, 2), **metrics}
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line), flush=True)
    for key in ("ap50", "ap50_95"):
        writer.add_scalar(f"val/{key}", metrics[key], state["step"])
    for name, score in metrics["by_class"].items():
        writer.add_scalar(f"val_ap50_95/{name}", score["ap50_95"], state["step"])
    class_names = get_detector_task(val[0][0].task).task.class_names
    for group, results in zip(val, found, strict=True):
        for i in range(0, len(group), max(1, len(group) // 3))[:3] if group else []:
            picture = draw_found(group[i].image, results[i], class_names)[:, :, ::-1].copy()
            writer.add_image(f"val/{group[i].camera}_{group[i].image_id}", picture, state["step"], dataformats="HWC")


def _progress(shown: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, TextColumn("{task.fields[text]}"), disable=not shown or not sys.stdout.isatty())


def _describe(groups: list[list[LabelledImage]]) -> str:
    parts = []
    for group in groups:
        height, width = group[0].image.shape[:2]
        parts.append(f"{len(group)} of {width}x{height} with {sum(int(i.objects.wanted.sum()) for i in group)} objects")
    return ", ".join(parts)


def _revision() -> str:
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
