"""Weights (safetensors) and checkpoints of a training run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn


def save_weights(model: nn.Module, path: Path) -> None:
    """Weights as safetensors, with the model's configuration in the file's metadata."""
    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    temporary = path.with_suffix(".tmp")
    save_file(tensors, str(temporary))
    os.replace(temporary, path)


def load_weights(model: nn.Module, path: Path) -> None:
    """Load safetensors into ``model``. Raises ValueError naming the file and the tensors that do not fit."""
    try:
        tensors = load_file(str(path))
    except Exception as error:  # safetensors raises its own type, OSError or FileNotFoundError
        raise ValueError(f"{path}: cannot be read as safetensors ({error})") from error
    own = model.state_dict()
    wrong = sorted(
        k for k in own.keys() | tensors.keys() if k not in own or k not in tensors or own[k].shape != tensors[k].shape
    )
    if wrong:
        raise ValueError(f"{path}: {len(wrong)} tensors do not fit this model, the first is {wrong[0]}")
    model.load_state_dict(tensors)


def save_checkpoint(
    path: Path,
    model: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    rng: np.random.Generator,
    state: dict[str, Any],
) -> None:
    """Everything that a run needs to go on."""
    content = {
        "model": model.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
        "torch_rng": torch.get_rng_state(),
        "rng": json.dumps(rng.bit_generator.state),
        "state": dict(state),
    }
    temporary = path.with_suffix(".tmp")
    torch.save(content, temporary)
    os.replace(temporary, path)


def restore_checkpoint(
    path: Path,
    model: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Load what ``save_checkpoint`` wrote into the given objects, in place; returns the run's counters."""
    content = torch.load(path, weights_only=True)
    model.load_state_dict(content["model"])
    average.load_state_dict(content["average"])
    optimizer.load_state_dict(content["optimizer"])
    torch.set_rng_state(content["torch_rng"])
    rng.bit_generator.state = json.loads(content["rng"])
    state: dict[str, Any] = content["state"]
    return state
