"""Torch's process of ``visuomotor bench``: the network of a bundle, eager and under the best of torch's own settings.

The settings below are tried on the bundle's inputs at the start; the fastest that computes in float32 is 'torch best'.
bfloat16 is measured beside it, as a way of its own: it is another precision, with other results.
"""

from __future__ import annotations

import copy
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from visuomotor.deploy.export.rebuild import rebuild
from visuomotor.deploy.runtime.bench_worker import (
    Arrays,
    Call,
    Job,
    Ready,
    make_inputs,
    serve,
    start,
    take_output,
)
from visuomotor.deploy.runtime.bundle import load_bundle

EAGER, BEST, BFLOAT16 = "torch eager", "torch best", "torch bfloat16"
ROUNDS, CALLS = 12, 4  # of every setting, in turns, to find the best
Run = Callable[..., tuple[Tensor, ...]]
Prepare = Callable[[nn.Module, tuple[Tensor, ...]], Run]


def fuse_norms(network: nn.Module) -> nn.Module:
    """The same network with batch normalisation folded into the convolutions before it."""
    for module in network.modules():
        if isinstance(module, nn.Sequential):
            for index in range(len(module) - 1):
                convolution, norm = module[index], module[index + 1]
                if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    module[index], module[index + 1] = fuse_conv_bn_eval(convolution, norm), nn.Identity()
    return network


def _freeze(network: nn.Module, inputs: tuple[Tensor, ...]) -> Run:
    frozen: Run = torch.jit.freeze(torch.jit.trace(network, inputs, check_trace=False))
    return frozen


def _optimise(network: nn.Module, inputs: tuple[Tensor, ...]) -> Run:
    optimised: Run = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(network, inputs)))
    return optimised


def _compile(network: nn.Module, inputs: tuple[Tensor, ...]) -> Run:
    import torch._inductor.config as inductor

    inductor.freezing = True
    compiled: Run = torch.compile(network)
    return compiled


def _bfloat16(network: nn.Module, inputs: tuple[Tensor, ...]) -> Run:
    def run(*values: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast(values[0].device.type, torch.bfloat16):
            outputs: tuple[Tensor, ...] = network(*values)
        return tuple(output.float() if output.is_floating_point() else output for output in outputs)

    return run


def _plain(network: nn.Module, inputs: tuple[Tensor, ...]) -> Run:
    return network


STEPS: dict[str, Prepare] = {
    "eager": _plain,
    "fused": lambda network, inputs: fuse_norms(network),
    "jit.freeze": _freeze,
    "jit.optimize_for_inference": _optimise,
    "compile": _compile,
    "bfloat16": lambda network, inputs: _bfloat16(fuse_norms(network), inputs),
}
CHANNELS_LAST = ", channels_last"


def list_settings(network: nn.Module, job: Job) -> list[str]:
    """Names of what is tried: layouts and fusion only where there are convolutions."""
    has_images = any(isinstance(module, nn.Conv2d) for module in network.modules())
    left_out = (() if has_images else ("fused",)) + (() if job.compile else ("compile",))
    steps = [step for step in STEPS if step not in left_out]
    return [step + layout for step in steps for layout in (("", CHANNELS_LAST) if has_images else ("",))]


def prepare(network: nn.Module, job: Job, inputs: Arrays, names: tuple[str, ...], setting: str) -> Call:
    """A call of the network under one of ``list_settings``; arrays in and out, as the other ways have it."""
    device = "cpu" if job.device == "cpu" else "cuda"
    chosen = copy.deepcopy(network).to(device)
    if setting.endswith(CHANNELS_LAST):
        chosen = chosen.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    tensors = tuple(torch.from_numpy(array) for array in inputs.values())
    with torch.inference_mode():
        run = STEPS[setting.removesuffix(CHANNELS_LAST)](chosen, tuple(tensor.to(device) for tensor in tensors))

    def call() -> Arrays:
        with torch.inference_mode():
            outputs = run(*(tensor.to(device) for tensor in tensors))
            return {name: output.cpu().numpy() for name, output in zip(names, outputs, strict=True)}

    return call


def _make(
    network: nn.Module, job: Job, inputs: Arrays, names: tuple[str, ...], setting: str
) -> tuple[Call, str, dict[str, dict[str, int]]]:
    return prepare(network, job, inputs, names, setting), setting, {}


def find_best(calls: dict[str, Call]) -> dict[str, float]:
    """Median of each setting, ms, measured in turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            for _ in range(CALLS):
                began = time.perf_counter()
                call()
                times[name].append(1e3 * (time.perf_counter() - began))
    return {name: round(float(np.median(values[CALLS:])), 3) for name, values in times.items()}


def main() -> None:
    """Worker process; its only argument is the job as JSON. A ``setting`` of ``list_settings`` is the only one made."""
    out = take_output()
    warnings.simplefilter("ignore")  # tracing warns of everything that it takes for constant
    job = msgspec.json.decode(sys.argv[1], type=Job)
    torch.set_num_threads(job.threads)
    torch.set_num_interop_threads(1)
    bundle = load_bundle(Path(job.bundle))
    inputs = make_inputs(bundle.meta.inputs, job.rows)
    names = tuple(spec.name for spec in bundle.meta.outputs)
    if job.device != "cpu" and not torch.cuda.is_available():
        raise SystemExit("this torch has no CUDA")
    if len(job.ways) == 1:  # a fresh process for the first call
        way, setting = job.ways[0], job.setting
        call, started = start(lambda: _make(rebuild(bundle), job, inputs, names, setting))
        serve({} if call is None else {way: call}, Ready(ways={way: started}), out)
        return
    network = rebuild(bundle)
    ready, calls = Ready(ways={}), {}
    for setting in list_settings(network, job):
        call, started = start(partial(_make, network, job, inputs, names, setting))
        if call is None:
            ready.tried[setting] = started.error
        else:
            calls[setting], ready.ways[setting] = call, started
    medians = find_best(calls)
    ready.tried |= medians
    exact = [setting for setting in medians if not setting.startswith("bfloat16")]
    rounded = [setting for setting in medians if setting.startswith("bfloat16")]
    chosen = {EAGER: "eager", BEST: min(exact, key=lambda s: medians[s])}
    if rounded:
        chosen[BFLOAT16] = min(rounded, key=lambda s: medians[s])
    ready.ways = {way: ready.ways[setting] for way, setting in chosen.items()}
    serve({way: calls[setting] for way, setting in chosen.items()}, ready, out)


if __name__ == "__main__":
    main()
