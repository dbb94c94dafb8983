"""Steps per CPU second of the picking environment against the bare physics of the same cells, and beside panda-gym.

    OMP_NUM_THREADS=1 python benchmarks/pick_environment.py [--ticks 200] [--cells 64] [--rounds 3] [--json FILE]

The scripted picker plays some shifts of pick-v1 once; what it did is then played again by the environment (perception
error model, constant-velocity forecasts, observation, inverse kinematics, reward) and by bare PyBullet: the same bodies
in the same order under the same joint speeds, 24 physics steps of 240 Hz per control step and nothing else. With one
part on a belt that stands still, in shifts of 40 s, the environment is set beside PandaPickAndPlace-v3 (20 physics
steps per control step): both on true states, under random actions and with their resets. All take turns, the best round
counts: on a shared machine that is the one disturbed least.
The committed result is benchmarks/results/pick_environment.json.
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
import msgspec
import numpy as np

from visuomotor.control.arm.policy import load_policy
from visuomotor.launch.evaluate.score import machine
from visuomotor.sim.cell.arm import STEPS_PER_CALL, SUBSTEPS
from visuomotor.sim.cell.env import PickVectorEnv
from visuomotor.sim.cell.scenario import SHIFT_S, SUITES
from visuomotor.sim.cell.scene import Scene
from visuomotor.sim.forecasts import ConstantVelocityFutures

SPLIT = "tune"
SLOW = 0.02  # random actions move the tool by so much of its speed: hitting nothing


class Recording:
    """What a scripted picker did in some cells: actions, and every call that its scenes got, in order."""

    def __init__(self, cells: int, ticks: int) -> None:
        self.cells, self.ticks = cells, ticks
        self.actions: list[np.ndarray] = []
        self.calls: list[list[tuple[str, tuple[Any, ...]]]] = [[] for _ in range(cells)]
        env = make_env(cells)
        for scene, calls in zip(env.worlds.scenes, self.calls, strict=True):
            for name in ("reset", "step", "add_part", "remove_part"):
                setattr(scene, name, _listening(name, getattr(scene, name), calls))
        policy = load_policy("scripted")
        start(env, cells)
        self.parts = 0.0
        for _ in range(ticks):
            self.actions.append(policy.act(env.inputs))  # type: ignore[arg-type]
            env.step(self.actions[-1])
            self.parts += float(env.worlds.part_present.sum()) / (cells * ticks)
        self.binned = int(env.worlds.parts_binned.sum())
        env.close()


def _listening(name: str, call: Callable[..., Any], calls: list[tuple[str, tuple[Any, ...]]]) -> Callable[..., Any]:
    def listened(*arguments: Any) -> Any:
        calls.append((name, arguments))
        return call(*arguments)

    return listened


def make_env(cells: int) -> PickVectorEnv:
    return PickVectorEnv(cells, split=SPLIT, forecaster=ConstantVelocityFutures(20, 0.1))


def start(env: PickVectorEnv, cells: int) -> None:
    env.reset(options={"case_seeds": list(range(cells))})


def environment(recording: Recording) -> tuple[Callable[[], float], Callable[[], None]]:
    """The recorded actions again; steps per CPU second without the first reset."""
    env = make_env(recording.cells)

    def measure() -> float:
        start(env, recording.cells)
        begin = time.process_time()
        for action in recording.actions:
            env.step(action)
        return recording.cells * recording.ticks / (time.process_time() - begin)

    return measure, env.close


def bare(recording: Recording) -> tuple[Callable[[], float], Callable[[], None]]:
    """The recorded bodies and joint speeds in scenes that nobody looks at."""
    scenes = [Scene() for _ in range(recording.cells)]

    def measure() -> float:
        spent = 0.0
        for scene, calls in zip(scenes, recording.calls, strict=True):
            for name, arguments in calls:
                begin = time.process_time()
                if name == "step":
                    (_, velocity), width, (_, belt) = arguments
                    scene.arm.grip(width)
                    scene.arm.drive(velocity.tolist())
                    scene._set_velocity(scene._belt, (0.0, -belt, 0.0), (0.0, 0.0, 0.0))
                    for _ in range(SUBSTEPS // STEPS_PER_CALL):
                        scene._simulate()
                else:
                    getattr(scene, name)(*arguments)
                spent += 0.0 if name == "reset" else time.process_time() - begin
        return recording.cells * recording.ticks / spent

    def close() -> None:
        for scene in scenes:
            scene.close()

    return measure, close


def one_part(seconds: float, cells: int) -> tuple[Callable[[], float], Callable[[], None]]:
    """One part on a belt that stands still, resets included."""
    SUITES["one-part"] = msgspec.structs.replace(SUITES["pick-reach-v1"], duration_s=SHIFT_S)
    env = PickVectorEnv(cells, suite="one-part", perception="truth")
    env.reset(seed=0)
    rng = np.random.default_rng(0)

    def measure() -> float:
        steps, begin = 0, time.process_time()
        while time.process_time() - begin < seconds:
            action = rng.uniform(-SLOW, SLOW, (cells, 5))
            env.step(action)
            steps += cells
        return steps / (time.process_time() - begin)

    return measure, env.close


def panda(seconds: float) -> tuple[Callable[[], float], Callable[[], None]]:
    """panda-gym registers its environments at import."""
    import panda_gym  # noqa: F401

    env = gym.make("PandaPickAndPlace-v3")
    env.reset(seed=0)
    env.action_space.seed(0)

    def measure() -> float:
        steps, begin = 0, time.process_time()
        while time.process_time() - begin < seconds:
            *_, terminated, truncated, _ = env.step(env.action_space.sample())
            steps += 1
            if terminated or truncated:
                env.reset()
        return steps / (time.process_time() - begin)

    return measure, env.close


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--ticks", type=int, default=200, help="of each shift that is played again")
    parser.add_argument("--cells", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each round with one part")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    many, single = Recording(options.cells, options.ticks), Recording(1, options.ticks)
    makers = {
        f"Pick-v1 x {options.cells}": lambda: environment(many),
        f"bare physics x {options.cells}": lambda: bare(many),
        "Pick-v1 x 1": lambda: environment(single),
        "bare physics x 1": lambda: bare(single),
        f"one part x {options.cells}": lambda: one_part(options.seconds, options.cells),
        "one part x 1": lambda: one_part(options.seconds, 1),
        "PandaPickAndPlace-v3": lambda: panda(options.seconds),
    }
    running = {name: make() for name, make in makers.items()}
    best = dict.fromkeys(running, 0.0)
    for _ in range(options.rounds):
        for name, (measure, _) in running.items():
            best[name] = max(best[name], measure())
    for _, close in running.values():
        close()
    for name, steps in best.items():
        print(f"{name:24} {steps:8.0f} steps/CPU s")
    ratios = {
        f"of bare physics x {count}": best[f"Pick-v1 x {count}"] / best[f"bare physics x {count}"]
        for count in (options.cells, 1)
    }
    ratios |= {
        f"of panda-gym x {count}": best[f"one part x {count}"] / best["PandaPickAndPlace-v3"]
        for count in (options.cells, 1)
    }
    for name, ratio in ratios.items():
        print(f"{name:24} {ratio:8.2f}")
    if options.json:
        data = {
            "steps_per_cpu_s": best,
            "ratios": ratios,
            "parts_present": many.parts,
            "parts_binned": many.binned,
            "ticks": options.ticks,
            "cells": options.cells,
            "rounds": options.rounds,
            "rates": {"control_hz": 10, "physics_hz": 240, "perception": "error model, constant-velocity forecasts"},
            "machine": machine(),
            "load_average": os.getloadavg()[0],
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(data, indent=2) + "\n")


if __name__ == "__main__":
    main()
