"""Frames with road users, and labels for them, made of the one picture that the repository holds."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from visuomotor.messages.schema import CLASS_NAMES
from visuomotor.perception.detector import Detector

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "images" / "drive.png"
FRONT = (slice(8, 340), slice(8, 580))  # of the picture


def make_frames(count: int, width: int = 384, height: int = 224) -> list[np.ndarray]:
    """Crops of the front camera's view, each moved, scaled, lit and noised differently."""
    view = cv2.imread(str(PICTURE))[FRONT]
    frames = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        side = rng.uniform(0.75, 1.0)
        rows, columns = int(view.shape[0] * side), int(view.shape[1] * side)
        y, x = (int(rng.uniform(0, size)) for size in (view.shape[0] - rows + 1, view.shape[1] - columns + 1))
        frame = cv2.resize(view[y : y + rows, x : x + columns], (width, height), interpolation=cv2.INTER_AREA)
        frame = frame * rng.uniform(0.7, 1.2) + rng.normal(0.0, 3.0, frame.shape)
        frames.append(frame[:, :: rng.choice((-1, 1))].clip(0, 255).astype(np.uint8))
    return frames


def write_images(folder: Path, frames: list[np.ndarray]) -> Path:
    """A folder of PNG files."""
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{number:03d}.png"), frame)
    return folder


def write_labels(data: Path, split: str, frames: list[np.ndarray], detector: Detector) -> Path:
    """A labelled data set whose labels are what ``detector`` finds: its own AP is 1, another shows how it differs."""
    write_images(data / split / "images", frames)
    images, annotations = [], []
    for number, frame in enumerate(frames):
        size = {"width": frame.shape[1], "height": frame.shape[0]}
        pose = {"roll_rad": 0.0, "pitch_rad": 0.0}
        name = f"{number:03d}.png"
        images.append({"id": number + 1, "file_name": name, "camera": detector.camera.name, **size, **pose})
        found = detector.infer(frame)
        keep = found["score"] >= detector.score_threshold[found["class_id"]]
        for box, class_id, ground in zip(
            *(found[key][keep] for key in ("box_px", "class_id", "ground_px")), strict=True
        ):
            x0, y0, x1, y1 = (float(value) for value in box)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number + 1,
                    "category_id": int(class_id) + 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "ground_px": ground.tolist(),
                    "ego_position_m": [10.0, 0.0],
                    "heading_rad": 0.0,
                    "distance_m": 10.0,
                    "visible_share": 1.0,
                    "size_m": [4.0, 2.0, 1.5],
                }
            )
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASS_NAMES)]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    (data / split / "annotations.json").write_text(json.dumps(coco))
    return data
