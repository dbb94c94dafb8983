"""Samples for training and scoring forecasters: flat arrays grouped by scene, batching, augmentation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch


@dataclass
class SceneSet:
    """N agents of many scenes; the agents of one scene (one instant) are adjacent and see each other.

    ``group`` is what resampling for intervals draws: an episode, or a recording window. ``scored`` marks the agents
    that count in losses and metrics; the others are only neighbours.
    """

    history_m: np.ndarray  # float32 [N, H, 2]
    present: np.ndarray  # bool [N, H]
    class_id: np.ndarray  # int64 [N]
    future_m: np.ndarray  # float32 [N, T, 2]
    future_present: np.ndarray  # bool [N, T]
    manoeuvre: np.ndarray  # int64 [N], index into the manoeuvres of the task's row, -1 unknown
    scene: np.ndarray  # int64 [N], non-decreasing
    group: np.ndarray  # int64 [N]
    scored: np.ndarray  # bool [N]

    def __post_init__(self) -> None:
        count = len(self.scene)
        for field in fields(self):
            if len(getattr(self, field.name)) != count:
                raise ValueError(f"{field.name}: expected {count} agents, got {len(getattr(self, field.name))}")
        if count and (np.diff(self.scene) < 0).any():
            raise ValueError("scene: expected non-decreasing numbers")

    def __len__(self) -> int:
        return len(self.scene)

    def take(self, index: np.ndarray) -> SceneSet:
        """The agents at ``index`` (array of positions or mask), in that order."""
        return SceneSet(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    def save(self, path: Path) -> None:
        """Write one compressed npz file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, path: Path) -> SceneSet:
        """Read what ``save`` wrote. Raises ValueError that names the file when it is not such a file."""
        try:
            with np.load(path, allow_pickle=False) as data:
                return cls(**{field.name: data[field.name] for field in fields(cls)})
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(f"{path}: expected a file of forecaster samples ({error})") from error

    @classmethod
    def concatenate(cls, parts: list[SceneSet], *, regroup: bool = True) -> SceneSet:
        """One set of several; scenes, and groups unless told otherwise, are renumbered so that none meet."""
        arrays: dict[str, list[np.ndarray]] = {field.name: [] for field in fields(cls)}
        scene_base = group_base = 0
        for part in parts:
            for name, values in arrays.items():
                values.append(getattr(part, name))
            arrays["scene"][-1] = part.scene + scene_base
            arrays["group"][-1] = part.group + group_base * regroup
            if len(part):
                scene_base += int(part.scene.max()) + 1
                group_base += int(part.group.max()) + 1
        return cls(**{name: np.concatenate(values) for name, values in arrays.items()})

    def scene_bounds(self) -> np.ndarray:
        """Start of every scene and the end, [S + 1]."""
        starts = np.flatnonzero(np.diff(self.scene, prepend=self.scene[0] - 1)) if len(self) else np.zeros(0, int)
        return np.append(starts, len(self))


@dataclass(frozen=True)
class Augmentation:
    """What one pass over the training set changes, per scene or per agent."""

    rotate: bool = True
    mirror: bool = True
    scale_low: float = 1.0
    scale_high: float = 1.0
    noise_m: float = 0.03
    drop_share: float = 0.05  # of single samples
    gap_share: float = 0.1  # agents with a run of samples missing
    late_share: float = 0.15  # agents whose history starts late


def batches(data: SceneSet, agents: int, rng: np.random.Generator | None) -> Iterator[SceneSet]:
    """Batches of whole scenes with about ``agents`` agents; shuffled when ``rng`` is given.

    Scenes in which nobody is scored are left out. Positions are made relative to their scene's mean, for float32.
    """
    bounds = data.scene_bounds()
    useful = np.flatnonzero(np.add.reduceat(data.scored, bounds[:-1]) > 0) if len(data) else np.zeros(0, int)
    if rng is not None:
        rng.shuffle(useful)
    sizes = (bounds[1:] - bounds[:-1])[useful]
    position = np.cumsum(sizes) // agents
    for chunk in np.split(useful, np.flatnonzero(np.diff(position)) + 1):
        if not len(chunk):
            continue
        chunk = np.sort(chunk)
        index = np.concatenate([np.arange(bounds[s], bounds[s + 1]) for s in chunk])
        part = data.take(index)
        part.scene = np.repeat(np.arange(len(chunk)), bounds[chunk + 1] - bounds[chunk])
        last = part.history_m[:, -1].astype(np.float64)
        mean = np.stack([np.bincount(part.scene, last[:, axis]) for axis in (0, 1)], 1)
        mean = (mean / np.bincount(part.scene)[:, None])[part.scene].astype(np.float32)
        part.history_m = part.history_m - mean[:, None]
        part.future_m = part.future_m - mean[:, None]
        yield part


def augment(batch: SceneSet, how: Augmentation, rng: np.random.Generator) -> SceneSet:
    """A changed copy of a batch; rotation, mirror and scale are per scene, noise and gaps per agent."""
    scenes, count, samples = int(batch.scene[-1]) + 1, len(batch), batch.present.shape[1]
    angle = rng.uniform(-np.pi, np.pi, scenes) * how.rotate
    scale = np.exp(rng.uniform(np.log(how.scale_low), np.log(how.scale_high), scenes))
    flip = np.where(rng.random(scenes) < 0.5 * how.mirror, -1.0, 1.0)
    c, s = np.cos(angle) * scale, np.sin(angle) * scale
    turn = np.stack([np.stack([c, -s * flip], 1), np.stack([s, c * flip], 1)], 1)[batch.scene].astype(np.float32)
    history = np.einsum("nij,nhj->nhi", turn, batch.history_m)
    future = np.einsum("nij,nhj->nhi", turn, batch.future_m)
    history += rng.normal(0.0, how.noise_m, history.shape).astype(np.float32)

    present = batch.present & (rng.random(batch.present.shape) >= how.drop_share)
    age = np.arange(samples)
    start, length = rng.integers(0, samples, count), rng.integers(1, max(samples // 2, 2), count)
    gap = (rng.random(count) < how.gap_share)[:, None] & (age >= start[:, None]) & (age < (start + length)[:, None])
    first = np.where(rng.random(count) < how.late_share, rng.integers(0, samples - 1, count), 0)
    present &= ~gap & (age >= first[:, None])
    present[:, -1] = batch.present[:, -1]
    return SceneSet(
        history, present, batch.class_id, future, batch.future_present, batch.manoeuvre, batch.scene, batch.group,
        batch.scored,
    )  # fmt: skip


def as_tensors(batch: SceneSet) -> dict[str, torch.Tensor]:
    """The four network inputs of a batch."""
    return {
        "history_m": torch.from_numpy(np.where(batch.present[..., None], batch.history_m, 0.0).astype(np.float32)),
        "present": torch.from_numpy(batch.present),
        "class_id": torch.from_numpy(batch.class_id.astype(np.int64)),
        "scene": torch.from_numpy(batch.scene.astype(np.int64)),
    }
