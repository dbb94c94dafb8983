"""Labelled images of the simulator (COCO form plus our keys), held decoded in memory, and batches of one size each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from visuomotor.messages.camera import CameraModel, load_camera
from visuomotor.messages.tasks import DEFAULT_TASK
from visuomotor.perception.detector import heading_reference
from visuomotor.perception.train.detector_tasks import DETECTOR_TASKS, DetectorTask, get_detector_task

PROFILES = Path(__file__).resolve().parents[2] / "launch" / "profiles"
SPLITS = ("train", "val", "test")
LIFTED_M = 0.03


@dataclass(kw_only=True)
class Objects:
    """Labels of one image, N objects; pixels are continuous, pixel i covers [i, i + 1].

    Boxes of masks come that way; ``ground_px`` follows ``CameraModel`` in the files and in messages, where the centre
    of pixel i is i, and is half a pixel more here, so that a flip is one formula for both.
    """

    class_id: np.ndarray  # int64 [N]
    box_px: np.ndarray  # float32 [N, 4] x0, y0, x1, y1 of the visible part
    ground_px: np.ndarray  # float32 [N, 2] image of the footprint's centre
    angle_rad: np.ndarray  # float32 [N] observation angle: yaw in ego minus ``detector.heading_reference``
    size_m: np.ndarray  # float32 [N, 2] length, width
    scale_px: np.ndarray  # float32 [N] pixels of the task's reference length at that range, to compare errors with
    wanted: np.ndarray  # bool [N]; False: too small or hidden to be learned
    grounded: np.ndarray  # bool [N]; False: lifted, so that no picture tells what it is above
    distance_m: np.ndarray  # float32 [N]
    visible_share: np.ndarray  # float32 [N]
    ego_position_m: np.ndarray  # float32 [N, 2]

    def __len__(self) -> int:
        return len(self.class_id)

    def take(self, index: np.ndarray) -> Objects:
        """The objects of an index or mask, copied."""
        return Objects(**{f.name: getattr(self, f.name)[index].copy() for f in fields(self)})


@dataclass(kw_only=True)
class LabelledImage:
    """One image of a split with what its annotations say."""

    image_id: int
    file_name: str
    camera: str
    episode: int
    roll_rad: float
    pitch_rad: float
    image: np.ndarray  # uint8 [H, W, 3] BGR
    objects: Objects
    task: str = DEFAULT_TASK


def load_cameras(data: Path, names: set[str], task: str) -> dict[str, CameraModel]:
    """Calibrations by camera name: from ``data/cameras/`` if the data set brings its own, else the task's profile's.

    Raises ValueError naming the camera that has none.
    """
    cameras = {}
    for name in sorted(names):
        paths = [folder / f"{name}.yaml" for folder in (data / "cameras", data, PROFILES / task)]
        found = next((path for path in paths if path.is_file()), None)
        if found is None:
            raise ValueError(f"{data}: no calibration of {name}: expected one of {', '.join(map(str, paths))}")
        cameras[name] = load_camera(found)
    return cameras


def read_split(
    data: Path, split: str, limit: int | None = None, *, part: int = 0, parts: int = 1
) -> list[LabelledImage]:
    """Decode all images of ``data/split`` (at most ``limit``, evenly chosen) with their objects.

    With ``parts`` > 1 only every ``parts``-th image of each size, from number ``part`` on: parts of equal sizes.

    Raises ValueError that names the file and what was expected of it.
    """
    path = data / split / "annotations.json"
    coco = _read_coco(path)
    task = _find_task(coco, path)
    rows = coco["images"]
    if limit is not None and limit < len(rows):
        rows = [rows[i] for i in np.linspace(0, len(rows) - 1, limit).astype(int)]
    if parts > 1:
        sizes = sorted({(row["width"], row["height"]) for row in rows})
        of_size = [[row for row in rows if (row["width"], row["height"]) == size] for size in sizes]
        rows = [row for group in of_size for row in group[: len(group) // parts * parts][part::parts]]
    by_image: dict[int, list[dict[str, Any]]] = {}
    for annotation in coco["annotations"]:
        by_image.setdefault(annotation["image_id"], []).append(annotation)
    cameras = load_cameras(data, {row["camera"] for row in rows}, task.task.name)

    def read(row: dict[str, Any]) -> LabelledImage:
        image = cv2.imread(str(path.parent / "images" / row["file_name"]), cv2.IMREAD_COLOR)
        if image is None or image.shape[:2] != (row["height"], row["width"]):
            raise ValueError(
                f"{path.parent / 'images' / row['file_name']}: expected {row['width']}x{row['height']} PNG"
            )
        return LabelledImage(
            image_id=row["id"],
            file_name=row["file_name"],
            camera=row["camera"],
            episode=row.get("episode", 0),
            roll_rad=float(row["roll_rad"]),
            pitch_rad=float(row["pitch_rad"]),
            image=image,
            objects=read_objects(by_image.get(row["id"], []), cameras[row["camera"]], task),
            task=task.task.name,
        )

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(read, rows))


def read_task(data: Path) -> DetectorTask:
    """The row of the task that a data set is of; ValueError as ``read_split``."""
    path = data / SPLITS[0] / "annotations.json"
    return _find_task(_read_coco(path), path)


def _read_coco(path: Path) -> dict[str, Any]:
    try:
        coco: dict[str, Any] = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(
            f"{path}: cannot be read ({error.strerror}); make the data set with 'visuomotor render'"
        ) from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    for key in ("images", "annotations"):
        if not isinstance(coco.get(key), list):
            raise ValueError(f"{path}: {key}: expected a list, got {type(coco.get(key)).__name__}")
    return coco


def _find_task(coco: dict[str, Any], path: Path) -> DetectorTask:
    """The row whose classes the file's categories are; without categories, that of the default task."""
    if not coco.get("categories"):
        return get_detector_task(DEFAULT_TASK)
    names = tuple(category["name"] for category in sorted(coco["categories"], key=lambda category: category["id"]))
    for row in DETECTOR_TASKS.values():
        if row.task.class_names == names:
            return row
    known = "; ".join(f"{name}: {', '.join(row.task.class_names)}" for name, row in DETECTOR_TASKS.items())
    raise ValueError(f"{path}: categories: expected the classes of a task ({known}), got {', '.join(names)}")


