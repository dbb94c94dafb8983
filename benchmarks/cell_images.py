"""What a picture of the cell costs beside one of the street, and how much of a part the gripper leaves in view.

    OMP_NUM_THREADS=1 python benchmarks/cell_images.py [--pictures 40] [--grips 120] [--json FILE]

Costs are CPU time, the two renderers taking turns in one run, medians. For the view the tool is put straight above a
part of each class in turn, anywhere within reach, at a few heights; ``camera_top`` stands beside a camera of the same
lens that looks straight down on the same stretch of belt. The committed result is benchmarks/results/cell_images.json.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np

from visuomotor.control.arm.config import CELL
from visuomotor.launch.evaluate.score import machine
from visuomotor.sim.cell.dataset import pick_cameras
from visuomotor.sim.cell.labels import annotate
from visuomotor.sim.cell.parts import draw_part, kind_of_class
from visuomotor.sim.cell.renderer import CellRenderer
from visuomotor.sim.cell.stills import CLASSES, Placed, Still, draw_still, reach
from visuomotor.sim.dataset import drive_cameras
from visuomotor.sim.drive import DriveWorlds
from visuomotor.sim.renderer import Renderer
from visuomotor.sim.scenario import drive_case

HEIGHTS_M = (0.02, 0.08, 0.14, 0.20)  # of the tool; the lowest is that of the grip
ENOUGH = 0.3  # visible share


def measure_cost(pictures: int) -> dict[str, float]:
    """Milliseconds of CPU for one picture of 384x224: the street's front camera, the cell's, with the arm in view."""
    street = Renderer([camera for camera in drive_cameras() if camera.name == "camera_front"])
    worlds = DriveWorlds(1)
    worlds.reset(0, drive_case("drive-v1", "tune", 1))
    street.reset(worlds.cases[0], worlds.roads[0])
    cell = CellRenderer(pick_cameras())
    cell.reset(SimpleNamespace(split="tune", look_seed=1))
    rng = np.random.default_rng(0)
    spent: dict[str, list[float]] = {"drive": [], "pick": []}
    for _ in range(pictures):
        worlds.step(np.array([1.0]), np.array([0.0]))
        still = draw_still("tune", rng)
        for renderer, state, name in ((street, worlds, "drive"), (cell, still, "pick")):
            renderer.draw(state)  # new bodies are made
            start = time.process_time()
            renderer.draw(state)
            spent[name].append(1e3 * (time.process_time() - start))
    for closing in (street, cell, worlds):
        closing.close()
    found = {name: float(np.median(times)) for name, times in spent.items()}
    return {**found, "ratio": found["pick"] / found["drive"]}


def measure_view(grips: int) -> dict[str, list[dict[str, float]]]:
    """By camera and height of the tool: mean visible share of the part below, and how often it is ``ENOUGH``."""
    (top,) = pick_cameras()
    above = msgspec.structs.replace(
        top, name="straight_down", ego_position_m=(0.5, 0.22, 1.05), ego_yaw_rad=0.0, ego_pitch_rad=np.pi / 2
    )
    renderer = CellRenderer([top, above])
    renderer.reset(SimpleNamespace(split="tune", look_seed=2))
    rng = np.random.default_rng(2)
    shares: dict[str, list[list[float]]] = {camera.name: [[] for _ in HEIGHTS_M] for camera in (top, above)}
    for grip in range(grips):
        spec = draw_part(kind_of_class(grip % CLASSES), "tune", rng)
        x, y = rng.uniform((CELL.lane_x_m[0], -0.30), (CELL.lane_x_m[1], 0.35))
        yaw = float(rng.uniform(-np.pi / 2, np.pi / 2))
        turned = np.array([0.0, 0.0, np.sin(yaw / 2), np.cos(yaw / 2)])
        part = Placed(spec, np.array([x, y, spec.size_m[2] / 2]), turned, np.zeros((0, 2)))
        for height, z in enumerate(HEIGHTS_M):
            still = Still(
                tick=np.zeros(1, np.int64),
                joint_position_rad=reach(np.array([x, y, z]), yaw, rng)[None],
                gripper_width_m=np.array([0.08]),
                belt_travel_m=np.zeros(1),
                parts=[part],
            )
            _, masks = renderer.draw_labelled(still)
            for camera, mask in zip(renderer.cameras, masks, strict=True):
                found = annotate(renderer, still, 0, camera, mask)
                shares[camera.name][height].append(found[0]["visible_share"] if found else 0.0)
    renderer.close()
    return {
        name: [
            {"tool_m": z, "mean": float(np.mean(values)), "enough": float(np.mean(np.array(values) > ENOUGH))}
            for z, values in zip(HEIGHTS_M, rows, strict=True)
        ]
        for name, rows in shares.items()
    }


def main() -> None:
    """Measure both and write them down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=40)
    parser.add_argument("--grips", type=int, default=120)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    result: dict[str, Any] = {
        "cpu_ms": measure_cost(arguments.pictures),
        "view": measure_view(arguments.grips),
        "grips": arguments.grips,
        "machine": machine(),
    }
    print(json.dumps(result, indent=1))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
