"""Shifts of picking on the real perception, logged for the error model of parts; fits it and draws its marginals.

``python -m visuomotor.control.train.part_error_runs --seeds 200:224 --policy scripted --out runs/part-errors`` writes
``errors.json`` (copy it to the profile to train on it), ``marginals.png`` and ``marginals.json``. Shifts are of the
tuning split.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np

from visuomotor.control.arm import guard_node, policy_node
from visuomotor.control.arm.config import CLASS_NAMES
from visuomotor.control.arm.inputs import CAMERA_NAMES
from visuomotor.control.train.part_error_fit import fit_parts
from visuomotor.control.train.part_error_pairs import PartPairs, Shift, collect, real_tracks, simulate
from visuomotor.control.train.part_error_plots import marginals, plot_marginals
from visuomotor.control.train.run_logs import Ticks, play_logs
from visuomotor.messages.camera import load_camera
from visuomotor.messages.node import Node
from visuomotor.messages.schema import Episode, Truth
from visuomotor.perception import node as perception_node
from visuomotor.sim.cell import node as cell_node
from visuomotor.sim.cell.env import PROFILE
from visuomotor.sim.cell.error_model import PartErrorParameters
from visuomotor.sim.error_parameters import save_errors

SERVICES = ("truth", "tracks", "arm_state", "order", "detections")
TICKS_MAX = 3000
JUMPS_M = (0.05, 0.07, 0.08, 0.09, 0.11)


def log_shifts(
    seeds: Sequence[int],
    *,
    split: str = "tune",
    policy: str = "scripted",
    forecaster: str = "pick-forecaster",
    detector: str = "pick-detector",
    ticks_max: int = TICKS_MAX,
    suite: str = "pick-v1",
    keep: Path | None = None,
) -> Iterator[Ticks]:
    """``SERVICES`` of every tick of one shift per seed, on rendered frames; see ``play_logs``."""
    cameras = [str(PROFILE / f"{name}.yaml") for name in CAMERA_NAMES]
    perception = {
        "cameras": cameras,
        "detector": {name: detector for name in CAMERA_NAMES},
        "forecaster": forecaster,
        "device": "cpu",
        "threads": 1,
    }
    nodes: list[Node] = [
        cell_node.create({"suite": suite, "split": split, "cameras": cameras, "render": True}),
        perception_node.create(perception),
        policy_node.create({"policy": policy, "device": "cpu", "threads": 1}),
        guard_node.create({"enabled": True}),
    ]
    episodes = (
        Episode(phase="reset", index=i, task="pick", suite=suite, split=split, seed=s) for i, s in enumerate(seeds)
    )
    return play_logs(nodes, episodes, SERVICES, ticks_max=ticks_max, keep=keep)


def compare(logs: Sequence[Ticks], out: Path, start: PartErrorParameters, source: str) -> PartErrorParameters:
    """Fit the model to the logs, replay their truth under it, and write parameters, picture and figures to ``out``.

    After the fit the model is corrected by what the replay shows, see ``match_replay``.
    """
    camera = load_camera(PROFILE / f"{CAMERA_NAMES[0]}.yaml")
    shifts = [Shift.of(log) for log in logs]
    real = [real_tracks(log) for log in logs]

    def modelled(parameters: PartErrorParameters) -> PartPairs:
        return collect(zip(shifts, simulate(shifts, camera, parameters), strict=True), camera)

    pairs = collect(zip(shifts, real, strict=True), camera)
    fitted = match_replay(fit_parts(pairs, start, source), pairs, modelled)
    sets = {"real": pairs, "start": modelled(start), "model": modelled(fitted)}
    out.mkdir(parents=True, exist_ok=True)
    save_errors(fitted, out / "errors.json")
    figures: dict[str, Any] = plot_marginals(sets, out / "marginals.png")
    figures = {"source": source, "class_names": CLASS_NAMES, **figures}
    (out / "marginals.json").write_bytes(msgspec.json.format(msgspec.json.encode(figures), indent=1) + b"\n")
    return fitted


def match_replay(
    fitted: PartErrorParameters, real: PartPairs, modelled: Callable[[PartErrorParameters], PartPairs]
) -> PartErrorParameters:
    """What several parameters bring about together, corrected once by replaying the logs under the model.

    First the noise of what is partly hidden, up to half as much again, by the error under the tool, where tracks coast
    on what they saw last. How far from its track a part must be seen to leave it behind decides how many ghosts and
    new names there are: of ``JUMPS_M`` the one with the most similar rates. Then the memory of detection, a quarter to
    all of the fitted one, by the wanted parts near the tool that have no track. Switches and false alarms give way to
    those that ghosts and rebirths already make.
    """

    def nearest(name: str, values: Sequence[float], figures: Sequence[str]) -> PartErrorParameters:
        trials = [msgspec.structs.replace(fitted, **{name: value}) for value in values]
        found = [marginals(modelled(trial)) for trial in trials]
        off = [sum(abs(np.log((f[name] + 1e-3) / (wanted[name] + 1e-3))) for name in figures) for f in found]
        return trials[int(np.nanargmin([*off, 1e9])) % len(trials)]

    wanted = marginals(real)
    noises = [round(fitted.hidden_noise * factor, 2) for factor in (1.0, 1.25, 1.5)]
    fitted = nearest("hidden_noise", noises, ("under_tool_median_m", "under_tool_p90_m", "partly_median_m"))
    fitted = nearest("jump_m", JUMPS_M, ("ghosts_per_tick", "false_per_tick", "switches_per_min"))
    memories = [round(fitted.detection_correlation_s * share, 3) for share in (1.0, 0.5, 0.25)]
    fitted = nearest("detection_correlation_s", memories, ("near_tool_untracked",))
    made = marginals(modelled(fitted))
    excess = (made["switches_away_per_min"] - wanted["switches_away_per_min"]) / 60.0
    missing = (wanted["alarms_per_tick"] - made["alarms_per_tick"]) / fitted.false_alarm_life_s
    return msgspec.structs.replace(
        fitted,
        identity_switches_per_s=round(max(fitted.identity_switches_per_s - excess, 0.0), 5),
        false_alarms_per_s=round(max(fitted.false_alarms_per_s + missing, 0.0), 5),
    )


def main() -> None:
    """Log, fit, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", default="200:224", help="half-open range of tuning seeds")
    parser.add_argument("--policy", default="scripted")
    parser.add_argument("--ticks", type=int, default=TICKS_MAX, help="longest shift")
    parser.add_argument("--out", type=Path, default=Path("runs/part-errors"))
    options = parser.parse_args()
    first, last = (int(part) for part in options.seeds.split(":"))
    seeds = range(first, last)
    keep = options.out / "logs" / Path(options.policy).name
    logs: list[Ticks] = []
    for log in log_shifts(seeds, policy=options.policy, ticks_max=options.ticks, keep=keep):
        logs.append(log)
        truth = cast(Truth, log[-1][0])
        print(
            f"seed {seeds[len(logs) - 1]}: {len(log)} ticks, end {truth.end or 'cut'}, "
            f"{truth.parts_binned} of {truth.parts_ordered} binned",
            flush=True,
        )
    ticks = sum(len(log) for log in logs)
    source = f"fitted to {len(logs)} shifts ({ticks} ticks) of split tune, seeds {options.seeds}, policy {keep.name}"
    fitted = compare(logs, options.out, PartErrorParameters(), source)
    print(msgspec.json.format(msgspec.json.encode(fitted)).decode())


if __name__ == "__main__":
    main()