def read_objects(annotations: list[dict[str, Any]], camera: CameraModel, task: DetectorTask) -> Objects:
    """COCO annotations of one image, with our keys, to arrays."""
    class_count = len(task.task.class_names)

    def column(key: str, width: int) -> np.ndarray:
        return np.array([a[key] for a in annotations], np.float32).reshape(-1, width)

    box = column("bbox", 4)
    box[:, 2:] += box[:, :2]
    class_id = np.array([a["category_id"] - 1 for a in annotations], np.int64)
    if len(class_id) and not (class_id.min() >= 0 and class_id.max() < class_count):
        raise ValueError(f"category_id: expected 1..{class_count}, got {sorted(set(class_id + 1))}")
    position = column("ego_position_m", 2)
    offset = position - np.array(camera.ego_position_m[:2], np.float32)
    angle = (column("heading_rad", 1)[:, 0] - heading_reference(camera, offset)).astype(np.float32)
    distance = column("distance_m", 1)[:, 0]
    lifted_m = np.array([a.get("height_m", 0.0) for a in annotations], np.float32)  # of its underside
    visible = column("visible_share", 1)[:, 0]
    height = box[:, 3] - box[:, 1]
    return Objects(
        class_id=class_id,
        box_px=box,
        ground_px=column("ground_px", 2) + np.float32(0.5),
        angle_rad=np.arctan2(np.sin(angle), np.cos(angle)),
        size_m=column("size_m", 3)[:, :2],
        scale_px=(task.reference_length_m * camera.fy / _reach(camera, offset)).astype(np.float32),
        wanted=(height >= task.min_train_height_px) & (visible >= task.min_train_visible),
        grounded=lifted_m <= LIFTED_M,
        distance_m=distance,
        visible_share=visible,
        ego_position_m=position,
    )


def _reach(camera: CameraModel, offset_m: np.ndarray) -> np.ndarray:
    """About how far the ground at offsets [N, 2] is from a camera along its axis."""
    if camera.looks_down:
        ground_m = np.pad(offset_m + np.array(camera.ego_position_m[:2]), ((0, 0), (0, 1)))
        return np.maximum(camera.project(ground_m)[1], 0.1)
    return np.maximum(np.hypot(offset_m[:, 0], offset_m[:, 1]), 1.0)


@dataclass(kw_only=True)
class Batch:
    """Images of one size and all their objects in a row; ``image_index`` says which image each belongs to."""

    images: np.ndarray  # uint8 [B, H, W, 3]
    image_index: np.ndarray  # int64 [M]
    objects: Objects


def make_batch(images: list[np.ndarray], objects: list[Objects]) -> Batch:
    """Stack images of one size and concatenate their objects."""
    merged = {f.name: np.concatenate([getattr(o, f.name) for o in objects]) for f in fields(Objects)}
    index = np.repeat(np.arange(len(objects)), [len(o) for o in objects])
    return Batch(images=np.stack(images), image_index=index, objects=Objects(**merged))


def group_by_size(images: list[LabelledImage]) -> list[list[LabelledImage]]:
    """Images of equal size together, largest size first."""
    groups: dict[tuple[int, ...], list[LabelledImage]] = {}
    for image in images:
        groups.setdefault(image.image.shape, []).append(image)
    return [groups[shape] for shape in sorted(groups, reverse=True)]


def sampling_weight(image: LabelledImage) -> float:
    """How often an image is drawn: an empty one teaches little, and what is rare shall be no stranger."""
    classes = image.objects.class_id[image.objects.wanted]
    if not len(classes):
        return 0.4
    return 2.0 if np.isin(classes, DETECTOR_TASKS[image.task].rare_classes).any() else 1.0


def epoch_order(
    groups: list[list[LabelledImage]], batch: int, rng: np.random.Generator
) -> Iterator[list[LabelledImage]]:
    """As many images as there are, drawn by ``sampling_weight``, in random batches of one size each.

    The draw is systematic: an image comes as often as its weight says, rounded up or down by chance. ``batch`` is that
    of the largest images; smaller ones come in batches of about as many pixels, at most double.
    """
    batches: list[list[LabelledImage]] = []
    largest = max((g[0].image.size for g in groups), default=1)
    for group in groups:
        count = batch * min(2, max(1, round(largest / group[0].image.size)))
        share = np.cumsum([sampling_weight(image) for image in group])
        marks = (np.arange(len(group)) + rng.random()) * (share[-1] / len(group))
        order = rng.permutation(np.searchsorted(share, marks, side="right").clip(max=len(group) - 1))
        chunks = [order[i : i + count] for i in range(0, len(order), count)]
        if len(chunks) > 1 and len(chunks[-1]) < count // 2:
            chunks.pop()  # too few for batch statistics; the next epoch draws anew
        batches += [[group[i] for i in chunk] for chunk in chunks]
    for i in rng.permutation(len(batches)):
        yield batches[i]
