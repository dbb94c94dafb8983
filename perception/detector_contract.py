"""What every detector bundle takes and gives, whoever trained the network inside: tensors by name, shape and unit."""

from __future__ import annotations

from visuomotor.deploy.runtime.bundle import TensorSpec
from visuomotor.messages.schema import CLASS_NAMES

OUTPUTS = 48  # detections in every output; those past ``count`` are zero
SIZE_PRIOR_M = ((4.4, 1.8), (8.0, 2.4), (1.8, 0.6), (0.5, 0.5), (0.4, 0.4))  # length, width by class

OUTPUT_SPECS = (
    TensorSpec(name="box_px", dtype="float32", shape=(OUTPUTS, 4), unit="px", meaning="x0, y0, x1, y1; visible part"),
    TensorSpec(name="score", dtype="float32", shape=(OUTPUTS,), low=0.0, high=1.0, meaning="falling; 0 past count"),
    TensorSpec(name="class_id", dtype="int64", shape=(OUTPUTS,), low=0, high=len(CLASS_NAMES) - 1),
    TensorSpec(
        name="ground_px",
        dtype="float32",
        shape=(OUTPUTS, 2),
        unit="px",
        meaning="footprint centre, or the box's foot where extra.ground_point says so",
    ),
    TensorSpec(
        name="heading",
        dtype="float32",
        shape=(OUTPUTS, 2),
        low=-1.0,
        high=1.0,
        meaning="sine, cosine of yaw - bearing; 0, 0: unknown",
    ),
    TensorSpec(name="size_m", dtype="float32", shape=(OUTPUTS, 2), unit="m", meaning="length, width"),
    TensorSpec(name="count", dtype="int64", shape=(), low=0, high=OUTPUTS),
)


def frame_spec(height: int, width: int) -> TensorSpec:
    """The one input: a frame of the camera as it comes."""
    return TensorSpec(name="frame", dtype="uint8", shape=(1, height, width, 3), low=0, high=255, meaning="BGR")
