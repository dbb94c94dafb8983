"""Runs of the real perception on rendered frames, logged for the error model; fits it and draws its marginals.

``python -m visuomotor.control.train.error_runs --seeds 100:130 --event pedestrian --event cyclist`` writes
``errors.json`` (copy it to the profile to train on it), ``marginals.png`` and ``marginals.json``. Cases are of the
tuning split; ``--event`` keeps those with one of these events, so that rare classes are seen often enough to be fitted.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from visuomotor.control import guard_node, policy_node
from visuomotor.control.inputs import CAMERA_NAMES
from visuomotor.control.train.error_fit import fit_pairs
from visuomotor.control.train.error_pairs import Pairs, Scenes, collect, simulate, tracks_of
from visuomotor.control.train.error_plots import marginals, plot_marginals
from visuomotor.messages import wire
from visuomotor.messages.camera import load_camera
from visuomotor.messages.graph import Graph
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
    graph = Graph(
        [
            world_node.create({"suite": suite, "split": split, "cameras": cameras, "render": True}),
            perception_node.create(perception),
            policy_node.create({"policy": policy, "device": "cpu"}),
            guard_node.create({"enabled": False}),  # what the driver does wrong belongs in the data
        ],
        digest=False,
    )
    try:
        graph.warm_up()
        for index, seed in enumerate(seeds):
            if keep is not None and (kept := keep / f"{split}-{seed}.log").is_file():
                yield load_log(kept)
                continue
            graph.reset(Episode(phase="reset", index=index, suite=suite, split=split, seed=seed))
            log: Log = []
            while len(log) < ticks_max:
                sent = graph.tick()
                truth, tracks = sent.get("truth"), sent.get("tracks")
                if not isinstance(truth, Truth) or not isinstance(tracks, Tracks):
                    break
                log.append((truth, tracks))
                if truth.end:
                    break
            if keep is not None:
                save_log(log, keep / f"{split}-{seed}.log")
            yield log
    finally:
        graph.close()


def save_log(log: Log, path: Path) -> None:
    """The log's messages on the wire's encoding, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    messages = [(wire.encode("truth", truth), wire.encode("tracks", tracks)) for truth, tracks in log]
    partial = path.with_suffix(".partial")
    partial.write_bytes(msgspec.msgpack.encode(messages))
    partial.replace(path)


def load_log(path: Path) -> Log:
    """Read what ``save_log`` wrote. Raises WireError when the schema has changed since."""
    messages = msgspec.msgpack.decode(path.read_bytes(), type=list[tuple[bytes, bytes]])
    return [(wire.decode("truth", truth), wire.decode("tracks", tracks)) for truth, tracks in messages]  # type: ignore[misc]


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
