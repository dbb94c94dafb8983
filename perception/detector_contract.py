"""What every detector bundle takes and gives, whoever trained the network inside: tensors by name, shape and unit."""

from __future__ import annotations

from visuomotor.deploy.runtime.bundle import TensorSpec

OUTPUTS = 48  # detections in every output; those past ``count`` are zero
OUTPUT_NAMES = ("box_px", "score", "class_id", "ground_px", "heading", "size_m", "count")


def output_specs(classes: int) -> tuple[TensorSpec, ...]:
    """The outputs of a detector of so many classes."""
    return (
        TensorSpec(
            name="box_px", dtype="float32", shape=(OUTPUTS, 4), unit="px", meaning="x0, y0, x1, y1; visible part"
        ),
        TensorSpec(name="score", dtype="float32", shape=(OUTPUTS,), low=0.0, high=1.0, meaning="falling; 0 past count"),
        TensorSpec(name="class_id", dtype="int64", shape=(OUTPUTS,), low=0, high=classes - 1),
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
            meaning="sine, cosine of n (yaw - reference), n the class's symmetry; 0, 0: unknown",
        ),
        TensorSpec(name="size_m", dtype="float32", shape=(OUTPUTS, 2), unit="m", meaning="length, width"),
        TensorSpec(name="count", dtype="int64", shape=(), low=0, high=OUTPUTS),
    )


def frame_spec(height: int, width: int) -> TensorSpec:
    """The one input: a frame of the camera as it comes."""
    return TensorSpec(name="frame", dtype="uint8", shape=(1, height, width, 3), low=0, high=255, meaning="BGR")
