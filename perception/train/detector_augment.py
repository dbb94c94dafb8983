"""Augmentation of labelled images: flip, scale and shift, erasing, light and colour, noise, blur; labels follow."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from visuomotor.perception.train.detector_data import Objects
from visuomotor.perception.train.detector_tasks import AugmentConfig


def augment(
    image: np.ndarray, objects: Objects, config: AugmentConfig, rng: np.random.Generator
) -> tuple[np.ndarray, Objects]:
    """New image of the same size and its labels; the inputs stay as they are."""
    objects = objects.take(np.arange(len(objects)))
    if rng.random() < config.flip:
        image, objects = flip(image, objects)
    if rng.random() < config.geometry:
        scale = float(np.exp(rng.uniform(*np.log(config.scale))))
        shift = rng.uniform(-1.0, 1.0, 2) * config.shift_px
        image, objects = rescale(image, objects, scale, shift, config.min_height_px)
    if rng.random() < config.erase:
        image, objects = erase(image, objects, rng)
    if rng.random() < config.colour:
        image = recolour(image, config, rng)
    if rng.random() < config.blur:
        image = cv2.GaussianBlur(image, (3, 3), float(rng.uniform(0.3, 0.8)))
    if rng.random() < config.noise:
        image = add_noise(image, float(rng.uniform(1.0, config.noise_sigma)), rng)
    return np.ascontiguousarray(image), objects


def flip(image: np.ndarray, objects: Objects) -> tuple[np.ndarray, Objects]:
    """Mirror left and right: boxes, ground points, and the sign of the observation angle."""
    width = image.shape[1]
    objects.box_px = np.stack(
        [width - objects.box_px[:, 2], objects.box_px[:, 1], width - objects.box_px[:, 0], objects.box_px[:, 3]], axis=1
    )
    objects.ground_px[:, 0] = width - objects.ground_px[:, 0]
    objects.angle_rad = -objects.angle_rad
    return cv2.flip(image, 1), objects


def rescale(
    image: np.ndarray, objects: Objects, scale: float, shift_px: np.ndarray, min_height_px: float = 7.0
) -> tuple[np.ndarray, Objects]:
    """Zoom about the image centre, then shift; objects that leave the image go, those cut in half are not wanted."""
    height, width = image.shape[:2]
    middle = np.array([width, height]) / 2.0
    move = middle + shift_px - scale * middle
    # warpAffine counts from pixel centres, our coordinates from pixel corners: half a pixel each way.
    warp = np.array([[scale, 0.0, move[0] + 0.5 * scale - 0.5], [0.0, scale, move[1] + 0.5 * scale - 0.5]])
    image = cv2.warpAffine(image, warp, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    box = (objects.box_px * scale + np.tile(move, 2)).astype(np.float32)
    clipped = box.clip(0.0, np.array([width, height, width, height], np.float32))
    area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
    left = (clipped[:, 2] - clipped[:, 0]) * (clipped[:, 3] - clipped[:, 1])
    objects.ground_px = (objects.ground_px * scale + move).astype(np.float32)
    objects.scale_px = objects.scale_px * np.float32(scale)
    objects.wanted &= (left > 0.6 * area) & (clipped[:, 3] - clipped[:, 1] >= min_height_px)
    objects.box_px = clipped
    return image, objects.take(left > 1.0)


def erase(image: np.ndarray, objects: Objects, rng: np.random.Generator) -> tuple[np.ndarray, Objects]:
    """Cover up to three small rectangles with noise-free random colours (Zhong et al. 2020)."""
    image = image.copy()
    height, width = image.shape[:2]
    for _ in range(int(rng.integers(1, 4))):
        w, h = int(rng.integers(4, width // 8)), int(rng.integers(4, height // 5))
        x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
        image[y : y + h, x : x + w] = rng.integers(0, 256, 3)
        box = objects.box_px
        across = np.minimum(box[:, 2], x + w) - np.maximum(box[:, 0], x)
        down = np.minimum(box[:, 3], y + h) - np.maximum(box[:, 1], y)
        area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
        objects.wanted &= across.clip(0) * down.clip(0) < 0.4 * area
    return image, objects


def recolour(image: np.ndarray, config: AugmentConfig, rng: np.random.Generator) -> np.ndarray:
    """Gamma, contrast, brightness and channel gains by one table; then mix channels a little (hue, saturation)."""
    level = np.linspace(0.0, 1.0, 256) ** np.exp(rng.uniform(-config.gamma, config.gamma)) * 255.0
    gain = 1.0 + rng.uniform(-config.gain, config.gain) + rng.uniform(-config.gain / 3, config.gain / 3, 3)
    table = (level[:, None] - 128.0) * gain + 128.0 + rng.uniform(-config.offset, config.offset)
    image = cv2.LUT(image, table.clip(0, 255).astype(np.uint8).reshape(256, 1, 3))
    if rng.random() < 0.5:
        mix = rng.uniform(-config.mix, config.mix, (3, 3))
        mix += np.diag(1.0 - mix.sum(axis=1))  # grey stays grey
        image = cv2.transform(image, mix)
    return image


@lru_cache(maxsize=8)
def _noise(height: int, width: int) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0.0, 1.0, (height + 64, width + 64, 3))
    return noise.astype(np.float32)


def add_noise(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise, cut from a stored field: drawing it anew would cost more than all else here."""
    height, width = image.shape[:2]
    y, x = rng.integers(0, 64, 2)
    noise = _noise(height, width)[y : y + height, x : x + width]
    return cv2.addWeighted(image, 1.0, noise, sigma, 0.0, dtype=cv2.CV_8U)
