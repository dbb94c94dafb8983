"""Host memory that the GPU copies from without a detour: page-locked by CUDA's runtime, where there is one."""

from __future__ import annotations

import ctypes
import math
import mmap
import weakref

import numpy as np

CUDA_RUNTIMES = ("libcudart.so.13", "libcudart.so.12")  # whichever ONNX Runtime has loaded


def make_buffer(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """A zeroed array on pages of its own, so that locking it locks nothing else."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return np.frombuffer(mmap.mmap(-1, max(size, 1)), dtype, math.prod(shape)).reshape(shape)


def pin(array: np.ndarray, owner: object) -> bool:
    """Lock the pages of ``array`` for as long as ``owner`` lives; False where CUDA cannot (copies then take longer)."""
    runtime = _find_runtime()
    if runtime is None or array.nbytes == 0:
        return False
    address = ctypes.c_void_p(array.ctypes.data)
    if runtime.cudaHostRegister(address, ctypes.c_size_t(array.nbytes), ctypes.c_uint(0)) != 0:
        runtime.cudaGetLastError()  # or the next CUDA call would report this one's failure as its own
        return False
    weakref.finalize(owner, _unpin, array)
    return True


def read_gpu_memory() -> int:
    """Bytes in use on the current GPU by all processes, 0 where CUDA's runtime is not loaded."""
    runtime = _find_runtime()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    if runtime is None or runtime.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total)) != 0:
        return 0
    return total.value - free.value


def _unpin(array: np.ndarray) -> None:
    runtime = _find_runtime()
    if runtime is not None:
        runtime.cudaHostUnregister(ctypes.c_void_p(array.ctypes.data))


def _find_runtime() -> ctypes.CDLL | None:
    """Looked for anew each time: ONNX Runtime may load it from a wheel's folder later on."""
    for name in CUDA_RUNTIMES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None
