"""Which provider really took which nodes of a graph; ``get_providers`` lists only those that might have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import onnxruntime as ort

from visuomotor.deploy.runtime.device import PROVIDERS, DeviceError

# Operators that carry a network's arithmetic. Others may stay on the CPU of a GPU session: ONNX Runtime puts the
# arithmetic on shapes there by design.
HEAVY = frozenset(
    ("Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "LSTM", "GRU", "RNN", "Attention", "MultiHeadAttention")
    + ("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "FusedConv", "FusedMatMul", "QAttention")
)
Placement = dict[str, Counter[str]]  # provider -> operator -> how many nodes


def read_placement(session: ort.InferenceSession) -> Placement:
    """How many nodes of each operator each provider took, before fusion; empty where ONNX Runtime cannot say."""
    if not hasattr(session, "get_provider_graph_assignment_info"):  # older than this function
        return {}
    placement: Placement = {}
    for part in session.get_provider_graph_assignment_info():
        placement.setdefault(part.ep_name, Counter()).update(node.op_type for node in part.get_nodes())
    return placement


def check_placement(placement: Placement, device: str) -> None:
    """Raise DeviceError that names the operators when a GPU was asked for and heavy nodes went to the CPU."""
    if device == "cpu":
        return
    strayed = {op: n for op, n in sorted(placement.get(PROVIDERS["cpu"], {}).items()) if op in HEAVY}
    if strayed:
        what = ", ".join(f"{n} {op}" for op, n in strayed.items())
        raise DeviceError(
            f"device '{device}' is not to be had for the whole graph: ONNX Runtime put {what} on the CPU; "
            "choose --device cpu, or export the network with operators that the provider has"
        )


def merge_placements(placements: Iterable[Placement]) -> Placement:
    """Of several graphs together."""
    merged: Placement = {}
    for placement in placements:
        for provider, nodes in placement.items():
            merged.setdefault(provider, Counter()).update(nodes)
    return merged


def describe_placement(placement: Placement, provider: str) -> str:
    """``CUDAExecutionProvider (220 nodes) + CPUExecutionProvider (8 nodes)``; ``provider`` where nothing is known."""
    parts = [f"{name} ({nodes.total()} nodes)" for name, nodes in placement.items()]
    return " + ".join(sorted(parts, key=lambda part: not part.startswith(provider))) or provider
