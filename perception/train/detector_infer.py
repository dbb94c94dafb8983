"""The network over many images at once, in torch: validation while training, calibration of batch norm."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from visuomotor.perception.train.detector_data import LabelledImage
from visuomotor.perception.train.detector_graph import DetectorGraph
from visuomotor.perception.train.detector_metrics import Found, compute_ap
from visuomotor.perception.train.detector_model import DetectorModel, recalibrate
from visuomotor.perception.train.detector_tasks import get_detector_task


@torch.no_grad()
def evaluate_weights(
    average: DetectorModel, train: list[list[LabelledImage]], val: list[list[LabelledImage]], seed: int
) -> tuple[dict[str, Any], list[list[Found]]]:
    """AP on all validation images, and what was found in each, group by group of equal size."""
    found: list[list[Found]] = []
    for group in val:
        source = next((g for g in train if g[0].image.shape == group[0].image.shape), group)
        tuned = copy.deepcopy(average)
        recalibrate(tuned, calibration_batches(source, seed))
        found.append(find_objects(tuned, [i.image for i in group]))
    truth = [i.objects for group in val for i in group]
    metrics = compute_ap(truth, [f for group in found for f in group], get_detector_task(val[0][0].task))
    return metrics, found


def calibration_batches(images: list[LabelledImage], seed: int, count: int = 8, batch: int = 32) -> Iterator[Tensor]:
    """Plain images of one size, as float batches, for the batch-norm statistics."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(images))[: count * batch]
    for i in range(0, len(chosen), batch):
        stack = np.stack([images[j].image for j in chosen[i : i + batch]])
        yield torch.from_numpy(stack).permute(0, 3, 1, 2).float().contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def find_objects(model: DetectorModel, images: list[np.ndarray], batch: int = 16) -> list[Found]:
    """Run the whole graph, suppression included, over images of one size."""
    graph = DetectorGraph(model.eval(), *images[0].shape[:2])
    result = []
    for i in range(0, len(images), batch):
        outputs = graph(torch.from_numpy(np.stack(images[i : i + batch])))
        box, score, class_id, ground, heading, size, count = (o.numpy() for o in outputs)
        for b, n in enumerate(count):
            result.append(
                Found(
                    box_px=box[b, :n],
                    score=score[b, :n],
                    class_id=class_id[b, :n],
                    ground_px=ground[b, :n],
                    heading=heading[b, :n],
                    size_m=size[b, :n],
                )
            )
    return result
