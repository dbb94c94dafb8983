"""Parameters of the perception error model: what they mean, their limits, and their JSON on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

PerClass = tuple[float, float, float, float, float]


class TrackErrorParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the error model of every task has: the life of tracks and how their errors go on in time."""

    source: str = "provisional: from the optics, not fitted"
    detection_correlation_s: float = 0.4
    visible50: float = 0.3
    visible_slope: float = 14.0
    birth_hits: int = 3
    coast_s: float = 0.8  # a track that should be seen and is not
    coast_hidden_s: float = 2.5  # a track that went out of view or behind another
    position_correlation_s: float = 0.6
    track_spread: float = 0.4  # lognormal spread of the noise between tracks
    latency_s: float = 0.03
    velocity_correlation_s: float = 0.5
    velocity_lag_s: float = 0.35
    velocity_at_birth: float = 0.6  # share of the true velocity a new track starts with
    heading_noise_rad: tuple[float, ...]
    size_noise: float = 0.08
    identity_switches_per_s: float = 0.01
    class_confusion: tuple[float, ...]
    false_alarms_per_s: float = 0.06
    false_alarm_life_s: float = 0.5
    false_alarm_near_share: float = 0.5  # doubles beside a real agent; the rest anywhere in the camera's view

    def __post_init__(self) -> None:
        """Raise ValueError that names the field, its value and what was expected."""
        for name in (*_SHARES, *self.shares()):
            _expect(name, getattr(self, name), 0.0, 1.0, "probabilities in [0, 1]")
        for name in (*_POSITIVE, *self.positive()):
            _expect(name, getattr(self, name), 1e-9, 1e6, "greater than 0")
        for name in self.__struct_fields__:
            if name != "source":
                _expect(name, getattr(self, name), 0.0, 1e6, "finite and not negative")

    def shares(self) -> tuple[str, ...]:
        """Further fields that must be shares."""
        return ()

    def positive(self) -> tuple[str, ...]:
        """Further fields that must be positive."""
        return ()


_SHARES = ("visible50", "velocity_at_birth", "false_alarm_near_share", "class_confusion")
_POSITIVE = (
    "visible50",
    "visible_slope",
    "detection_correlation_s",
    "position_correlation_s",
    "velocity_correlation_s",
    "velocity_lag_s",
    "false_alarm_life_s",
    "birth_hits",
)


class ErrorParameters(TrackErrorParameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of the error model of driving; one value per class where the type is five numbers (car .. cone).

    Detection: probability ``detection_max * logistic(detection_slope * ln(height_px / detection_px50)) *
    logistic(visible_slope * (visible share - visible50))``, by a latent that is correlated over
    ``detection_correlation_s``. Noise: standard deviation ``floor + px * metres per pixel`` of
    the ground point, along the line of sight (range^2 / (focal * camera height)) and across it (range / focal).
    """

    detection_max: PerClass = (0.985, 0.985, 0.97, 0.97, 0.97)
    detection_px50: PerClass = (6.0, 6.5, 7.5, 7.5, 6.5)
    detection_slope: float = 7.0
    range_max_m: float = 90.0
    radial_floor_m: float = 0.12
    radial_px: float = 0.3
    lateral_floor_m: float = 0.06
    lateral_px: float = 0.8
    velocity_floor_mps: float = 0.3
    velocity_per_m: float = 0.02
    velocity_lateral_share: float = 0.5
    heading_noise_rad: PerClass = (0.06, 0.06, 0.12, 0.5, 0.5)
    class_confusion: PerClass = (0.02, 0.05, 0.05, 0.04, 0.04)
    false_alarm_standing: float = 0.5  # of the rest; the others move with the traffic
    false_alarm_class: PerClass = (0.5, 0.1, 0.1, 0.15, 0.15)
    false_alarm_range_m: float = 60.0

    def __post_init__(self) -> None:
        """Raise ValueError that names the field, its value and what was expected."""
        super().__post_init__()
        if abs(sum(self.false_alarm_class) - 1.0) > 1e-3:
            raise ValueError(f"false_alarm_class must sum to 1, got {self.false_alarm_class}")

    def shares(self) -> tuple[str, ...]:
        """Further fields that must be shares."""
        return "detection_max", "false_alarm_class", "velocity_lateral_share", "false_alarm_standing"

    def positive(self) -> tuple[str, ...]:
        """Further fields that must be positive."""
        return "detection_px50", "detection_slope", "range_max_m", "false_alarm_range_m"


def _expect(name: str, value: float | tuple[float, ...], low: float, high: float, text: str) -> None:
    values = np.atleast_1d(np.asarray(value, np.float64))
    if not np.all((values >= low) & (values <= high)):  # NaN fails too
        raise ValueError(f"{name} must be {text}, got {value}")


T = TypeVar("T", bound=TrackErrorParameters)


def load_errors(path: Path) -> ErrorParameters:
    """Read the parameters of driving from JSON; ValueError names the file and what is wrong."""
    return read_errors(path, ErrorParameters)


def read_errors(path: Path, kind: type[T]) -> T:
    """Read parameters of a task from JSON; ValueError names the file and what is wrong."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise ValueError(f"{path}: error model cannot be read ({error.strerror})") from error
    except (msgspec.DecodeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def save_errors(parameters: TrackErrorParameters, path: Path) -> None:
    """Write parameters as JSON that people can read."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(parameters), indent=2) + b"\n")
