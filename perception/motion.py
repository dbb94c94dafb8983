"""What a tracker assumes of a task's objects and how it manages tracks, as plain numbers; rows are in ``tasks``."""

from __future__ import annotations

import msgspec

FORBIDDEN = 1e6  # cost of a match that must not be


class MotionModel(msgspec.Struct, frozen=True, kw_only=True):
    """How the objects of a task move and what they may be taken for; one value per class unless it says otherwise."""

    acceleration_along_mps2: tuple[float, ...]  # white, along the heading
    acceleration_across_mps2: tuple[float, ...]
    # White as well, of what goes on as it did; None: there is no such difference. What is seen where only the two above
    # could have brought it has manoeuvred. Bar-Shalom, Li, Kirubarajan (2001), section 11.2.
    steady_mps2: tuple[float, ...] | None = None
    belt_m: tuple[float, float, float, float] | None = None  # x, y from, x, y to in ``odom_``: here all are carried ...
    rolls: tuple[bool, ...] | None = None  # ... and these may roll besides
    birth_speed_along_mps: tuple[float, ...]  # standard deviation of a new track's velocity
    birth_speed_across_mps: tuple[float, ...]
    is_vehicle: tuple[bool, ...]  # longer than wide with a front, hides what is behind it, fits into a blind angle
    with_traffic: tuple[bool, ...]  # one that heads our way is born with a share of our speed
    merge_radius_m: tuple[float, ...]  # two reports closer than this can be one object, whatever their covariances say
    # (class, class, cost): a track of one may be matched with a detection of the other, in units of squared sigma.
    confusions: tuple[tuple[int, int, float], ...] = ()
    confusion: float = FORBIDDEN  # the same of all other pairs
    heading_follows_motion: bool = True
    moving_mps: float = 0.6  # slower, motion says nothing of the heading

    def __post_init__(self) -> None:
        counts = {name: len(getattr(self, name)) for name in PER_CLASS if getattr(self, name) is not None}
        if len(set(counts.values())) != 1:
            raise ValueError(f"motion model: expected one value per class everywhere, got {counts}")

    @property
    def class_count(self) -> int:
        """Number of classes."""
        return len(self.merge_radius_m)


PER_CLASS = (
    "acceleration_along_mps2", "acceleration_across_mps2", "steady_mps2", "rolls", "birth_speed_along_mps",
    "birth_speed_across_mps", "is_vehicle", "with_traffic", "merge_radius_m",
)  # fmt: skip


class TrackerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Thresholds of the track manager."""

    score_birth: float = 0.4  # weaker detections only prolong tracks
    score_keep: float = 0.12
    evidence: float = 0.95  # summed score of the hits that confirm a track, at least two of them
    evidence_window_s: float = 0.35
    missed_tentative_s: float = 0.25  # in view, unoccluded and still not seen
    missed_confirmed_s: float = 0.7
    unseen_max_s: float = 4.0
    outside_max_s: float = 4.0  # the same for a track that no camera, alive or dead, has in its picture
    position_sigma_max_m: float = 4.0
    blind_range_m: float = 8.0  # a vehicle this near that went where no camera looks is still there ...
    blind_max_s: float = 8.0  # ... for so long: it would have been seen coming out
    range_max_m: float = 90.0
    range_sure_m: float = 30.0  # beyond, a miss says less and less
    tracks_max: int = 32
    edge_margin_rad: float = 0.05  # of a level camera's field of view
    edge_margin_px: float = 6.0  # of the picture of a camera that looks down
    limb_radius_m: float = 0.07  # of the robot's own limbs, which hide what they are before
    hidden_sigma: float = 6.0  # a detection of what they hide the whole of is off by so many times more
    hidden_turn_sigma: float = 2.0  # and so is its heading by so many times
    duplicate_m: float = 0.5  # of the merge radius: two tracks this close are one
    measurement_floor_m: float = 0.15
    traffic_speed_share: float = 0.7  # birth speed of a vehicle that heads our way, as a share of ours
