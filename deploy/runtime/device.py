"""Where a network may run: what this machine has, found without waking ONNX Runtime's providers."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any, Literal

import onnxruntime as ort

Device = Literal["auto", "cpu", "cuda", "tensorrt"]
DEVICES: tuple[Device, ...] = ("auto", "cpu", "cuda", "tensorrt")

PROVIDERS: dict[str, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
TENSORRT_LIBRARY = "libnvinfer.so.10"
DRIVER_LIBRARY = "libcuda.so.1"
DRIVER_VERSION = Path("/sys/module/nvidia/version")


class DeviceError(ValueError):
    """A device was asked for that this machine or this installation does not have."""


@cache
def count_gpus() -> tuple[int, str]:
    """Number of CUDA devices that the driver offers, and the reason when it is 0."""
    try:
        driver = ctypes.CDLL(DRIVER_LIBRARY)
    except OSError:
        return 0, f"no NVIDIA driver ({DRIVER_LIBRARY} is not installed)"
    if (code := driver.cuInit(0)) != 0:
        return 0, f"the NVIDIA driver offers no device (cuInit returned {code})"
    count = ctypes.c_int(0)
    if (code := driver.cuDeviceGetCount(ctypes.byref(count))) != 0 or count.value == 0:
        return 0, f"the NVIDIA driver offers no device (cuDeviceGetCount returned {code}, {count.value} devices)"
    return count.value, ""


@cache
def find_obstacle(device: str) -> str:
    """Why ``device`` ("cpu", "cuda" or "tensorrt") cannot be had here; empty when nothing is known to stand against it.

    Quick: looks at the driver, the build and the shared libraries, makes no session.
    """
    if device == "cpu":
        return ""
    gpus, reason = count_gpus()
    if gpus == 0:
        return reason
    if PROVIDERS[device] not in ort.get_available_providers():
        return f"onnxruntime {ort.__version__} was built without {PROVIDERS[device]} (install onnxruntime-gpu)"
    if device == "tensorrt" and not _loads(TENSORRT_LIBRARY):
        return f"TensorRT's {TENSORRT_LIBRARY} is not installed"
    return ""


def check_device(device: str) -> None:
    """Raise DeviceError when ``device`` is unknown, or asked for and not to be had."""
    if device not in DEVICES:
        raise DeviceError(f"device: expected one of {', '.join(DEVICES)}, got {device!r}")
    if device != "auto" and (obstacle := find_obstacle(device)):
        raise DeviceError(f"device '{device}' is not to be had: {obstacle}; choose --device cpu or auto")


@cache
def describe_gpu() -> dict[str, Any]:
    """Name, compute capability and driver of the first GPU: what a compiled engine depends on. Empty without a GPU."""
    if count_gpus()[0] == 0:
        return {}
    driver = ctypes.CDLL(DRIVER_LIBRARY)
    name, major, minor, version = ctypes.create_string_buffer(128), ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    driver.cuDeviceGetName(name, len(name), 0)
    for value, attribute in ((major, 75), (minor, 76)):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, 0)
    driver.cuDriverGetVersion(ctypes.byref(version))
    return {
        "gpu": name.value.decode(errors="replace"),
        "capability": f"{major.value}.{minor.value}",
        "cuda": version.value,
        "driver": DRIVER_VERSION.read_text().strip() if DRIVER_VERSION.exists() else "",
    }


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
