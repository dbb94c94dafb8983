"""Frames to calibrate with: a seeded choice from images, a labelled data set, a video or recordings.

They are brought to the bundle's input as a run does it: what a camera delivers is cropped and scaled like the frames of
``launch vehicle``; what was published or labelled for one camera is taken as it is, or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import msgspec
import numpy as np

from visuomotor.deploy.record.reader import Recording
from visuomotor.deploy.runtime.bundle import META_FILE, Bundle, BundleError
from visuomotor.deploy.vehicle.cameras import fit_image
from visuomotor.deploy.vehicle.capture import quiet
from visuomotor.messages.camera import CameraModel
from visuomotor.messages.schema import CameraFrame

FRAMES_MIN = 16
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
VIDEOS = (".mp4", ".avi", ".mkv", ".mov", ".webm")
RECORDINGS = (".mcap",)
LABELS_FILE = "annotations.json"
SPLITS = ("train", "val", "test")  # calibration takes the first there is, a measurement the last

Load = Callable[[], np.ndarray | None]


class CalibrationError(ValueError):
    """Frames or inputs that cannot be used; names where they should come from, what was found and what was expected."""


class CalibrationFrames(msgspec.Struct, frozen=True, kw_only=True):
    """Chosen frames, uint8 [H, W, 3] BGR of the bundle's size, in their order; ``available`` is how many there were."""

    frames: list[np.ndarray]
    source: str
    kind: str  # images, labelled data set, video, recording
    available: int
    seed: int


class CameraInput(msgspec.Struct, frozen=True, kw_only=True):
    """What a detector bundle takes: frames of one size, of these cameras (any, where the bundle names none)."""

    width: int
    height: int
    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"{' or '.join(self.names) or 'frames'} of {self.width}x{self.height}"

    def takes(self, name: str, width: int, height: int) -> bool:
        """Whether frames of a camera are for this bundle."""
        return (width, height) == (self.width, self.height) and (not self.names or name in self.names)


def read_camera_input(bundle: Bundle) -> CameraInput:
    """Size and cameras of a detector bundle. Raises BundleError when it does not declare them."""
    shape = next((spec.shape for spec in bundle.meta.inputs if spec.name == "frame"), ())
    if len(shape) != 4 or not all(isinstance(size, int) for size in shape):
        file = bundle.path / META_FILE
        raise BundleError(f"{file}: inputs.frame.shape: expected four numbers, got {list(shape)}")
    names = bundle.meta.extra.get("camera", {}).get("names", [])
    return CameraInput(width=int(shape[2]), height=int(shape[1]), names=tuple(names))


def choose_frames(path: Path, camera: CameraInput, count: int, seed: int) -> CalibrationFrames:
    """At most ``count`` frames of ``path``, each as likely as any other; the same for the same seed.

    Raises CalibrationError when there are fewer than ``FRAMES_MIN`` frames, or none of this camera.
    """
    kind, frames = _open(path, camera)
    rng = np.random.default_rng(seed)
    kept: dict[int, tuple[int, np.ndarray]] = {}
    available = 0
    for load in frames:  # reservoir sampling: neither videos nor recordings know their length
        slot = available if available < count else int(rng.integers(0, available + 1))
        if slot < count:
            image = load()
            if image is None:
                continue
            kept[slot] = (available, image)
        available += 1
    if available < FRAMES_MIN:
        raise CalibrationError(f"{path}: expected at least {FRAMES_MIN} frames ({camera}), got {available}")
    chosen = [image for _, image in sorted(kept.values(), key=lambda item: item[0])]
    return CalibrationFrames(frames=chosen, source=str(path), kind=kind, available=available, seed=seed)


def find_split(path: Path, *, last: bool) -> Path | None:
    """Folder with labels of a data set or of one of its splits: the first (or last) split there is; None without."""
    if (path / LABELS_FILE).is_file():
        return path
    there = [path / split for split in SPLITS if (path / split / LABELS_FILE).is_file()]
    return (there[-1] if last else there[0]) if there else None


