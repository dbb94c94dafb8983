"""Data-parallel training over processes of one thread each, which average gradients once per step.

On a busy machine this is several times faster than one process with several threads: threads wait for each other at
every layer, processes once per step.
"""

from __future__ import annotations

import datetime
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing, nn


class Peers:
    """The processes of a run; ``rank`` 0 evaluates, logs and saves."""

    def __init__(self, rank: int, count: int) -> None:
        self.rank = rank
        self.count = count

    def average(self, model: nn.Module, progress: float) -> float:
        """Average the gradients over all processes, in place, and return the average of ``progress``."""
        if self.count == 1:
            return progress
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in gradients] + [torch.tensor([progress])])
        distributed.all_reduce(flat)
        flat /= self.count
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()
        return float(flat[-1])

    def share(self, model: nn.Module) -> None:
        """Give all processes the weights of rank 0."""
        if self.count > 1:
            for value in model.state_dict().values():
                distributed.broadcast(value, 0)

    def agree(self, value: bool) -> bool:
        """What rank 0 says, told to all."""
        if self.count == 1:
            return value
        flag = torch.tensor([float(value)])
        distributed.broadcast(flag, 0)
        return bool(flag.item() > 0.5)


@contextmanager
def run_peers(count: int, work: Callable[..., None], *arguments: Any) -> Iterator[Peers]:
    """Start ``count - 1`` further processes that run ``work(peers, *arguments)``; yields this process's ``Peers``.

    The others end with the block: by themselves when it succeeds, by force when it raises. RuntimeError when one of
    them failed.
    """
    if count == 1:
        yield Peers(0, 1)
        return
    with tempfile.TemporaryDirectory(prefix="detector-train-") as folder:
        store = str(Path(folder) / "store")
        context = multiprocessing.get_context("spawn")
        children = [
            context.Process(target=_work, args=(rank, count, store, os.getpid(), work, arguments), daemon=True)
            for rank in range(1, count)
        ]
        for child in children:
            child.start()
        try:
            _join(0, count, store)
            yield Peers(0, count)
            for child in children:
                child.join(60.0)
            if any(child.exitcode != 0 for child in children):
                raise RuntimeError(f"training processes ended with {[child.exitcode for child in children]}")
        finally:
            for child in children:
                if child.is_alive():
                    child.terminate()
            distributed.destroy_process_group()


def _join(rank: int, count: int, store: str) -> None:
    distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=count, timeout=datetime.timedelta(minutes=20)
    )


def _work(
    rank: int, count: int, store: str, parent: int, work: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    if os.getppid() != parent:  # the parent died while this process was starting
        return
    _join(rank, count, store)
    try:
        work(Peers(rank, count), *arguments)
    finally:
        distributed.destroy_process_group()
