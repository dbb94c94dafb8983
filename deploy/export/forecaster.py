"""Export of the forecaster's network: torch -> ONNX with any number of agents -> bundle, parity proven."""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from visuomotor.deploy.export.parity import Arrays, ParityResult, check_parity
from visuomotor.deploy.export.portable import strip_traces
from visuomotor.deploy.runtime.bundle import Bundle, BundleMeta, TensorSpec, write_bundle
from visuomotor.deploy.runtime.session import make_session
from visuomotor.messages.tasks import DEFAULT_TASK, get_task
from visuomotor.perception.train.forecaster_model import ForecasterConfig, ForecasterNetwork

INPUTS = ("history_m", "present", "class_id", "scene")
OUTPUTS = ("position_m", "spread_m", "probability")
PARITY_ATOL = 1e-3  # metres, sigmas in metres, shares


class ExportedForecaster(nn.Module):
    """The network with probabilities in place of their logarithms."""

    def __init__(self, network: ForecasterNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, history_m: Tensor, present: Tensor, class_id: Tensor, scene: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Position, spread and probability, as in ``OUTPUTS``."""
        position, spread, log_probability = self.network(history_m, present, class_id, scene)
        return position, spread, torch.exp(log_probability)


def to_onnx(network: ForecasterNetwork) -> bytes:
    """The network as one serialised graph with a free number of agents."""
    network = network.eval()
    example = _case(np.random.default_rng(0), 5, network.config)
    agents = {name: {0: "A"} for name in INPUTS}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            ExportedForecaster(network),
            tuple(torch.from_numpy(example[name]) for name in INPUTS),
            dynamo=True,
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            dynamic_shapes=tuple(agents[name] for name in INPUTS),
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    return strip_traces(program.model_proto.SerializeToString())


def prove_parity(network: ForecasterNetwork, model: bytes) -> ParityResult:
    """Compare the exported graph with torch on random scenes and edge cases. Raises ParityError."""
    session = make_session(model, "cpu")
    exported = ExportedForecaster(network.eval())

    def reference(case: Arrays) -> Arrays:
        with torch.no_grad():
            outputs = exported(*(torch.from_numpy(case[name]) for name in INPUTS))
        return {name: value.numpy() for name, value in zip(OUTPUTS, outputs, strict=True)}

    result = check_parity(reference, session, parity_cases(network.config), atol=PARITY_ATOL)
    return result.raise_if_failed()


def parity_cases(config: ForecasterConfig) -> list[dict[str, np.ndarray]]:
    """Random scenes of many sizes, and edges: standing, one observation, all on one spot, far from the origin."""
    rng = np.random.default_rng(7)
    cases = [_case(rng, count, config) for count in (1, 2, 3, 7, 8, 9, 40, 200)]
    standing, once, together, far = (_case(rng, 6, config) for _ in range(4))
    standing["history_m"][:] = standing["history_m"][:, :1]
    once["present"][:, :-1] = False
    once["history_m"][:, :-1] = 0.0
    together["history_m"][:] = config.unit_m
    far["history_m"] += np.float32(500.0 * config.unit_m)
    far["present"][:] = True
    return [*cases, standing, once, together, far]


def _case(rng: np.random.Generator, count: int, config: ForecasterConfig) -> dict[str, np.ndarray]:
    samples = config.history_samples
    velocity = rng.normal(0.0, 4.0, (count, 1, 2))
    path = rng.normal(0.0, 15.0, (count, 1, 2)) + velocity * (0.2 * np.arange(samples)[:, None])
    present = rng.random((count, samples)) > 0.2
    present[:, -1] = True
    history = (config.unit_m * (path + rng.normal(0.0, 0.2, path.shape))).astype(np.float32)
    history[~present] = 0.0
    return {
        "history_m": history,
        "present": present,
        "class_id": rng.integers(0, config.classes, count),
        "scene": np.sort(rng.integers(0, 1 + count // 6, count)),
    }


def export_forecaster(
    network: ForecasterNetwork,
    path: Path,
    *,
    task: str,
    training: dict[str, Any],
    metrics: dict[str, Any],
    report: str,
    code_revision: str = "",
    class_names: tuple[str, ...] = get_task(DEFAULT_TASK).class_names,
) -> Bundle:
    """Export, prove parity and write the bundle folder; ``class_names`` are what the network's classes mean."""
    config = network.config
    model = to_onnx(network)
    parity = prove_parity(network, model)
    k, t, h = config.futures, config.horizon_steps, config.history_samples
    meta = BundleMeta(
        kind="forecaster",
        task=task,
        inputs=(
            TensorSpec(name="history_m", dtype="float32", shape=("A", h, 2), unit="m", meaning="any fixed frame"),
            TensorSpec(name="present", dtype="bool", shape=("A", h), meaning="observed; the last sample always is"),
            TensorSpec(name="class_id", dtype="int64", shape=("A",), low=0, high=config.classes - 1),
            TensorSpec(name="scene", dtype="int64", shape=("A",), meaning="agents attend within their scene"),
        ),
        outputs=(
            TensorSpec(name="position_m", dtype="float32", shape=("A", k, t, 2), unit="m"),
            TensorSpec(name="spread_m", dtype="float32", shape=("A", k, t, 3), meaning="sigma x, sigma y, correlation"),
            TensorSpec(name="probability", dtype="float32", shape=("A", k), low=0.0, high=1.0),
        ),
        class_names=class_names,
        training=training,
        code_revision=code_revision,
        metrics=metrics,
        parity=parity.to_meta(),
        extra={
            "history_steps": h,
            "history_step_s": config.step_s,
            "step_s": config.step_s,
            "horizon_steps": t,
            "futures": k,
            "network": config.to_dict(),
        },
    )
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.safetensors"
        save_file({name: value.contiguous() for name, value in network.state_dict().items()}, weights)
        return write_bundle(path, model=model, meta=meta, report=report, weights=weights)