def _open(path: Path, camera: CameraInput) -> tuple[str, Iterator[Load]]:
    if path.is_dir():
        if (split := find_split(path, last=False)) is not None:
            return "labelled data set", _read_labelled(split, camera)
        files = sorted(file for file in path.rglob("*") if file.is_file())
        if recordings := [file for file in files if file.suffix.lower() in RECORDINGS]:
            return "recording", (load for file in recordings for load in _read_recording(file, camera))
        if images := [file for file in files if file.suffix.lower() in IMAGES]:
            return "images", _read_images(images, camera)
        raise CalibrationError(f"{path}: expected images, a labelled data set or recordings, found none of them")
    if not path.is_file():
        raise CalibrationError(f"{path}: no such file or folder")
    if path.suffix.lower() in RECORDINGS:
        return "recording", _read_recording(path, camera)
    if path.suffix.lower() in VIDEOS:
        return "video", _read_video(path, camera)
    known = ", ".join(f"*{suffix}" for suffix in (*VIDEOS, *RECORDINGS))
    raise CalibrationError(f"{path}: expected a folder or one of {known}")


def _fit(image: np.ndarray, camera: CameraInput) -> np.ndarray:
    size = CameraModel(name="any", width=camera.width, height=camera.height, fx=1.0, fy=1.0, cx=0.0, cy=0.0)
    return fit_image(image, size)


def _read_images(files: list[Path], camera: CameraInput) -> Iterator[Load]:
    def make(file: Path) -> Load:
        def load() -> np.ndarray:
            image = cv2.imread(str(file), cv2.IMREAD_COLOR)
            if image is None:
                raise CalibrationError(f"{file}: cannot be read as an image")
            return _fit(image, camera)

        return load

    return (make(file) for file in files)


def _read_labelled(split: Path, camera: CameraInput) -> Iterator[Load]:
    file = split / LABELS_FILE
    try:
        rows = json.loads(file.read_text())["images"]
        sizes = [(str(row["camera"]), int(row["width"]), int(row["height"])) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CalibrationError(f"{file}: not the labels of a data set ({type(error).__name__}: {error})") from error
    mine = [row for row, size in zip(rows, sizes, strict=True) if camera.takes(*size)]
    if not mine:
        raise CalibrationError(f"{file}: expected {camera}, found {_say_cameras(set(sizes))}")
    return _read_images([split / "images" / row["file_name"] for row in mine], camera)


def _read_video(path: Path, camera: CameraInput) -> Iterator[Load]:
    with quiet():
        capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise CalibrationError(f"{path}: does not open as a video; expected one that OpenCV reads")

    def load() -> np.ndarray | None:
        ok, image = capture.retrieve()
        return _fit(image, camera) if ok and image is not None else None

    try:
        while capture.grab():
            yield load
    finally:
        capture.release()


def _read_recording(path: Path, camera: CameraInput) -> Iterator[Load]:
    """Frames of the bundle's cameras, in the order in which they were written."""
    seen: set[tuple[str, int, int]] = set()
    taken = False
    for recorded in Recording(path).read():
        if not recorded.service.startswith("camera_") or (camera.names and recorded.service not in camera.names):
            if recorded.service.startswith("camera_"):
                seen.add((recorded.service, 0, 0))
            continue
        message = recorded.message
        assert isinstance(message, CameraFrame)
        image = np.array(message.image)
        if camera.takes(recorded.service, image.shape[1], image.shape[0]):
            taken = True
            yield lambda image=image: image  # type: ignore[misc]
        else:
            seen.add((recorded.service, image.shape[1], image.shape[0]))
    if not taken:
        raise CalibrationError(f"{path}: expected {camera}, found {_say_cameras(seen)}")


def _say_cameras(sizes: set[tuple[str, int, int]]) -> str:
    said = sorted(name if not width else f"{name} of {width}x{height}" for name, width, height in sizes)
    return ", ".join(said) or "no frames"
