"""What an NVIDIA GPU makes of the shipped networks, and of the whole path from a frame to a command.

    benchmarks/gpu.sh [--calls 500] [--ticks 500]        # -> results/gpu.json

Each network on CUDA and, where it is installed, TensorRT (also in half precision): bare ONNX Runtime, bound buffers,
bound buffers and a CUDA graph. Then perception of three cameras, policy and guard in one process, as a run has them.
Without a GPU, or with ``--dry-run``, the same script runs on the CPU and writes ``results/gpu_dry_run.json``: that
shows that it works, and nothing about GPUs.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import os
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from visuomotor.deploy.runtime.bench_worker import make_inputs
from visuomotor.deploy.runtime.bundle import load_bundle
from visuomotor.deploy.runtime.device import describe_gpu, find_obstacle
from visuomotor.deploy.runtime.session import make_session
from visuomotor.deploy.runtime.tuning import Tuning
from visuomotor.launch.bench import Settings, print_bench, run_bench
from visuomotor.launch.evaluate.score import percentiles, provenance, write_json
from visuomotor.launch.process_table import SOURCE, create_node, make_table
from visuomotor.launch.profile import Profile, load_profile
from visuomotor.messages.camera import load_camera
from visuomotor.messages.graph import Graph
from visuomotor.messages.schema import CameraFrame, Episode, Header, Message, Route, VehicleState
from visuomotor.messages.stepper import TICK_NS

RESULTS = Path(__file__).parent / "results"
BUNDLES = ("drive-detector-front", "drive-forecaster", "drive-policy")
PATH_BAR_MS = 5.0  # p99 from frame to command
SETTLE_TICKS = 20
SCENE_TICKS = 60


def list_devices(dry: bool) -> list[str]:
    """What is measured here."""
    return ["cpu"] if dry else [device for device in ("cuda", "tensorrt") if not find_obstacle(device)]


def measure_networks(devices: list[str], calls: int) -> list[dict[str, Any]]:
    """One result of ``visuomotor bench`` per bundle, device and precision, or the reason why there is none."""
    results = []
    for bundle in BUNDLES:
        for device in devices:
            for fp16 in (False, True) if device == "tensorrt" else (False,):
                settings = Settings(device=device, calls=calls, fp16=fp16, torch=False)
                try:
                    result = run_bench(bundle, settings, quiet=True)
                except ValueError as error:
                    print(f"{bundle} on {device}{', fp16' * fp16}: {error}")
                    results.append({"bundle": bundle, "device": device, "fp16": fp16, "error": str(error)})
                    continue
                print_bench(result)
                differs = compare_with_cpu(bundle, device, Tuning(fp16=fp16))
                print(f"outputs differ from the CPU's by up to {differs}")
                results.append({**msgspec.to_builtins(result), "fp16": fp16, "differs_from_cpu": differs})
    return results


def compare_with_cpu(name: str, device: str, tuning: Tuning) -> dict[str, float]:
    """Largest difference of each output on the same random inputs, one row per free dimension."""
    bundle = load_bundle(name)
    inputs = make_inputs(bundle.meta.inputs, rows=1)
    found, expected = make_session(bundle, device, tuning=tuning).run(inputs), make_session(bundle, "cpu").run(inputs)
    return {key: float(np.abs(found[key].astype(float) - value).max()) for key, value in expected.items()}


def record_scene(profile: Profile, ticks: int) -> tuple[str, list[dict[str, Message]]]:
    """Frames, vehicle state and route of some ticks: rendered where PyBullet is installed, else drawn."""
    services = (*profile.cameras, "vehicle_state", "route")
    if importlib.util.find_spec("pybullet") is None:
        return "drawn: no PyBullet here", [draw_scene(profile, tick) for tick in range(ticks)]
    driven = profile.override(device="cpu", perception_mode="truth", forecaster="cv", policy="idm")
    graph = Graph([create_node(spec) for spec in make_table(driven, render=True)], digest=False)
    graph.reset(Episode(phase="reset", index=0, suite=profile.suite, split="tune", seed=0))
    scene = []
    while len(scene) < ticks and (sent := graph.tick()):
        scene.append({name: sent[name] for name in services})
    graph.close()
    return f"rendered: {profile.suite}, tuning seed 0", scene


def draw_scene(profile: Profile, tick: int) -> dict[str, Message]:
    """A grey road with dark boxes that come nearer, seen by every camera."""
    rng = np.random.default_rng(tick)
    straight = np.stack([np.arange(-40.0, 122.0, 2.0), np.zeros(81)], axis=1).astype(np.float32)
    scene: dict[str, Message] = {
        "vehicle_state": VehicleState(header=Header(valid=True), speed_mps=10.0),
        "route": Route(header=Header(valid=True), odom_reference_m=straight),
    }
    for file in profile.camera_files:
        camera = load_camera(Path(file))
        image = rng.integers(100, 140, (camera.height, camera.width, 3)).astype(np.uint8)
        side = 8 + tick % 40
        image[camera.height // 2 : camera.height // 2 + side, camera.width // 3 : camera.width // 3 + side] = 30
        scene[camera.name] = CameraFrame(header=Header(valid=True), image=image)
    return scene


def measure_path(profile: Profile, scene: list[dict[str, Message]], ticks: int) -> dict[str, Any]:
    """Milliseconds from handing in a tick's frames to the guard's command, and of the stages inside perception."""
    specs = [spec for spec in make_table(profile) if spec.name != SOURCE]
    nodes = {spec.name: create_node(spec) for spec in specs}
    graph = Graph(list(nodes.values()), digest=False)
    graph.warm_up()
    graph.reset(Episode(phase="reset", index=0))
    looked = {f"detector.infer_{camera}" for camera in profile.cameras}
    total_ms: list[float] = []
    stages_ms: dict[str, list[float]] = defaultdict(list)
    for tick in range(ticks + SETTLE_TICKS):
        began = time.perf_counter()
        for service, message in scene[tick % len(scene)].items():
            header = Header(seq=tick, t_capture_ns=tick * TICK_NS, valid=True)  # without the count it has no rate
            graph.post(service, msgspec.structs.replace(message, header=header))
        sent = graph.tick()
        took_ms = 1e3 * (time.perf_counter() - began)
        stages: list[tuple[str, int, int]] = nodes["perception"].stages  # type: ignore[attr-defined]
        ran = {name for name, *_ in stages}
        if "command" not in sent or not looked <= ran:
            raise RuntimeError(f"tick {tick}: expected detections of every camera and a command, got {sorted(sent)}")
        if tick >= SETTLE_TICKS:
            total_ms.append(took_ms)
            for name, start_ns, end_ns in stages:
                stages_ms[name].append((end_ns - start_ns) * 1e-6)
    providers = {name: provider for name, node in nodes.items() if (provider := getattr(node, "provider", ""))}
    graph.close()
    return {
        "frame_to_command_ms": percentiles(total_ms),
        "stages_ms": {name: percentiles(values) for name, values in stages_ms.items()},
        "ticks": ticks,
        "providers": providers,
    }


def measure_paths(devices: list[str], ticks: int) -> dict[str, Any]:
    """The path on every device, with CUDA graphs off and on, in half precision, cameras in turns and at once."""
    profile = load_profile("drive")
    source, scene = record_scene(profile, min(SCENE_TICKS, ticks))
    runs = []
    for device in devices:
        for cuda_graph in (False,) if device == "cpu" else (False, True):
            for fp16, at_once in itertools.product((False, True) if device == "tensorrt" else (False,), (False, True)):
                runtime = {"cuda_graph": cuda_graph, "fp16": fp16, "at_once": at_once}
                setting = {"device": device, **runtime}
                try:
                    found = measure_path(profile.override(device=device, runtime=runtime), scene, ticks)
                except ValueError as error:
                    print(f"path {setting}: {error}")
                    runs.append({**setting, "error": str(error)})
                    continue
                whole = found["frame_to_command_ms"]
                met = "" if device == "cpu" else f" (bar {PATH_BAR_MS} ms: {whole['p99'] < PATH_BAR_MS})"
                print(f"path {setting}: p50 {whole['p50']:.2f} ms, p99 {whole['p99']:.2f} ms{met}")
                runs.append({**setting, **found})
    return {"scene": source, "cameras": list(profile.cameras), "bar_p99_ms": PATH_BAR_MS, "runs": runs}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="on the CPU; automatic without a GPU")
    parser.add_argument("--calls", type=int, default=500, help="of each network and way")
    parser.add_argument("--ticks", type=int, default=500, help="of the whole path")
    parser.add_argument("--json", type=Path, help="default: results/gpu.json, or gpu_dry_run.json")
    options = parser.parse_args()
    obstacle = find_obstacle("cuda")
    dry = options.dry_run or bool(obstacle)
    if dry:
        why = "--dry-run" if options.dry_run else obstacle
        print(f"DRY RUN ON THE CPU ({why}): shows that this script works, says nothing about GPUs")
    elif missing := find_obstacle("tensorrt"):
        print(f"without TensorRT: {missing}")
    devices = list_devices(dry)
    origin = {**provenance(), "gpu": describe_gpu(), "load_before": round(os.getloadavg()[0], 1)}
    result = {
        "dry_run": dry,
        "devices": devices,
        "networks": measure_networks(devices, options.calls),
        "path": measure_paths(devices, options.ticks),
        "provenance": origin,
    }
    file = options.json or RESULTS / ("gpu_dry_run.json" if dry else "gpu.json")
    write_json(file, result)
    print(f"written: {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
