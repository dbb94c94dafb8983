"""Run time of the detector: one frame in, objects with metric positions in ``ego_`` out. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from visuomotor.deploy.runtime.bundle import META_FILE, Bundle, BundleError, load_bundle
from visuomotor.deploy.runtime.session import Session, make_session
from visuomotor.deploy.runtime.tuning import Tuning
from visuomotor.messages.camera import CameraModel, rotation
from visuomotor.messages.schema import Detections
from visuomotor.perception.tasks import PERCEPTION, PerceptionTask, Placement


@dataclass(frozen=True, kw_only=True)
class CameraDetections:
    """Objects found in one frame, N of them by falling score; all arrays but ``class_id`` float32."""

    class_id: np.ndarray  # int32 [N]
    score: np.ndarray  # [N]
    box_px: np.ndarray  # [N, 4] x0, y0, x1, y1
    ground_px: np.ndarray  # [N, 2] image of the footprint's centre
    ego_position_m: np.ndarray  # [N, 2]
    ego_covariance_m2: np.ndarray  # [N, 2, 2]
    heading_rad: np.ndarray  # [N] yaw in ego, NaN: unknown
    size_m: np.ndarray  # [N, 2] length, width

    def __len__(self) -> int:
        return len(self.class_id)


class PositionSigma:
    """Standard deviation of a position along and across the viewing ray, by range from the camera.

    What the network gets wrong was fitted on validation images and is stored in the bundle; what an attitude that is
    wrong by ``attitude_sigma_rad`` adds follows from geometry: the ground point moves by (h^2 + r^2) / h per radian.
    """

    def __init__(self, table: Mapping[str, Sequence[float]], camera_height_m: float, attitude_sigma_rad: float) -> None:
        self._range, self._along, self._across = (
            np.asarray(table[key], np.float64) for key in ("range_m", "along_m", "across_m")
        )
        if not len(self._range) or not len(self._range) == len(self._along) == len(self._across):
            raise ValueError(f"position sigma: expected columns of equal length, got {dict(table)!r}")
        self._height_m = max(camera_height_m, 0.1)
        self._attitude_sigma_rad = attitude_sigma_rad

    def along_across(self, range_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sigmas [N], [N] in metres at ranges [N]; past the last fitted range they grow with its square, linearly."""
        past = np.maximum(range_m / self._range[-1], 1.0)
        along = np.interp(range_m, self._range, self._along) * past**2
        across = np.interp(range_m, self._range, self._across) * past
        tilt = (self._height_m**2 + range_m**2) / self._height_m * self._attitude_sigma_rad
        return np.hypot(along, tilt), across


def tabulate_foot_sigma(camera: CameraModel, foot_px: float, placement: Placement) -> dict[str, list[float]]:
    """Table for ``PositionSigma`` of a detector of which only the error of a box's foot is known, in pixels.

    Geometry of a point on the ground at range r, seen from height h with focal length f: a pixel is (h^2 + r^2) / (h f)
    along the viewing ray and r / f across it.
    """
    height_m = max(camera.ego_position_m[2], 0.1)
    range_m = np.geomspace(placement.range_max_m / 60.0, placement.range_max_m, 12)  # from right before the camera on
    along = np.hypot(placement.foot_floor_m[0], foot_px * (height_m**2 + range_m**2) / (height_m * camera.fy))
    across = np.hypot(placement.foot_floor_m[1], foot_px * range_m / camera.fx)
    return {"range_m": range_m.tolist(), "along_m": along.tolist(), "across_m": across.tolist()}


def move_to_centre(
    foot_m: np.ndarray, camera: CameraModel, size_m: np.ndarray, origin_m: np.ndarray | None = None
) -> np.ndarray:
    """Feet of boxes [N, 2] pushed along their rays by half the depth of a footprint that lies along the car's axis.

    A box ends where its object is nearest to the camera; most vehicles in view stand or move along the road.
    ``size_m`` [N, 2] is length and width, ``origin_m`` where the camera is, by default as mounted; all in ``ego_``.
    """
    axis = np.array([np.cos(camera.ego_yaw_rad), np.sin(camera.ego_yaw_rad)])
    half_depth_m = 0.5 * size_m @ np.abs(axis)
    ray = foot_m - (np.asarray(camera.ego_position_m[:2]) if origin_m is None else origin_m)
    return foot_m + ray * (half_depth_m / np.maximum(ray @ axis, 0.5))[:, None]


