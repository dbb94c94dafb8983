"""Task-aligned assignment (Feng et al. 2021, TOOD) and the losses of the detector, on flat arrays of all objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from visuomotor.perception.train.detector_data import Batch
from visuomotor.perception.train.detector_model import (
    STRIDES_PX,
    DetectorModel,
    decode_boxes,
    flatten,
)


class LossConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Weights of the terms and the shape of the assignment."""

    score: float = 1.0
    box: float = 2.0
    ground: float = 3.0
    heading: float = 0.5
    size: float = 0.5
    candidates: int = 9  # locations per object
    # Longer side, in strides, of the objects that each level looks for; the ranges overlap, the best fit decides.
    level_sides: tuple[tuple[float, float], ...] = ((0.0, 10.0), (3.0, 10.0), (3.0, 12.0), (4.0, 1e9))
    class_weight: tuple[float, ...] = ()  # of each class in the scores; empty: as the task's row says
    heading_weight: tuple[float, ...] = ()
    score_power: float = 0.5
    iou_power: float = 4.0


@dataclass(kw_only=True)
class Targets:
    """A batch's labels as tensors, M objects."""

    image_index: Tensor  # int64 [M]
    class_id: Tensor  # int64 [M]
    box_px: Tensor  # [M, 4]
    ground_px: Tensor  # [M, 2]
    heading: Tensor  # [M, 2] sine, cosine of the angle times the class's symmetry
    size_m: Tensor  # [M, 2]
    scale_px: Tensor  # [M]
    wanted: Tensor  # bool [M]
    grounded: Tensor  # bool [M]


