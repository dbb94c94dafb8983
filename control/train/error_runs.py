"""Runs of the real perception on rendered frames, logged for the error model; fits it and draws its marginals.

``python -m visuomotor.control.train.error_runs --seeds 100:130 --event pedestrian --event cyclist`` writes
``errors.json`` (copy it to the profile to train on it), ``marginals.png`` and ``marginals.json``. Cases are of the
tuning split; ``--event`` keeps those with one of these events, so that rare classes are seen often enough to be fitted.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np

from visuomotor.control import guard_node, policy_node
from visuomotor.control.inputs import CAMERA_NAMES
from visuomotor.control.train.error_fit import fit_pairs
from visuomotor.control.train.error_pairs import Pairs, Scenes, collect, simulate, tracks_of
from visuomotor.control.train.error_plots import marginals, plot_marginals
from visuomotor.control.train.run_logs import play_logs
from visuomotor.messages.camera import load_camera
from visuomotor.messages.node import Node
from visuomotor.messages.schema import Episode, Tracks, Truth
from visuomotor.perception import node as perception_node
from visuomotor.perception.train.graph_logs import DETECTOR
from visuomotor.sim import node as world_node
from visuomotor.sim.env import PROFILE
from visuomotor.sim.error_parameters import ErrorParameters, save_errors
from visuomotor.sim.scenario import EVENT_KINDS, drive_case
from visuomotor.sim.visibility import CameraArrays

Log = list[tuple[Truth, Tracks]]
PLAIN_SHARE, PLAIN_RANGE_M = 0.6, 30.0  # in plain view


def log_runs(
    seeds: Sequence[int],
    *,
    split: str = "tune",
    policy: str = "idm",
    forecaster: str = "cv",
    detectors: Mapping[str, str] = DETECTOR,
    ticks_max: int = 400,
    suite: str = "drive-v1",
    keep: Path | None = None,
) -> Iterator[Log]:
    """Truth and tracks of every tick of one episode per seed, on the real perception, cut after ``ticks_max``.

    With ``keep`` each finished run is a file in that folder, and a run that is there already is read instead.
    """
    cameras = [str(PROFILE / f"{name}.yaml") for name in CAMERA_NAMES]
    perception = {
        "cameras": cameras,
        "detector": dict(detectors),
        "forecaster": forecaster,
        "device": "cpu",
        "threads": 1,
    }
    nodes: list[Node] = [
        world_node.create({"suite": suite, "split": split, "cameras": cameras, "render": True}),
        perception_node.create(perception),
        policy_node.create({"policy": policy, "device": "cpu"}),
        guard_node.create({"enabled": False}),  # what the driver does wrong belongs in the data
    ]
    episodes = [Episode(phase="reset", index=i, suite=suite, split=split, seed=seed) for i, seed in enumerate(seeds)]
    for log in play_logs(nodes, episodes, ("truth", "tracks"), ticks_max=ticks_max, keep=keep):
        yield cast(Log, log)


def has_event(seed: int, kinds: Sequence[str], suite: str = "drive-v1", split: str = "tune") -> bool:
    """Whether the case holds an event of one of these kinds."""
    return any(event.kind in kinds for event in drive_case(suite, split, seed).events)


def compare(logs: Sequence[Log], out: Path, start: ErrorParameters, source: str) -> ErrorParameters:
    """Fit the model to the logs, replay their truth under it, and write parameters, picture and figures to ``out``.

    After the fit the model is corrected by what the replay shows, see `match_replay`.
    """
    cameras = CameraArrays.from_models([load_camera(PROFILE / f"{name}.yaml") for name in CAMERA_NAMES])
    scenes = [Scenes.of([truth for truth, _ in log]) for log in logs]
    real = collect([(s, [tracks_of(t) for _, t in log]) for s, log in zip(scenes, logs, strict=True)], cameras)

    def modelled(parameters: ErrorParameters) -> Pairs:
        return collect([(s, simulate(s, cameras, parameters, i)) for i, s in enumerate(scenes)], cameras)

    fitted = match_replay(fit_pairs(real, start, source), real, modelled)
    model = modelled(fitted)
    out.mkdir(parents=True, exist_ok=True)
    save_errors(fitted, out / "errors.json")
    figures: dict[str, Any] = plot_marginals({"real": real, "model": model}, out / "marginals.png")
    (out / "marginals.json").write_bytes(msgspec.json.format(msgspec.json.encode(figures), indent=1) + b"\n")
    return fitted


def match_replay(fitted: ErrorParameters, real: Pairs, modelled: Callable[[ErrorParameters], Pairs]) -> ErrorParameters:
    """What several parameters bring about together, corrected once by replaying the logs under the model.

    The memory of detection decides how long a miss lasts, and so whether a track is lost in plain view: the fitted one,
    a half or a quarter of it, whichever loses as much as the real tracker. A rebirth is a switch of identity, too: the
    rate of switches gives way to it. False alarms scale to as many false tracks a tick.
    """

    def lost(pairs: Pairs) -> float:
        plain = (pairs.share > PLAIN_SHARE) & (pairs.range_m < PLAIN_RANGE_M)
        return 1.0 - float(pairs.tracked[plain].mean())

    memories = [round(fitted.detection_correlation_s * share, 3) for share in (1.0, 0.5, 0.25)]
    trials = [msgspec.structs.replace(fitted, detection_correlation_s=memory) for memory in memories]
    replays = [modelled(trial) for trial in trials]
    best = int(np.argmin([abs(lost(replay) - lost(real)) for replay in replays]))
    fitted = trials[best]
    wanted, made = marginals(real), marginals(replays[best])
    excess = (made["identity_switches_per_min"] - wanted["identity_switches_per_min"]) / 60.0
    ratio = wanted["false_tracks_per_tick"] / max(made["false_tracks_per_tick"], 1e-6)
    return msgspec.structs.replace(
        fitted,
        identity_switches_per_s=round(max(fitted.identity_switches_per_s - excess, 0.0), 4),
        false_alarms_per_s=round(fitted.false_alarms_per_s * min(max(ratio, 0.5), 2.0), 4),
    )


def main() -> None:
    """Log, fit, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", default="0:20", help="half-open range of tuning seeds")
    parser.add_argument("--event", action="append", choices=EVENT_KINDS, help="only cases with one of these events")
    parser.add_argument("--policy", default="idm")
    parser.add_argument("--ticks", type=int, default=400, help="longest episode")
    parser.add_argument("--out", type=Path, default=Path("runs/errors"))
    options = parser.parse_args()
    first, last = (int(part) for part in options.seeds.split(":"))
    seeds = [seed for seed in range(first, last) if not options.event or has_event(seed, options.event)]
    if not seeds:
        parser.error(f"--seeds {options.seeds}: no case with {' or '.join(options.event)}")
    logs: list[Log] = []
    for log in log_runs(
        seeds, policy=options.policy, ticks_max=options.ticks, keep=options.out / "logs" / Path(options.policy).name
    ):
        logs.append(log)
        print(f"seed {seeds[len(logs) - 1]}: {len(log)} ticks, end {log[-1][0].end or 'cut'}", flush=True)
    ticks = sum(len(log) for log in logs)
    kept = f" with {' or '.join(options.event)}" if options.event else ""
    source = f"{len(logs)} runs ({ticks} ticks) of split tune, seeds {options.seeds}{kept}, policy {options.policy}"
    print(
        msgspec.json.format(
            msgspec.json.encode(compare(logs, options.out, ErrorParameters(), f"fitted to {source}"))
        ).decode()
    )


if __name__ == "__main__":
    main()
