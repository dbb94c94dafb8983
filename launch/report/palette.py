"""Colours shared by the video, the report and the live view: one hue per class, the same everywhere."""

from __future__ import annotations

from visuomotor.messages.schema import CLASS_NAMES

# sRGB; chosen to stay apart on dark ground and for the common forms of colour blindness (after Okabe and Ito 2008)
CLASS_RGB: dict[str, tuple[int, int, int]] = {
    "car": (86, 180, 233),
    "truck": (0, 158, 115),
    "cyclist": (240, 228, 66),
    "pedestrian": (213, 94, 0),
    "cone": (230, 159, 0),
}
EGO_RGB = (255, 255, 255)
FORECAST_RGB = (204, 121, 167)
TRUTH_RGB = (120, 128, 140)
GROUND_RGB = (17, 20, 26)
ROAD_RGB = (40, 45, 54)


def class_bgr(class_id: int) -> tuple[int, int, int]:
    """OpenCV colour of a class."""
    red, green, blue = CLASS_RGB.get(CLASS_NAMES[class_id] if 0 <= class_id < len(CLASS_NAMES) else "", (200, 200, 200))
    return blue, green, red


def bgr(rgb: tuple[int, int, int]) -> tuple[int, int, int]:
    """OpenCV order."""
    return rgb[2], rgb[1], rgb[0]
