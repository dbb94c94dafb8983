"""Steps per second of the driving environment in one process, beside other environments in the same run.

    OMP_NUM_THREADS=1 python benchmarks/environment.py [--seconds 10] [--worlds 128] [--rounds 3] [--json FILE]

One step is one control step of one world with observation and reward: visuomotor/Drive-v1 at 10 Hz control and 100 Hz
multibody physics with the perception error model and forecasts; highway-fast-v0 (5 Hz kinematic bicycles, no physics
engine); PandaReach-v3 (25 Hz control, 500 Hz PyBullet). The environments take turns, the best round counts: on a
shared machine that is the one disturbed least. Random actions, ours near straight driving. The committed result is
benchmarks/results/environment.json.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from visuomotor.launch.evaluate.score import machine
from visuomotor.sim.env import DriveVectorEnv
from visuomotor.sim.forecasts import ConstantVelocityFutures

PHYSICS_HZ, CONTROL_HZ = 100, 10
Measure = Callable[[float], dict[str, Any]]


def drive(worlds: int) -> tuple[Measure, Callable[[], None]]:
    """The vector environment: all worlds in this process."""
    env = DriveVectorEnv(worlds, forecaster=ConstantVelocityFutures())
    env.reset(seed=0)
    rng = np.random.default_rng(0)

    def measure(seconds: float) -> dict[str, Any]:
        steps, agents = 0, 0.0
        start, cpu = time.perf_counter(), time.process_time()
        while (elapsed := time.perf_counter() - start) < seconds:
            env.step(rng.uniform((-0.2, -0.3), (0.5, 0.3), (worlds, 2)))
            agents += float(env.worlds.agent_present.sum())
            steps += worlds
        spent = time.process_time() - cpu
        return {"steps_per_s": steps / elapsed, "cpu_us_per_step": 1e6 * spent / steps, "agents": agents / steps}

    return measure, env.close


def single(name: str, agents: float, **settings: Any) -> tuple[Measure, Callable[[], None]]:
    """One environment of another package."""
    env = gym.make(name, **settings)
    env.reset(seed=0)
    env.action_space.seed(0)

    def measure(seconds: float) -> dict[str, Any]:
        steps = 0
        start, cpu = time.perf_counter(), time.process_time()
        while (elapsed := time.perf_counter() - start) < seconds:
            *_, terminated, truncated, _ = env.step(env.action_space.sample())
            steps += 1
            if terminated or truncated:
                env.reset()
        spent = time.process_time() - cpu
        return {"steps_per_s": steps / elapsed, "cpu_us_per_step": 1e6 * spent / steps, "agents": agents}

    return measure, env.close


def panda() -> tuple[Measure, Callable[[], None]]:
    """panda-gym registers its environments at import."""
    import panda_gym  # noqa: F401

    return single("PandaReach-v3", 0)


def highway() -> tuple[Measure, Callable[[], None]]:
    """highway-env's fast variant: 20 vehicles by default, here 12 others as in ours."""
    import highway_env  # noqa: F401

    return single("highway-fast-v0", 12, config={"vehicles_count": 12})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each round of each environment")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worlds", type=int, default=128)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    makers = {
        f"visuomotor/Drive-v1 x {options.worlds}": lambda: drive(options.worlds),
        "visuomotor/Drive-v1 x 1": lambda: drive(1),
        "highway-fast-v0": highway,
        "PandaReach-v3": panda,
    }
    running = {name: make() for name, make in makers.items()}
    best: dict[str, dict[str, Any]] = {}
    for _ in range(options.rounds):
        for name, (measure, _) in running.items():
            result = measure(options.seconds)
            if name not in best or result["steps_per_s"] > best[name]["steps_per_s"]:
                best[name] = result
    for _, close in running.values():
        close()
    print(f"{'environment':30} {'steps/s':>10} {'CPU us/step':>12} {'agents':>7}")
    for name, result in best.items():
        print(f"{name:30} {result['steps_per_s']:10.0f} {result['cpu_us_per_step']:12.0f} {result['agents']:7.1f}")
    if options.json:
        data = {
            "environments": best,
            "seconds": options.seconds,
            "rounds": options.rounds,
            "drive": {"control_hz": CONTROL_HZ, "physics_hz": PHYSICS_HZ, "perception": "error model, forecasts"},
            "machine": machine(),
            "load_average": os.getloadavg()[0],
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(data, indent=2) + "\n")


if __name__ == "__main__":
    main()
