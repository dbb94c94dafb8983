"""What a step may act upon: not what is old, and not what claims to be from the future."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from visuomotor.messages.node import Sample, Tick
from visuomotor.messages.schema import CameraFrame, Header
from visuomotor.messages.stepper import AHEAD_S, Stepper


@pytest.mark.parametrize(
    ("age_s", "there"), [(0.0, True), (0.29, True), (0.31, False), (-0.09, True), (-0.11, False), (-3.0, False)]
)
def test_a_message_counts_while_its_age_can_be_believed(toys: ModuleType, age_s: float, there: bool) -> None:
    assert AHEAD_S == 0.1
    now_ns = 10_000_000_000
    stepper = Stepper(toys.Eye(), "realtime", "run")
    stepper.begin_episode(0)
    frame = CameraFrame(
        header=Header(t_capture_ns=now_ns - round(age_s * 1e9), valid=True), image=np.zeros((4, 4, 3), np.uint8)
    )
    stepper.deliver("camera_front", frame, now_ns)
    sample = stepper.take(Tick(0, 0, now_ns, "realtime"))["camera_front"]
    assert isinstance(sample, Sample)
    assert (sample.message is not None, sample.alive) == (there, there)
