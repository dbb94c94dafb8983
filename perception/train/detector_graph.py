"""The detector as one graph in static shapes: raw uint8 frame in, a fixed number of detections and their count out.

Suppression is exact greedy non-maximum suppression without a loop over boxes: keep = no kept box of higher score
overlaps; iterated from 'keep all', box i is settled after as many rounds as the longest chain of overlaps above it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from visuomotor.perception.detector_contract import OUTPUTS
from visuomotor.perception.train.detector_model import DetectorModel, flatten, make_locations

CANDIDATES = 64
ROUNDS = 4
SAME_CLASS_IOU = 0.6
OTHER_CLASS_IOU = 0.8
MIN_SCORE = 0.05


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes [..., N, 4] and [..., M, 4], pairwise [..., N, M]."""
    low = torch.maximum(a[..., :, None, :2], b[..., None, :, :2])
    high = torch.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    size = (high - low).clamp(min=0.0)
    overlap = size[..., 0] * size[..., 1]
    area_a = (a[..., 2] - a[..., 0]) * (a[..., 3] - a[..., 1])
    area_b = (b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1])
    return overlap / (area_a[..., :, None] + area_b[..., None, :] - overlap).clamp(min=1e-6)


def suppress(box_px: Tensor, class_id: Tensor) -> Tensor:
    """Which boxes [B, K, 4], sorted by falling score, survive; float 0 or 1 [B, K]."""
    iou = box_iou(box_px, box_px)
    same = (class_id[:, :, None] == class_id[:, None, :]).float()
    limit = same * SAME_CLASS_IOU + (1.0 - same) * OTHER_CLASS_IOU
    count = box_px.shape[1]
    above = torch.triu(torch.ones(count, count, device=box_px.device), diagonal=1)  # [i, j]: i scores higher than j
    conflict = (iou > limit).float() * above
    keep = torch.ones_like(box_px[..., 0])
    for _ in range(ROUNDS):
        keep = ((keep[:, :, None] * conflict).amax(1) < 0.5).float()
    return keep


class DetectorGraph(nn.Module):
    """Frames [B, H, W, 3] uint8 BGR -> detections, sorted by falling score; exported with B = 1."""

    location: Tensor

    def __init__(self, model: DetectorModel, height: int, width: int) -> None:
        super().__init__()
        if height % 32 or width % 32:
            raise ValueError(f"image size must be a multiple of 32, got {width}x{height}")
        self.model = model
        self.register_buffer("location", make_locations(height, width), persistent=False)

    def forward(self, frame: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Boxes [B, K, 4], scores, classes [B, K], ground points, headings, sizes [B, K, 2] and counts [B].

        Entries past the count are all zero.
        """
        raw = self.model(frame.permute(0, 3, 1, 2).float())
        peaks = []
        score_of = self.model.channels.score
        for level in raw:
            score = level[:, score_of].amax(1, keepdim=True)
            is_peak = score >= functional.max_pool2d(score, 3, 1, 1)
            peaks.append(torch.where(is_peak, score, torch.full_like(score, -20.0)).flatten(1))
        logit, index = torch.cat(peaks, dim=1).topk(CANDIDATES, dim=1)
        values = flatten(raw)
        values = values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))
        class_id = values[..., score_of].argmax(2)
        found = self.model.decode(values, self.location[index], class_id)
        kept = logit.sigmoid() * suppress(found.box_px, class_id)
        kept, order = kept.topk(OUTPUTS, dim=1)

        present = (kept >= MIN_SCORE).float()

        def chosen(values: Tensor) -> Tensor:
            return values.gather(1, order[..., None].expand(-1, -1, values.shape[2])) * present[..., None]

        return (
            chosen(found.box_px),
            kept * present,
            class_id.gather(1, order) * present.to(torch.int64),
            chosen(found.ground_px - 0.5),  # pixel centres as in CameraModel
            chosen(found.heading),
            chosen(found.size_m),
            present.sum(1).to(torch.int64),
        )
