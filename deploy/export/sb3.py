"""A policy of stable-baselines3 or sb3-contrib to bundle: raw observation in, the environment's action out, proven.

Everything that stood between environment and network in training goes into the graph: VecNormalize, the frame stack,
preprocessing, the likeliest action, clip or unscale. ``docs/export.md`` says what is supported.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import sb3_contrib
import stable_baselines3
from gymnasium import spaces
from safetensors.torch import save_file
from stable_baselines3.common.base_class import BaseAlgorithm

from visuomotor.deploy.export.policy_rows import POLICIES, PolicyRow
from visuomotor.deploy.export.revision import find_revision
from visuomotor.deploy.export.sb3_cases import read_recording
from visuomotor.deploy.export.sb3_checkpoint import (
    load_model,
    load_normalizer,
    normalizes_frames,
    shapes_of_statistics,
)
from visuomotor.deploy.export.sb3_graph import PolicyGraph, make_graph, to_onnx
from visuomotor.deploy.export.sb3_parity import ROWS, Original, check_random, check_recorded
from visuomotor.deploy.export.sb3_spaces import (
    Axis,
    Field,
    Fields,
    describe_action,
    describe_observation,
    hash_observation,
    read_fields,
    split_frames,
)
from visuomotor.deploy.runtime.bundle import Bundle, BundleMeta, TensorSpec, write_bundle
from visuomotor.deploy.runtime.policy import EPISODE_START, BundlePolicy
from visuomotor.deploy.runtime.session import make_session
from visuomotor.deploy.runtime.spaces import ArraySpec

CUSTOM, GRAPH_ACTION = "custom", "action_norm"


def export_sb3(
    checkpoint: Path,
    out: Path,
    *,
    vecnormalize: str,
    task: str = CUSTOM,
    fields: Path | None = None,
    frame_stack: int = 1,
    stack_axis: Axis | None = None,
    recorded: Path | None = None,
    rows: int = ROWS,
) -> Bundle:
    """Write the bundle of a checkpoint saved by ``model.save`` and return it as loaded.

    ``vecnormalize``: the file of ``VecNormalize.save``, or "none" where training had none: the checkpoint does not say.
    ``frame_stack``: frames of VecFrameStack, which the checkpoint does not say either; the bundle then takes one frame
    and carries the stack as state. ``recorded``: an npz of whole episodes (``read_recording``). Parity over ``rows``
    random and edge inputs and the recording is proven first: ParityError otherwise, ValueError on bad input.
    """
    algorithm, model = load_model(checkpoint)
    if frame_stack < 1:
        raise ValueError(f"--frame-stack: expected 1 or more, got {frame_stack}")
    row = POLICIES.get(task)
    given = read_fields(fields) if row is None else _graph_fields(row, model, fields, frame_stack)
    stack, frames = split_frames(model.observation_space, frame_stack, stack_axis)
    whole = split_frames(model.observation_space, 1, None)[1]
    seen = {key: tuple(part.shape or ()) for key, part in whole.items()}
    normalizer = load_normalizer(vecnormalize, seen, {key: tuple(part.shape or ()) for key, part in frames.items()})
    first = normalizer is not None and normalizes_frames(normalizer, seen)
    observation = describe_observation(frames, given, fields)
    action = describe_action(model.action_space, given, fields, "action" if row is None else GRAPH_ACTION)
    graph = make_graph(algorithm, model, observation, action, normalizer=normalizer, normalize_first=first, stack=stack)
    if row is not None and graph.state:
        raise ValueError(f"--task {task}: its graph carries no state, {algorithm} has {graph.state[0].input}")
    data = to_onnx(graph)
    meta = BundleMeta(
        kind="policy",
        task=task,
        inputs=_input_specs(graph, observation),
        outputs=_output_specs(graph, action),
        training=_describe_training(algorithm, model, checkpoint, vecnormalize),
        code_revision=find_revision(),
        extra={
            "algorithm": algorithm,
            "observation_hash": hash_observation(observation, stack) if row is None else row.interface.layout.hash,
            "observation_names": [name for spec in observation for name in spec.names],
            "observation_units": [unit for spec in observation for unit in spec.units],
            "observation": msgspec.to_builtins(observation),
            "action": msgspec.to_builtins(action),
            "action_transform": graph.head.transform,
            "action_limits": {} if row is None else msgspec.to_builtins(row.limits),
            "state": msgspec.to_builtins(graph.state),
            "frame_stack": msgspec.to_builtins(stack),
            "normalizer": None
            if normalizer is None
            else {
                "arrays": sorted(shapes_of_statistics(normalizer)),
                "clip": float(normalizer.clip_obs),
                "epsilon": float(normalizer.epsilon),
                "before_stacking": first,
            },
        },
    )
    original = Original(model, graph, normalizer, first, stack)
    session = make_session(data, "cpu", threads=1)
    meta.parity = check_random(original, session, rows)
    if recorded is not None:
        policy = BundlePolicy(Bundle(path=out, meta=meta), session)
        meta.parity["recorded"] = check_recorded(original, policy, read_recording(recorded, observation))
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.safetensors"
        save_file({name: value.clone().contiguous() for name, value in graph.state_dict().items()}, weights)
        return write_bundle(out, model=data, meta=meta, report=write_report(meta), weights=weights)


def _graph_fields(row: PolicyRow, model: BaseAlgorithm, fields: Path | None, frame_stack: int) -> Fields:
    """The names of a task's own graph; ValueError unless the model was trained on the spaces of its environment."""
    task, layout = row.interface.task, row.interface.layout
    if fields is not None:
        raise ValueError(f"--fields: the task {task} has its own names; leave it away, or choose another --task")
    low, high = layout.low, layout.high
    expected = {
        "observation": spaces.Box(low, high, dtype=np.float32),
        "action": spaces.Box(-1.0, 1.0, (row.interface.action_size,), np.float32),
    }
    for name, found in (("observation", model.observation_space), ("action", model.action_space)):
        if found != expected[name] or frame_stack != 1:
            raise ValueError(
                f"--task {task}: {name} space: expected that of {row.environment} ({expected[name].shape}, its bounds,"
                f" no frame stack), got {_say_space(found)}; choose another --task"
            )
    names = zip(layout.names, layout.units, strict=True)
    return Fields(observation=[Field(name=name, unit=unit) for name, unit in names])


