"""Colours shared by the video, the report and the live view: one hue per class, the same everywhere."""

from __future__ import annotations

# sRGB; chosen to stay apart on dark ground and for the common forms of colour blindness (after Okabe and Ito 2008).
# Parts that are named after their colour have it.
CLASS_RGB: dict[str, tuple[int, int, int]] = {
    "car": (86, 180, 233),
    "truck": (0, 158, 115),
    "cyclist": (240, 228, 66),
    "pedestrian": (213, 94, 0),
    "cone": (230, 159, 0),
    "red cube": (228, 72, 60),
    "blue cylinder": (70, 130, 240),
    "green block": (60, 180, 100),
    "yellow ball": (240, 228, 66),
    "duck": (245, 160, 40),
    "brick": (176, 120, 200),
}
OTHER_RGB = (200, 200, 200)
EGO_RGB = (255, 255, 255)
FORECAST_RGB = (204, 121, 167)
TRUTH_RGB = (120, 128, 140)
GROUND_RGB = (17, 20, 26)
ROAD_RGB = (40, 45, 54)  # what robot or parts move on


def class_rgb(name: str) -> tuple[int, int, int]:
    """Colour of a class."""
    return CLASS_RGB.get(name, OTHER_RGB)


def class_bgr(name: str) -> tuple[int, int, int]:
    """OpenCV colour of a class."""
    return bgr(class_rgb(name))


def bgr(rgb: tuple[int, int, int]) -> tuple[int, int, int]:
    """OpenCV order."""
    return rgb[2], rgb[1], rgb[0]