def make_targets(batch: Batch, symmetry: Sequence[int]) -> Targets:
    """Numpy labels to tensors; ``symmetry`` is that of each class."""
    o = batch.objects
    angle = o.angle_rad * np.asarray(symmetry, np.float32)[o.class_id]
    heading = np.stack([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32)
    return Targets(
        image_index=torch.from_numpy(batch.image_index),
        class_id=torch.from_numpy(o.class_id),
        box_px=torch.from_numpy(o.box_px),
        ground_px=torch.from_numpy(o.ground_px),
        heading=torch.from_numpy(heading),
        size_m=torch.from_numpy(o.size_m),
        scale_px=torch.from_numpy(o.scale_px.astype(np.float32)),
        wanted=torch.from_numpy(o.wanted),
        grounded=torch.from_numpy(o.grounded),
    )


def paired_iou(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and CIoU (Zheng et al. 2020) of boxes a and b, broadcast over leading dimensions."""
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    size_a, size_b = a[..., 2:] - a[..., :2], b[..., 2:] - b[..., :2]
    overlap = (high - low).clamp(min=0.0).prod(-1)
    iou = overlap / (size_a.prod(-1) + size_b.prod(-1) - overlap).clamp(min=1e-6)
    hull = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    apart = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]).square().sum(-1) / 4.0
    shape_a, shape_b = (torch.atan2(size[..., 0], size[..., 1].clamp(min=1e-3)) for size in (size_a, size_b))
    shape = (4.0 / torch.pi**2) * (shape_a - shape_b).square()
    with torch.no_grad():
        share = shape / (1.0 - iou + shape + 1e-6)
    return iou, iou - apart / hull.square().sum(-1).clamp(min=1e-6) - share * shape


@torch.no_grad()
def assign(
    probability: Tensor, box: Tensor, location: Tensor, t: Targets, config: LossConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Choose for every wanted object the locations that shall find it.

    ``probability`` [B, L, C] and ``box`` [B, L, 4] are predictions. Returns object, location (both int64 [P]) and the
    wanted score [P], which is the alignment of score and IoU scaled to the object's best IoU.
    """
    objects = torch.nonzero(t.wanted).squeeze(1)
    if not len(objects):
        empty = torch.zeros(0, dtype=torch.int64)
        return empty, empty, torch.zeros(0)
    image, truth = t.image_index[objects], t.box_px[objects][:, None]
    x, y, stride = location[:, 0], location[:, 1], location[:, 2]
    inside = (x > truth[..., 0]) & (x < truth[..., 2]) & (y > truth[..., 1]) & (y < truth[..., 3])
    # A box thinner than the stride may hold no location: the ones beside its middle serve too.
    middle = (truth[..., :2] + truth[..., 2:]) / 2.0
    inside |= ((x - middle[..., 0]).abs() < 0.6 * stride) & ((y - middle[..., 1]).abs() < 0.6 * stride)
    low, high = (_by_stride(stride, [sides[i] for sides in config.level_sides]) for i in (0, 1))
    side = (truth[..., 2:] - truth[..., :2]).amax(-1) / stride
    inside &= (side >= low) & (side <= high)
    member, place = torch.nonzero(inside, as_tuple=True)
    guess = box[image[member], place]
    iou, _ = paired_iou(guess, truth[member, 0])
    score = probability[image[member], place, t.class_id[objects][member]]
    aligned = score.pow(config.score_power) * iou.pow(config.iou_power) + 1e-9
    metric = torch.full(inside.shape, -1.0)
    metric[member, place] = aligned
    best, chosen = metric.topk(min(config.candidates, metric.shape[1]), dim=1)
    row = torch.arange(len(objects))[:, None].expand_as(chosen)[best > 0]
    chosen, best = chosen[best > 0], best[best > 0]
    overlap, _ = paired_iou(box[image[row], chosen], truth[row, 0])
    # A location claimed by several objects goes to the one it fits best.
    cell = image[row] * len(location) + chosen
    winner = torch.full((len(probability) * len(location),), -1.0).scatter_reduce(0, cell, overlap, "amax")
    won = overlap >= winner[cell]
    row, chosen, best, overlap = row[won], chosen[won], best[won], overlap[won]
    top = torch.zeros(len(objects)).scatter_reduce(0, row, best, "amax")
    fit = torch.zeros(len(objects)).scatter_reduce(0, row, overlap, "amax")
    return objects[row], chosen, best / top[row].clamp(min=1e-9) * fit[row]


def _per_class(weights: Sequence[float], classes: int) -> Tensor:
    return torch.tensor(weights) if weights else torch.ones(classes)


def _by_stride(stride: Tensor, values: list[float]) -> Tensor:
    """The value of each location's level, [L]."""
    level = (stride / STRIDES_PX[0]).log2().round().long()
    return torch.tensor(values)[level]


def detector_loss(
    model: DetectorModel, raw_maps: list[Tensor], location: Tensor, t: Targets, config: LossConfig
) -> tuple[Tensor, dict[str, float]]:
    """Total loss and its terms (before weights) for the raw maps of a batch and ``make_locations`` of its size."""
    raw = flatten(raw_maps)  # [B, L, R]
    channels = model.channels
    logits = raw[..., channels.score]
    boxes = decode_boxes(raw[..., channels.box].detach(), location)
    owner, place, wanted_score = assign(logits.detach().sigmoid(), boxes, location, t, config)
    image = t.image_index[owner]

    goal = torch.zeros_like(logits)
    goal[image, place, t.class_id[owner]] = wanted_score
    weight = torch.ones(logits.shape[:2])
    for i in torch.nonzero(~t.wanted).squeeze(1).tolist():  # few: what is too small to learn is no background either
        x0, y0, x1, y1 = t.box_px[i] + torch.tensor([-2.0, -2.0, 2.0, 2.0])
        x, y = location[:, 0], location[:, 1]
        weight[t.image_index[i], (x > x0) & (x < x1) & (y > y0) & (y < y1)] = 0.0
    classes = logits.shape[-1]
    weight[image, place] = _per_class(config.class_weight, classes)[t.class_id[owner]]
    entropy = functional.binary_cross_entropy_with_logits(logits, goal, reduction="none")
    mass = wanted_score.sum().clamp(min=1.0)
    terms = {"score": (entropy * weight[..., None]).sum() / mass}

    if len(owner):
        found = model.decode(raw[image, place], location[place], t.class_id[owner])
        share = wanted_score / mass
        even = 1.0 / torch.bincount(owner, minlength=len(t.class_id))[owner] / len(owner.unique())
        share = 0.5 * share + 0.5 * even
        _, ciou = paired_iou(found.box_px, t.box_px[owner])
        terms["box"] = ((1.0 - ciou) * share).sum()
        off = (found.ground_px - t.ground_px[owner]).abs() / t.scale_px[owner][:, None].clamp(min=4.0)
        # A ground point beside or behind the camera projects to nowhere useful: no more than 4 m of it count.
        off = torch.where((off < 3.0).all(-1, keepdim=True), off, torch.zeros_like(off))
        terms["ground"] = (off.sum(-1) * share * t.grounded[owner]).sum()
        # On the raw values: the normalisation of ``decode`` has no useful gradient near zero, where training starts.
        turned = (raw[image, place][:, channels.heading] - t.heading[owner]).square().sum(-1)
        terms["heading"] = (turned * share * _per_class(config.heading_weight, classes)[t.class_id[owner]]).sum()
        prior = model.size_prior_m[t.class_id[owner]]
        ratio = (t.size_m[owner] / prior).log()
        terms["size"] = ((raw[image, place][:, channels.size] - ratio).abs().sum(-1) * share).sum()
    else:
        terms |= {name: raw.sum() * 0.0 for name in ("box", "ground", "heading", "size")}
    total = sum((terms[name] * getattr(config, name) for name in terms), start=torch.zeros(()))
    return total, {name: float(value.detach()) for name, value in terms.items()} | {"positives": float(len(owner))}
