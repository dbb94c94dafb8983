"""A trained policy to a bundle: normaliser, mean action and clip in one ONNX graph, proven equal to torch."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from visuomotor.control.layout import ObservationLayout
from visuomotor.control.train.checkpoint import LearnedDriver, Progress, load_checkpoint
from visuomotor.control.train.lesson import Lesson
from visuomotor.control.train.lessons import get_lesson
from visuomotor.control.train.normalizer import Normalizer
from visuomotor.control.train.warm_ppo import WarmPPO
from visuomotor.deploy.export.parity import ParityResult, check_parity
from visuomotor.deploy.export.policy_rows import get_policy_row
from visuomotor.deploy.export.portable import strip_traces
from visuomotor.deploy.export.revision import find_revision
from visuomotor.deploy.runtime.bundle import Bundle, BundleMeta, TensorSpec, write_bundle
from visuomotor.deploy.runtime.session import make_session

INPUT, OUTPUT = "observation", "action_norm"


class PolicyGraph(nn.Module):
    """Raw observation [batch, D] to action [batch, A] in [-1, 1]."""

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, actor: nn.Module, mean: torch.Tensor, deviation: torch.Tensor, clip: float) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        self.clip = clip
        self.actor = actor

    @classmethod
    def of_checkpoint(cls, model: WarmPPO, normalizer: Normalizer) -> PolicyGraph:
        """The graph of a trained policy."""
        return cls(
            nn.Sequential(model.policy.mlp_extractor.policy_net, model.policy.action_net),
            torch.tensor(normalizer.mean, dtype=torch.float32),
            torch.tensor(normalizer.deviation, dtype=torch.float32),
            float(normalizer.clip),
        )

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """Standardise, run the actor, clip."""
        scaled = torch.clamp((observation - self.mean) / self.deviation, -self.clip, self.clip)
        return torch.clamp(self.actor(scaled), -1.0, 1.0)


def export_policy(
    checkpoint: Path,
    out: Path,
    *,
    recorded: np.ndarray | None = None,
    metrics: Mapping[str, Any] | None = None,
    report: str | None = None,
) -> Bundle:
    """Write the bundle of a policy checkpoint and return it as loaded.

    Parity with torch is checked on random and edge observations and on ``recorded`` ones [M, D], where given. Raises
    ParityError when the graph differs, ValueError when the checkpoint is damaged or of another observation layout.
    """
    model, normalizer, progress = load_checkpoint(checkpoint)
    row, lesson = get_policy_row(progress.task), get_lesson(progress.task)
    interface, layout = row.interface, row.interface.layout
    graph = PolicyGraph.of_checkpoint(model, normalizer).eval()
    data = _to_onnx(graph, layout.size)
    meta = BundleMeta(
        kind="policy",
        task=progress.task,
        inputs=(
            TensorSpec(
                name=INPUT,
                dtype="float32",
                shape=("batch", layout.size),
                meaning=interface.observe.__module__.removeprefix("visuomotor."),
            ),
        ),
        outputs=(
            TensorSpec(
                name=OUTPUT,
                dtype="float32",
                shape=("batch", interface.action_size),
                low=-1.0,
                high=1.0,
                meaning=row.action,
            ),
        ),
        training={
            "algorithm": _algorithm(progress, lesson),
            "split": "train",
            "settings": progress.settings,
            "minutes": round(progress.minutes, 1),
            "environment_steps": progress.environment_steps,
            "tuning": {"split": "tune", "seeds": [0, int(progress.settings["evaluation_cases"])]},
        },
        code_revision=find_revision(),
        metrics=dict(metrics) if metrics is not None else _tuning_metrics(progress),
        extra={
            "observation_hash": layout.hash,
            "observation_names": list(layout.names),
            "observation_units": list(layout.units),
            "observation_low": [float(v) for v in layout.low],
            "observation_high": [float(v) for v in layout.high],
            "action_limits": msgspec.to_builtins(row.limits),
        },
    )
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.safetensors"
        save_file({name: value.contiguous() for name, value in graph.state_dict().items()}, weights)
        driver = LearnedDriver(model, normalizer, interface)
        session = make_session(data, "cpu", threads=1)
        parity = check_parity(
            lambda case: {OUTPUT: driver.act_on(case[INPUT])}, session, _parity_cases(layout, recorded)
        ).raise_if_failed()
        meta = msgspec.structs.replace(meta, parity=parity.to_meta())
        return write_bundle(
            out, model=data, meta=meta, report=report or _report(row.title, progress, lesson, parity), weights=weights
        )


def _to_onnx(graph: PolicyGraph, size: int) -> bytes:
    batch = torch.export.Dim("batch", min=1, max=65536)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            graph,
            (torch.zeros(2, size),),
            path,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes={"observation": {0: batch}},
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        return strip_traces(path.read_bytes())


def _parity_cases(layout: ObservationLayout, recorded: np.ndarray | None) -> Iterator[dict[str, np.ndarray]]:
    """Random inside the bounds, at the bounds, beyond them, single and many rows, and recorded observations."""
    rng = np.random.default_rng(0)
    low, high = layout.low, layout.high
    for rows in (1, 3, 7, 256):
        yield {INPUT: rng.uniform(low, high, (rows, layout.size)).astype(np.float32)}
    edges = np.where(rng.random((128, layout.size)) < 0.5, low, high)
    yield {INPUT: edges.astype(np.float32)}
    yield {INPUT: np.stack([low, high, 0.5 * (low + high), 3.0 * low, 3.0 * high]).astype(np.float32)}
    if recorded is not None:
        for part in np.array_split(np.asarray(recorded, np.float32), max(len(recorded) // 512, 1)):
            yield {INPUT: part}


def _tuning_metrics(progress: Progress) -> dict[str, Any]:
    """The figures of the evaluation at which this checkpoint was written."""
    if not progress.evaluations:
        return {}
    last = progress.evaluations[-1]
    metrics: dict[str, Any] = {}
    for name in ("truth", "errors"):
        for figure, value in last[name].items():
            if figure not in ("text", "score"):
                quantity, unit = (figure[:-4], "_mps") if figure.endswith("_mps") else (figure, "")
                metrics[f"tune_{quantity}_{name}{unit}"] = value
    metrics.update({f"tune_success_baseline_{name}": value for name, value in progress.baseline.items()})
    return metrics


def _algorithm(progress: Progress, lesson: Lesson) -> str:
    teacher = lesson.teachers[progress.settings["teacher"]]
    imitation = f"imitation of {teacher} (DAgger, {int(progress.imitation.get('samples', 0))} labelled states)"
    if not progress.environment_steps:
        return imitation
    return f"{imitation}, then PPO of stable-baselines3 ({progress.environment_steps} steps)"


def _report(title: str, progress: Progress, lesson: Lesson, parity: ParityResult) -> str:
    rows = [
        f"| {e['minutes']:.0f} | {e['phase']} | {e['steps']} | {e['truth']['text']} | {e['errors']['text']} |"
        for e in progress.evaluations
    ]
    baseline = ", ".join(f"{name} {value:.1%}" for name, value in progress.baseline.items())
    return "\n".join(
        [
            f"# {title}",
            "",
            f"How it was trained: {_algorithm(progress, lesson)}, on the perception error model.",
            "Cases: split `train`; this checkpoint was written at the last evaluation below, on the first",
            f"{progress.settings['evaluation_cases']} cases of split `tune`; evaluation cases were never used.",
            "",
            *([f"{lesson.baseline} on the same tuning cases: {baseline}.", ""] if baseline else []),
            "| minutes | phase | PPO steps | truth | error model |",
            "|---|---|---|---|---|",
            *rows,
            "",
            f"Parity with torch over {parity.cases} batches: largest difference {parity.max_abs_error:.2e}.",
            "",
            "Settings:",
            "",
            *(f"- {name}: {value}" for name, value in progress.settings.items()),
            "",
        ]
    )
