"""What training and scoring a detector assume of each task, as data: one row per task."""

from __future__ import annotations

import msgspec

from visuomotor.messages.tasks import Task
from visuomotor.perception.tasks import PerceptionTask, get_perception


class AugmentConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Probabilities and ranges."""

    flip: float = 0.5
    geometry: float = 0.3
    scale: tuple[float, float] = (0.85, 1.2)
    shift_px: tuple[float, float] = (30.0, 6.0)  # across, down
    min_height_px: float = 7.0  # of what is still wanted after scaling
    erase: float = 0.15
    colour: float = 0.7
    gain: float = 0.3  # +- share of contrast and of each channel's gain (a third of it)
    offset: float = 30.0  # +- brightness
    gamma: float = 0.35  # +- log gamma
    mix: float = 0.15  # +- share of other channels in each
    noise: float = 0.2
    noise_sigma: float = 8.0
    blur: float = 0.08


class DetectorTask(msgspec.Struct, frozen=True, kw_only=True):
    """One row; tuples hold one value per class unless they say otherwise."""

    perception: PerceptionTask
    bundles: dict[str, str]  # camera -> name of the bundle that is trained for it
    # Below these an object is neither wanted nor wrong: training ignores what lies there ...
    min_train_height_px: float = 7.0
    min_train_visible: float = 0.2
    # ... and the figures ignore what is below these.
    min_height_px: float = 10.0
    min_visible: float = 0.3
    rare_classes: tuple[int, ...] = ()  # pictures that show one are drawn twice as often
    class_weight: tuple[float, ...]  # how much a location of an object counts for the scores: the frequent is the guess
    heading_weight: tuple[float, ...]  # 0: its heading is not to be learned
    # How much more recall counts than precision at the deployed threshold.
    threshold_beta: tuple[float, ...]
    reference_length_m: float  # what an error of the ground point is compared with
    augment: AugmentConfig = AugmentConfig()
    near_m: float  # the figures of positions are about objects within this range
    allowed_m: float  # what a position may be off: the larger of this ...
    allowed_share: float  # ... and this share of the range
    range_edges_m: tuple[float, ...]  # of the figures by range
    sigma_edges_m: tuple[float, ...]  # of the table of position errors in the bundle
    sigma_floor_m: float
    # Where too few objects were seen to fit anything: columns at the first and the last of ``sigma_edges_m``.
    sigma_default_m: tuple[tuple[float, float], tuple[float, float]]  # along, across
    digits: int = 2  # of metres in reports

    @property
    def task(self) -> Task:
        """The row of the shared vocabulary."""
        return self.perception.task

    @property
    def near_key(self) -> str:
        """Name of the figures within ``near_m``."""
        return f"within_{self.near_m:g}_m"

    def __post_init__(self) -> None:
        count = len(self.task.class_names)
        for name in ("class_weight", "heading_weight", "threshold_beta"):
            if len(getattr(self, name)) != count:
                raise ValueError(f"{self.task.name}: {name}: expected {count} values, got {getattr(self, name)}")


DETECTOR_TASKS: dict[str, DetectorTask] = {
    row.task.name: row
    for row in (
        DetectorTask(  # classes: car, truck, cyclist, pedestrian, cone
            perception=get_perception("drive"),
            bundles={
                "camera_front": "drive-detector-front",
                "camera_left": "drive-detector-side",
                "camera_right": "drive-detector-side",
                "camera_rear": "drive-detector-side",
            },
            rare_classes=(1, 2, 3),
            class_weight=(1.0, 2.0, 2.5, 1.5, 1.0),  # what is rare would else be called a car
            heading_weight=(1.0, 1.0, 1.0, 1.0, 0.0),
            # A person or a cone missed costs more than one invented, and the tracker asks for more evidence before it
            # believes.
            threshold_beta=(1.0, 1.0, 2.0, 2.0, 2.0),
            reference_length_m=1.4,
            near_m=30.0,
            allowed_m=0.5,
            allowed_share=0.05,
            range_edges_m=(0.0, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 60.0, 100.0),
            sigma_edges_m=(0.0, 4.0, 8.0, 12.0, 16.0, 20.0, 25.0, 30.0, 40.0, 50.0, 70.0, 100.0),
            sigma_floor_m=0.03,
            sigma_default_m=((0.5, 20.0), (0.3, 3.0)),
        ),
        DetectorTask(  # classes: red cube, blue cylinder, green block, yellow ball, duck, brick
            perception=get_perception("pick"),
            bundles={"camera_top": "pick-detector", "camera_wrist": "pick-detector-wrist"},
            min_train_height_px=4.0,
            min_height_px=6.0,
            class_weight=(1.0,) * 6,
            heading_weight=(3.0, 0.0, 3.0, 0.0, 3.0, 3.0),  # sixteen pixels tell a yaw late, and a grasp needs it
            threshold_beta=(1.0,) * 6,
            reference_length_m=0.05,  # about a part: 16 pixels
            augment=AugmentConfig(
                scale=(0.97, 1.03),  # the camera's height above the belt is known, and so are sizes
                shift_px=(6.0, 6.0),
                min_height_px=4.0,
                erase=0.05,
                mix=0.05,  # colour tells the classes
                gain=0.2,
                offset=20.0,
                gamma=0.25,
            ),
            near_m=1.5,
            allowed_m=0.005,
            allowed_share=0.01,
            range_edges_m=(0.0, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0),
            sigma_edges_m=(0.0, 0.42, 0.5, 0.58, 0.66, 0.75, 0.9, 1.2),
            sigma_floor_m=0.001,
            sigma_default_m=((0.01, 0.01), (0.01, 0.01)),
            digits=4,
        ),
    )
}


def get_detector_task(name: str) -> DetectorTask:
    """The row of a task; ValueError with the known names when there is none."""
    if name not in DETECTOR_TASKS:
        raise ValueError(f"task: expected one of {', '.join(DETECTOR_TASKS)}, got {name!r}")
    return DETECTOR_TASKS[name]
