"""What lens and sensor do to the light of a simulated camera: vignette, exposure, tint, gamma, blur and noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import cv2
import numpy as np

from visuomotor.sim.lens import Lens


class SensorLook(Protocol):
    """What is read of a scene's appearance."""

    @property
    def exposure(self) -> float:
        """Factor of the light."""

    @property
    def gamma(self) -> float:
        """Exponent of the tone curve."""

    @property
    def tint_bgr(self) -> tuple[float, float, float]:
        """White balance; 1 is neutral."""

    @property
    def noise(self) -> float:
        """Standard deviation, grey levels."""

    @property
    def blur_px(self) -> float:
        """Standard deviation of the blur."""

    @property
    def vignette(self) -> float:
        """How much darker the corners are, 0 .. 1."""


class Exposure:
    """Exposes the images of a set of cameras in the light of one scene after the other."""

    def __init__(self, lenses: Mapping[str, Lens]) -> None:
        self._lenses = dict(lenses)
        self._noise_bank = np.random.default_rng(11).standard_normal((320, 512, 3)).astype(np.float32)

    def reset(self, look: SensorLook) -> None:
        """Tabulate the tone curve, the vignettes and the noise of a scene."""
        self._look = look
        table = np.arange(256, dtype=np.float64)[:, None] / 255
        curve = np.clip(table * look.exposure * np.array(look.tint_bgr), 0, 1) ** look.gamma
        self._tone = np.round(255 * curve).astype(np.uint8)[:, None, :]
        self._noise = np.round(self._noise_bank * look.noise).astype(np.int16)
        self._vignette = {
            name: cv2.merge(
                [np.round(255 * (1 - look.vignette * lens.radius2 / 1.4)).clip(0, 255).astype(np.uint8)] * 3
            )
            for name, lens in self._lenses.items()
        }

    def expose(self, image: np.ndarray, name: str, tick: int) -> np.ndarray:
        """The image uint8 [H, W, 3] that the sensor of camera ``name`` reads out at ``tick``."""
        look = self._look
        if look.vignette > 0.02:
            image = cv2.multiply(image, self._vignette[name], scale=1 / 255)
        image = cv2.LUT(image, self._tone)
        if look.blur_px > 0.2:
            image = cv2.GaussianBlur(image, (3, 3), look.blur_px)
        height, width = image.shape[:2]
        salt = list(self._lenses).index(name)
        row = (tick * 37 + salt * 11) % max(1, self._noise.shape[0] - height + 1)
        column = (tick * 53 + salt * 29) % max(1, self._noise.shape[1] - width + 1)
        noise = self._noise[row : row + height, column : column + width]
        if noise.shape != image.shape:  # a sensor larger than the bank
            noise = np.resize(self._noise, image.shape)
        return cv2.add(image, noise, dtype=cv2.CV_8U)