def heading_reference(camera: CameraModel, ray_m: np.ndarray) -> np.ndarray:
    """Directions [N] in ``ego_`` from which a network counts yaws, for rays [N, 2] from the camera along the ground.

    That is the picture's upright, laid on the ground, so that what looks the same is called the same wherever it is
    seen: the ray itself for a level camera, the camera's own yaw for one that looks straight down, else between them.
    """
    bearing = np.arctan2(ray_m[:, 1], ray_m[:, 0])
    if not camera.looks_down:  # near enough: the networks of such cameras were trained on it
        return bearing
    reach, side = np.hypot(ray_m[:, 0], ray_m[:, 1]), bearing - camera.ego_yaw_rad
    cosine, sine = np.cos(camera.ego_pitch_rad), np.sin(camera.ego_pitch_rad)
    depth = reach * np.cos(side) * cosine + camera.ego_position_m[2] * sine
    return camera.ego_yaw_rad + np.arctan2(reach * np.sin(side) * cosine, depth)


def _task_of(bundle: Bundle, wanted: PerceptionTask | None) -> PerceptionTask:
    """The row of a bundle's task. Raises BundleError when there is none, or it is not the one wanted."""
    meta, file = bundle.meta, bundle.path / META_FILE
    if wanted is not None and meta.task != wanted.name:
        raise BundleError(f"{file}: task: expected {wanted.name!r}, got {meta.task!r}: {bundle.name} was made for it")
    if meta.task not in PERCEPTION:
        raise BundleError(f"{file}: task: expected one of {', '.join(PERCEPTION)}, got {meta.task!r}")
    task = PERCEPTION[meta.task]
    if meta.class_names != task.task.class_names:
        raise BundleError(f"{file}: class_names: expected {task.task.class_names}, got {meta.class_names}")
    return task