def _say_space(space: Any) -> str:
    return f"{type(space).__name__} {space.shape} with other bounds" if isinstance(space, spaces.Box) else str(space)


def _input_specs(graph: PolicyGraph, observation: Sequence[ArraySpec]) -> tuple[TensorSpec, ...]:
    specs = [_tensor_spec(spec, "raw observation, as the environment returns it") for spec in observation]
    specs += [TensorSpec(name=s.input, dtype=s.dtype, shape=s.shape, meaning=s.meaning) for s in graph.state]
    if graph.state:
        meaning = "true where the observation is an episode's first: that row's state is set to zero before it is used"
        specs.append(TensorSpec(name=EPISODE_START, dtype="bool", shape=("batch",), meaning=meaning))
    return tuple(specs)


def _output_specs(graph: PolicyGraph, action: ArraySpec) -> tuple[TensorSpec, ...]:
    specs = [_tensor_spec(action, f"the environment's action: {graph.head.transform}")]
    if action.kind != "box":
        size = sum(action.choices) or math.prod(action.shape)
        meaning = "value of each choice" if graph.head.values else "log-probability of each choice"
        meaning = "logit of each flag" if action.kind == "multi_binary" else meaning
        specs.append(TensorSpec(name="score", dtype="float32", shape=("batch", size), meaning=meaning))
    specs += [TensorSpec(name=s.output, dtype=s.dtype, shape=s.shape, meaning=s.meaning) for s in graph.state]
    return tuple(specs)


def _tensor_spec(spec: ArraySpec, meaning: str) -> TensorSpec:
    """The widest range and the one unit of all its numbers, where they have them."""
    units = set(spec.units)
    lows, highs = [v for v in spec.low if v is not None], [v for v in spec.high if v is not None]
    return TensorSpec(
        name=spec.array,
        dtype=spec.dtype,
        shape=("batch", *spec.shape),
        unit=units.pop() if len(units) == 1 else "",
        low=min(lows) if lows and len(lows) == len(spec.low) else None,
        high=max(highs) if highs and len(highs) == len(spec.high) else None,
        meaning=meaning,
    )


def _describe_training(algorithm: str, model: BaseAlgorithm, checkpoint: Path, vecnormalize: str) -> dict[str, Any]:
    return {
        "algorithm": algorithm,
        "policy_class": type(model.policy).__name__,
        "timesteps": int(model.num_timesteps),
        "seed": model.seed,
        "gamma": float(getattr(model, "gamma", math.nan)),
        "checkpoint": checkpoint.name,
        "vecnormalize": vecnormalize if vecnormalize == "none" else Path(vecnormalize).name,
        "stable_baselines3": stable_baselines3.__version__,
        "sb3_contrib": sb3_contrib.__version__,
    }


def write_report(meta: BundleMeta) -> str:
    """Markdown account of what was exported and how far it agrees."""
    extra, parity = meta.extra, meta.parity
    normalizer, stack = extra["normalizer"], extra["frame_stack"]
    lines = [
        f"# {extra['algorithm']} policy",
        "",
        f"Exported from `{meta.training['checkpoint']}` of stable-baselines3 {meta.training['stable_baselines3']}, "
        f"{meta.training['timesteps']} steps of training.",
        "",
        "| | |",
        "|---|---|",
        f"| observation | {'; '.join(_say_array(s) for s in extra['observation'])} |",
        f"| action | {_say_array(extra['action'])}, {extra['action_transform']} |",
        f"| VecNormalize | {_say_normalizer(normalizer)} |",
        f"| frame stack | {stack['frames'] if stack else 'none'} |",
        f"| state | {', '.join(s['input'] for s in extra['state']) or 'none'} |",
        f"| observation hash | `{extra['observation_hash']}` |",
        "",
        f"Parity with `model.predict(..., deterministic=True)` over {parity['rows']} random and edge inputs in batches "
        f"of 1 to 8: largest difference {parity['max_abs_error']:.2e} in normalised units ({parity['left_out']} more "
        f"rows left out that single precision does not decide, {parity['undecided']} ties).",
    ]
    if "recorded" in parity:
        found = parity["recorded"]
        lines += ["", f"Over {found['episodes']} recorded episodes, {found['cases']} steps with the state carried on: "]
        lines[-1] += f"{found['max_abs_error']:.2e}."
    return "\n".join(lines) + "\n"


def _say_array(spec: dict[str, Any]) -> str:
    name = spec["key"] or spec["array"]
    return f"{name} {spec['dtype']} {list(spec['shape'])} ({spec['kind']})"


def _say_normalizer(normalizer: dict[str, Any] | None) -> str:
    if normalizer is None:
        return "none"
    arrays = ", ".join(name or "observation" for name in normalizer["arrays"])
    early = ", before stacking" if normalizer["before_stacking"] else ""
    return f"{arrays}, clipped to ±{normalizer['clip']:g}{early}"
