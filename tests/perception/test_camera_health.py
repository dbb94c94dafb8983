"""A camera that repeats its picture, or shows none, is noticed; a car that stands is not taken for one."""

from __future__ import annotations

import numpy as np
import pytest

from visuomotor.perception.camera_health import FRAMES, CameraHealth


def picture(seed: int, mean: float = 120.0, spread: float = 40.0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(mean, spread, (224, 384, 3))
    return np.clip(noise, 0, 255).astype(np.uint8)


def looks(health: CameraHealth, frames: list[np.ndarray], speed_mps: float) -> list[bool]:
    return [bool(health.look(frame.copy(), speed_mps)) for frame in frames]


def test_a_picture_that_stands_still_while_the_car_moves_is_stuck_until_it_changes() -> None:
    health, same = CameraHealth(), [picture(0)] * 6
    assert looks(health, same, 9.0) == [False, False, False, True, True, True]
    assert "stuck" in health.fault
    assert looks(health, [same[0]] * 3, 0.0) == [True] * 3  # the car was stopped by it: no reason to go on
    assert looks(health, [picture(1), picture(2)], 0.0) == [False, False]
    assert health.fault == ""


def test_a_car_that_stands_may_see_the_same_picture_for_ever() -> None:
    health, same = CameraHealth(), picture(0)
    assert not any(looks(health, [same] * 50, 0.0))
    assert not any(looks(health, [same] * FRAMES, 5.0)[:-1])  # starting, it has so long to see a change


def test_one_pixel_anywhere_is_a_change() -> None:
    health, image = CameraHealth(), picture(0)
    for k in range(10):
        image = image.copy()
        image[101, 203 + k, 1] ^= 1
        assert health.look(image, 15.0) == ""


@pytest.mark.parametrize(
    ("mean", "spread", "dark"),
    [
        (0.0, 0.0, True),
        (3.0, 1.5, True),  # a cap on the lens, with the sensor's noise
        (128.0, 0.0, True),  # a grey picture of a driver without a camera
        (255.0, 0.0, True),
        (10.0, 12.0, False),  # night, with lamps
        (9.0, 25.0, False),
        (200.0, 3.0, False),  # fog
    ],
)
def test_dark_is_what_has_neither_light_nor_shapes(mean: float, spread: float, dark: bool) -> None:
    health = CameraHealth()
    seen = looks(health, [picture(k, mean, spread) for k in range(FRAMES + 1)], 9.0)
    assert seen == ([False] * (FRAMES - 1) + [True] * 2 if dark else [False] * (FRAMES + 1))
    assert ("dark" in health.fault) == dark


def test_a_reset_forgets_and_another_size_is_another_picture() -> None:
    health = CameraHealth()
    assert looks(health, [picture(0)] * 4, 9.0)[-1]
    health.reset()
    assert looks(health, [picture(0)] * 3, 9.0) == [False] * 3
    assert health.look(picture(0)[:100], 9.0) == ""
