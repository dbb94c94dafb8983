"""A training checkpoint: network, optimiser, normaliser and settings in one folder that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from visuomotor.control.network import Interface
from visuomotor.control.policy import DRIVE
from visuomotor.control.train.checkpoint_folder import MODEL_FILE, NORMALIZER_FILE, PROGRESS_FILE, check_folder
from visuomotor.control.train.lessons import get_lesson
from visuomotor.control.train.normalizer import Normalizer, load_normalizer
from visuomotor.control.train.warm_ppo import WarmPPO


class Progress(msgspec.Struct, kw_only=True):
    """How far a training is, and under which settings; ``settings`` are those of the training as a mapping."""

    settings: dict[str, Any]
    task: str = "drive"
    minutes: float = 0.0
    environment_steps: int = 0
    rollouts: int = 0
    reward_scale: float = 1.0
    best_score: float = -1.0
    evaluations: list[dict[str, Any]] = []
    baseline: dict[str, float] = {}
    imitation: dict[str, float] = {}


class LearnedDriver:
    """The deterministic policy (mean action, clipped) as a driver of B worlds; keeps no state."""

    def __init__(self, model: WarmPPO, normalizer: Normalizer, interface: Interface[Any] = DRIVE) -> None:
        self._model, self._normalizer = model, normalizer
        self._observe = interface.observe

    def reset(self, mask: np.ndarray | None = None) -> None:
        """Nothing to forget."""

    def act(self, inputs: Any) -> np.ndarray:
        """Action [B, A] in [-1, 1]."""
        return self.act_on(self._observe(inputs))

    def act_on(self, observation: np.ndarray) -> np.ndarray:
        """Action [B, A] for raw observations [B, D]."""
        policy = self._model.policy
        with torch.no_grad():
            data = torch.from_numpy(self._normalizer.apply(observation))
            mean = policy.action_net(policy.mlp_extractor.forward_actor(data))
        return mean.numpy().clip(-1.0, 1.0)


def save_checkpoint(folder: Path, model: WarmPPO, normalizer: Normalizer, progress: Progress) -> None:
    """Write a checkpoint, replacing an older one of the same name."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    model.save(fresh / MODEL_FILE)
    normalizer.save(fresh / NORMALIZER_FILE)
    (fresh / PROGRESS_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(progress), indent=2))
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(fresh, folder)


def load_checkpoint(folder: Path, env: Any = None) -> tuple[WarmPPO, Normalizer, Progress]:
    """Read a checkpoint. Raises ValueError that names the file; only load what you trained yourself (SB3 unpickles)."""
    check_folder(folder)
    try:
        progress = msgspec.json.decode((folder / PROGRESS_FILE).read_bytes(), type=Progress)
    except (OSError, msgspec.DecodeError) as error:
        raise ValueError(f"{folder / PROGRESS_FILE}: not a checkpoint ({error})") from error
    normalizer = load_normalizer(folder / NORMALIZER_FILE, get_lesson(progress.task).interface.layout)
    return WarmPPO.load(folder / MODEL_FILE, env=env, device="cpu"), normalizer, progress
