"""Pictures of what the detector found and what it looked at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from visuomotor.messages.tasks import get_task
from visuomotor.perception.train.detector_data import LabelledImage
from visuomotor.perception.train.detector_metrics import Found
from visuomotor.perception.train.detector_model import DetectorModel, flatten

# BGR by class
COLOURS = ((80, 180, 255), (255, 140, 60), (80, 230, 80), (230, 90, 230), (0, 215, 255), (200, 200, 60))


def draw_found(
    image: np.ndarray, found: Found, class_names: Sequence[str], threshold: float = 0.3, scale: int = 1
) -> np.ndarray:
    """The image [H, W, 3], enlarged, with boxes, scores and ground points of what scores at least ``threshold``."""
    canvas = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST) if scale > 1 else image.copy()
    for i in np.flatnonzero(found.score >= threshold):
        colour = COLOURS[int(found.class_id[i]) % len(COLOURS)]
        x0, y0, x1, y1 = (round(v * scale) for v in found.box_px[i].tolist())
        cv2.rectangle(canvas, (x0, y0), (x1, y1), colour, 1)
        u, v = (round(value * scale) for value in found.ground_px[i].tolist())
        cv2.drawMarker(canvas, (u, v), colour, cv2.MARKER_CROSS, 5, 1)
        text = f"{class_names[int(found.class_id[i])][:3]} {found.score[i]:.2f}"
        cv2.putText(canvas, text, (x0, max(y0 - 2, 8)), cv2.FONT_HERSHEY_SIMPLEX, 0.3, colour, 1, cv2.LINE_AA)
    return canvas


def attention_map(model: DetectorModel, image: np.ndarray, class_id: int | None = None) -> np.ndarray:
    """Grad-CAM (Selvaraju et al. 2017) on the stride-8 features, for the strongest score of a class or of any.

    Returns float32 [H, W] in 0..1, large where the features speak for the object.
    """
    kept: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        output.retain_grad()
        kept.append(output)

    model.eval()
    handle = model.merge8.register_forward_hook(keep)
    try:
        with torch.enable_grad():
            x = torch.from_numpy(np.ascontiguousarray(image))[None].permute(0, 3, 1, 2).float().requires_grad_()
            scores = flatten(model(x))[0, :, model.channels.score]
            (scores if class_id is None else scores[:, class_id]).max().backward()
    finally:
        handle.remove()
        model.zero_grad(set_to_none=True)
    features, gradient = kept[0].detach()[0], kept[0].grad
    assert gradient is not None
    heat = (features * gradient[0].mean((1, 2), keepdim=True)).sum(0).relu().numpy()
    heat = cv2.resize(heat, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_LINEAR)
    peak = float(heat.max())
    return heat / peak if peak > 0.0 else heat


def overlay_heat(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Heat [H, W] in 0..1 laid over the image in false colours."""
    colours = cv2.applyColorMap((heat * 255).astype(np.uint8), cv2.COLORMAP_TURBO)
    return cv2.addWeighted(image, 0.55, colours, 0.45, 0.0)


def explain_detector(
    model: DetectorModel, images: list[LabelledImage], found: list[Found], out: Path, *, scale: int = 2
) -> list[Path]:
    """Write one PNG per image: detections on the left, what the strongest of them rests on at the right."""
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for image, detected in zip(images, found, strict=True):
        left = draw_found(image.image, detected, get_task(image.task).class_names, scale=scale)
        heat = overlay_heat(image.image, attention_map(model, image.image))
        right = cv2.resize(heat, (left.shape[1], left.shape[0]), interpolation=cv2.INTER_LINEAR)
        path = out / f"{Path(image.file_name).stem}.png"
        cv2.imwrite(str(path), np.concatenate([left, right], axis=1))
        paths.append(path)
    return paths