class Detector:
    """A detector bundle on one camera.

    Two things a bundle of an imported network says in ``extra``: ``ground_point`` is "foot" where ``ground_px`` is the
    middle of the box's lower edge and not the footprint's centre; ``position_sigma`` is {"foot_px": sigma} where its
    errors in metres were not fitted. A heading of 0, 0 is unknown. Raises BundleError when the bundle was made for
    another image size, another task than ``task`` (by default any) or other classes than its task's.
    """

    def __init__(
        self,
        bundle: Bundle | Path | str,
        camera: CameraModel,
        device: str = "auto",
        threads: int = 1,
        tuning: Tuning | None = None,
        *,
        session: Session | None = None,
        attitude_sigma_rad: float = 0.001,
        task: PerceptionTask | None = None,
    ) -> None:
        self.bundle = bundle if isinstance(bundle, Bundle) else load_bundle(bundle, "detector")
        self.camera = camera
        meta, file = self.bundle.meta, self.bundle.path / META_FILE
        self.task = _task_of(self.bundle, task)
        class_names = self.task.task.class_names
        expected = (1, camera.height, camera.width, 3)
        shape = next((spec.shape for spec in meta.inputs if spec.name == "frame"), None)
        if shape != expected:
            raise BundleError(f"{file}: inputs.frame.shape: expected {expected} for {camera.name}, got {shape}")
        limits: dict[str, Any] = self.bundle.get_extra("score_threshold", dict)
        if set(limits) != set(class_names):
            raise BundleError(f"{file}: extra.score_threshold: expected one per class, got {sorted(limits)}")
        self.score_threshold = np.array([limits[name] for name in class_names], np.float32)
        self._symmetry = np.array(self.task.task.symmetry)
        try:
            table = self.bundle.get_extra("position_sigma", dict)
            if "foot_px" in table:
                table = tabulate_foot_sigma(camera, float(table["foot_px"]), self.task.placement)
            self.sigma = PositionSigma(table, camera.ego_position_m[2], attitude_sigma_rad)
        except (ValueError, KeyError, TypeError) as error:
            raise BundleError(f"{file}: extra.position_sigma: {error}") from error
        ground_point = meta.extra.get("ground_point", "centre")
        if ground_point not in ("centre", "foot"):
            raise BundleError(f"{file}: extra.ground_point: expected 'centre' or 'foot', got {ground_point!r}")
        self.at_foot = ground_point == "foot"
        self.session = session or make_session(self.bundle, device, threads, tuning)

    def infer(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """The graph's outputs for one BGR frame uint8 [H, W, 3], cut to their count (the scores fall to MIN_SCORE)."""
        if image.shape != (self.camera.height, self.camera.width, 3) or image.dtype != np.uint8:
            expected = f"uint8 {self.camera.height}x{self.camera.width}x3"
            raise ValueError(f"{self.camera.name}: expected {expected}, got {image.dtype} {image.shape}")
        outputs = self.session.run({"frame": np.ascontiguousarray(image)[None]})
        count = int(outputs.pop("count"))
        return {name: value[:count] for name, value in outputs.items()}

    def detect(self, image: np.ndarray, roll_rad: float = 0.0, pitch_rad: float = 0.0) -> CameraDetections:
        """Objects that score at least their class's threshold and stand on the ground within the task's range."""
        found = self.infer(image)
        return self.place(found, roll_rad, pitch_rad)

    def place(self, found: Mapping[str, np.ndarray], roll_rad: float, pitch_rad: float) -> CameraDetections:
        """Threshold the output of ``infer`` and put it on the ground, with the body's attitude."""
        placement = self.task.placement
        position = self.camera.ground(found["ground_px"], roll_rad, pitch_rad)
        origin = (rotation(roll_rad, pitch_rad, 0.0) @ np.asarray(self.camera.ego_position_m))[:2]
        if self.at_foot:
            position = move_to_centre(position, self.camera, found["size_m"], origin)
        ray = position - origin
        range_m = np.hypot(ray[:, 0], ray[:, 1])
        keep = found["score"] >= self.score_threshold[found["class_id"]]
        keep &= np.isfinite(range_m) & (range_m <= placement.range_max_m)
        position, ray, range_m = position[keep], ray[keep], range_m[keep]
        along, across = self.sigma.along_across(range_m)
        box = found["box_px"][keep]
        margin = placement.cut_margin_px
        cut = (box[:, 0] < margin) | (box[:, 2] > self.camera.width - margin)
        if self.at_foot or self.camera.looks_down:  # below the picture it goes on: the foot is nearer than it looks
            cut |= box[:, 3] > self.camera.height - margin
        if self.camera.looks_down:
            cut |= box[:, 1] < margin
        along, across = (
            np.where(cut, np.maximum(placement.cut_sigma * sigma, placement.cut_floor_m), sigma)
            for sigma in (along, across)
        )
        unit = ray / np.maximum(range_m, 1e-3)[:, None]
        unit[range_m < 1e-3] = 1.0, 0.0  # right below the camera every direction is as good
        normal = np.stack([-unit[:, 1], unit[:, 0]], axis=1)
        covariance = (along**2)[:, None, None] * unit[:, :, None] * unit[:, None, :]
        covariance = covariance + (across**2)[:, None, None] * normal[:, :, None] * normal[:, None, :]
        sine, cosine = found["heading"][keep].T
        order = self._symmetry[found["class_id"][keep]]
        heading = np.arctan2(sine, cosine) / np.maximum(order, 1) + heading_reference(self.camera, ray)
        heading[(order == 0) | ((sine == 0.0) & (cosine == 0.0))] = np.nan
        return CameraDetections(
            class_id=found["class_id"][keep].astype(np.int32),
            score=found["score"][keep],
            box_px=box,
            ground_px=found["ground_px"][keep],
            ego_position_m=position.astype(np.float32),
            ego_covariance_m2=covariance.astype(np.float32),
            heading_rad=np.arctan2(np.sin(heading), np.cos(heading)).astype(np.float32),
            size_m=found["size_m"][keep],
        )


def make_detectors(
    bundles: Mapping[str, Bundle | Path | str],
    cameras: Mapping[str, CameraModel],
    device: str = "auto",
    threads: int = 1,
    attitude_sigma_rad: float = 0.001,
    tuning: Tuning | None = None,
    task: PerceptionTask | None = None,
) -> dict[str, Detector]:
    """One detector per camera that has a bundle; cameras with the same bundle share one session, unless they are to be
    looked at at once.

    ``task`` is the one that all have to be made for, by default that of the first. Raises ValueError for a bundle whose
    camera is unknown.
    """
    if unknown := sorted(set(bundles) - set(cameras)):
        raise ValueError(
            f"detector: no camera named {', '.join(unknown)}; expected some of {', '.join(sorted(cameras))}"
        )
    loaded: dict[Path, tuple[Bundle, Session]] = {}
    detectors = {}
    for name, source in bundles.items():
        bundle = source if isinstance(source, Bundle) else load_bundle(source, "detector")
        if bundle.path not in loaded or (tuning is not None and tuning.at_once):
            loaded[bundle.path] = (bundle, make_session(bundle, device, threads, tuning))
        bundle, session = loaded[bundle.path]
        detectors[name] = Detector(
            bundle, cameras[name], session=session, attitude_sigma_rad=attitude_sigma_rad, task=task
        )
        task = detectors[name].task
    return detectors


def merge_detections(found: Mapping[str, CameraDetections]) -> Detections:
    """One message of what several cameras found in the same tick; nothing found is a valid message too."""
    names, parts = tuple(found), list(found.values())

    def join(field: str, dtype: str, *shape: int) -> np.ndarray:
        arrays = [getattr(part, field) for part in parts]
        return np.concatenate(arrays).astype(dtype) if arrays else np.zeros((0, *shape), dtype)

    return Detections(
        cameras=names,
        camera_index=np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts]),
        class_id=join("class_id", "int32"),
        score=join("score", "float32"),
        box_px=join("box_px", "float32", 4),
        ground_px=join("ground_px", "float32", 2),
        ego_position_m=join("ego_position_m", "float32", 2),
        ego_covariance_m2=join("ego_covariance_m2", "float32", 2, 2),
        heading_rad=join("heading_rad", "float32"),
        size_m=join("size_m", "float32", 2),
    )
