"""A session's inputs and outputs at fixed addresses: nothing is allocated in a call, and CUDA can replay a graph."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import numpy as np
import onnxruntime as ort

from visuomotor.deploy.runtime.pinned import make_buffer, pin

GRAPH_ID = "gpu_graph_id"  # run option of ONNX Runtime: which captured graph; -1: none
NO_GRAPH = -1
Shapes = Mapping[str, tuple[int, ...]]


class BindingError(ValueError):
    """Shapes that cannot be fixed, or a bound call that computes something else than a plain one."""


class Binding:
    """One set of shapes of a session, bound once.

    ``inputs`` are the buffers, by name: write into them and call ``run()``, or give ``run`` the arrays to be copied
    there. What ``run`` returns belongs to the caller: it is copied out of the buffers, and no later call changes it.
    Calls of several threads wait for each other. ``pinned``: on a GPU, whether the input buffers are page-locked.
    ``graph_id`` >= 0 captures a CUDA graph of that number at the first call, in the thread of that call.

    Shapes and dtypes are those of every input and output; on a GPU (``device`` "cuda") they also get buffers there.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        device: str,
        inputs: Shapes,
        outputs: Shapes,
        dtypes: Mapping[str, str],
        graph_id: int = NO_GRAPH,
    ) -> None:
        self.inputs = {name: make_buffer(shape, dtypes[name]) for name, shape in inputs.items()}
        self.pinned = False
        self._session = session
        self._lock = threading.Lock()
        self._io = session.io_binding()
        self._on_device: dict[str, ort.OrtValue] = {}
        self._outputs: dict[str, np.ndarray] = {}
        self._output_names = tuple(outputs)
        self._options = ort.RunOptions()
        self._options.add_run_config_entry(GRAPH_ID, str(graph_id))
        if device == "cpu":
            self._bind_host(outputs, dtypes)
        else:
            self._bind_device(outputs, dtypes)

    def _bind_host(self, outputs: Shapes, dtypes: Mapping[str, str]) -> None:
        self._outputs = {name: make_buffer(shape, dtypes[name]) for name, shape in outputs.items()}
        for name, array in self.inputs.items():
            self._io.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
        for name, array in self._outputs.items():
            self._io.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(array))

    def _bind_device(self, outputs: Shapes, dtypes: Mapping[str, str]) -> None:
        self.pinned = all([pin(array, self) for array in self.inputs.values()])
        for name, array in self.inputs.items():
            self._on_device[name] = ort.OrtValue.ortvalue_from_numpy(array, "cuda", 0)
            self._io.bind_ortvalue_input(name, self._on_device[name])
        for name, shape in outputs.items():
            value = ort.OrtValue.ortvalue_from_shape_and_type(list(shape), np.dtype(dtypes[name]).type, "cuda", 0)
            self._io.bind_ortvalue_output(name, value)

    def takes(self, inputs: Mapping[str, np.ndarray]) -> bool:
        """Whether these arrays have the bound shapes."""
        return all(array.shape == self.inputs[name].shape for name, array in inputs.items())

    def run(self, inputs: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """Outputs by name, the caller's own. Without ``inputs``: of what stands in the buffers.

        Raises ValueError that names the input when one is missing, unknown or of another dtype or shape.
        """
        with self._lock:
            if inputs is not None:
                self._fill(inputs)
            for name, value in self._on_device.items():
                value.update_inplace(self.inputs[name])
            self._session.run_with_iobinding(self._io, self._options)
            if self._on_device:
                return dict(zip(self._output_names, self._io.copy_outputs_to_cpu(), strict=True))
            return {name: array.copy() for name, array in self._outputs.items()}

    def _fill(self, inputs: Mapping[str, np.ndarray]) -> None:
        if inputs.keys() != self.inputs.keys():
            raise ValueError(f"inputs: expected {sorted(self.inputs)}, got {sorted(inputs)}")
        for name, array in inputs.items():
            buffer = self.inputs[name]
            if array.dtype != buffer.dtype or array.shape != buffer.shape:
                raise ValueError(
                    f"input {name}: expected {buffer.dtype} {buffer.shape}, got {array.dtype} {array.shape}"
                )
        for name, array in inputs.items():
            self.inputs[name][...] = array


def resolve_shape(name: str, shape: tuple[int | str, ...], dimensions: Mapping[str, int]) -> tuple[int, ...]:
    """``shape`` with its free dimensions filled in; BindingError that names the one without a size."""
    for size in shape:
        if not isinstance(size, int) and dimensions.get(size, 0) < 1:
            found = dimensions.get(size, "nothing")
            raise BindingError(f"{name}: shape {list(shape)}: expected a size of at least 1 for {size!r}, got {found}")
    return tuple(size if isinstance(size, int) else dimensions[size] for size in shape)
