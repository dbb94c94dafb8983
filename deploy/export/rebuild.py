"""The torch network of a bundle, from the ``weights.safetensors`` that it carries: what its graph was exported from."""

from __future__ import annotations

import msgspec
import torch
from torch import nn

from visuomotor.deploy.runtime.bundle import META_FILE, Bundle, BundleError


def rebuild(bundle: Bundle) -> nn.Module:
    """A module in evaluation mode: tensors in the order of the bundle's inputs to a tuple in that of its outputs.

    Raises BundleError for a bundle without weights, such as one made from somebody else's ONNX file.
    """
    # Imported where needed: a worker that measures one kind should not carry the training code of all in its memory.
    if bundle.weights_path is None:
        raise BundleError(f"{bundle.path / META_FILE}: no weights.safetensors, so there is nothing to rebuild in torch")
    try:
        return {"detector": _detector, "forecaster": _forecaster, "policy": _policy}[bundle.meta.kind](bundle).eval()
    except (KeyError, RuntimeError, msgspec.ValidationError) as error:
        raise BundleError(f"{bundle.path}: not a network of this release: {error}") from error


def _detector(bundle: Bundle) -> nn.Module:
    from visuomotor.deploy.export.detector import ExportGraph
    from visuomotor.perception.train.detector_graph import DetectorGraph
    from visuomotor.perception.train.detector_model import DetectorConfig, DetectorModel

    model = DetectorModel(msgspec.convert(bundle.meta.training["config"]["model"], DetectorConfig))
    model.load_state_dict(_load(bundle))
    _, height, width, _ = bundle.meta.inputs[0].shape
    return ExportGraph(DetectorGraph(model, int(height), int(width)))


def _forecaster(bundle: Bundle) -> nn.Module:
    from visuomotor.deploy.export.forecaster import ExportedForecaster
    from visuomotor.perception.train.forecaster_model import ForecasterConfig, ForecasterNetwork

    network = ForecasterNetwork(ForecasterConfig(**bundle.get_extra("network", dict)))
    network.load_state_dict(_load(bundle))
    return ExportedForecaster(network)


def _policy(bundle: Bundle) -> nn.Module:
    from visuomotor.control.train.normalizer import CLIP
    from visuomotor.deploy.export.policy import PolicyGraph

    weights = _load(bundle)
    matrices = [weights[name] for name in sorted(weights) if name.startswith("actor.0.") and name.endswith("weight")]
    hidden = [layer for matrix in matrices for layer in (nn.Linear(*matrix.T.shape), nn.SiLU())]
    actor = nn.Sequential(nn.Sequential(*hidden), nn.Linear(*weights["actor.1.weight"].T.shape))
    graph = PolicyGraph(actor, weights["mean"], weights["deviation"], CLIP)
    graph.load_state_dict(weights)
    return _AsTuple(graph)


class _AsTuple(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, value: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.network(value),)


def _load(bundle: Bundle) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(str(bundle.weights_path))
