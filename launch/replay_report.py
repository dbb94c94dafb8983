"""A replay with its checks around it: are the bundles those of the recording, and the report of what came out."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from visuomotor.deploy.record.reader import Recording
from visuomotor.deploy.runtime.bundle import Bundle
from visuomotor.deploy.runtime.device import check_device
from visuomotor.launch.evaluate.metrics import Metrics, make_metrics
from visuomotor.launch.evaluate.score import Score, provenance
from visuomotor.launch.profile import Profile
from visuomotor.launch.replay import Comparison, replay
from visuomotor.launch.report.capture import EpisodeCapture
from visuomotor.launch.run import check_bundles
from visuomotor.messages.camera import load_camera
from visuomotor.messages.schema import Message, Truth


def replay_and_report(
    recording: Recording, profile: Profile, replaced: Mapping[str, str], report: Path | None
) -> Comparison:
    """Replay, and write a report of the replayed outputs over the recorded inputs where ``report`` says so.

    Raises ValueError when the device or a bundle is not to be had.
    """
    check_device(profile.device)
    changed = profile.override(**replaced)
    bundles = check_bundles(changed)
    collector = _Collector(profile.task, _seeds(recording)) if report is not None else None
    result = replay(recording, profile, replaced, collector.add if collector is not None else None)
    result.notes += other_bundles(recording, check_bundles(profile))
    if report is not None and collector is not None:
        _write_report(report, changed, bundles, collector, recording.clock)
    return result


def other_bundles(recording: Recording, now: Mapping[str, Bundle]) -> list[str]:
    """A note for each bundle that is not the one with which the recording was made."""
    try:
        then = set(json.loads(recording.run.get("bundles", "{}")).values())
    except (ValueError, AttributeError):
        then = set()
    return [
        f"{name}: another bundle than when the recording was made (digest {bundle.digest[:12]})"
        for name, bundle in now.items()
        if then and bundle.digest not in then
    ]


def _seeds(recording: Recording) -> list[int]:
    try:
        return [int(seed) for seed in json.loads(recording.run.get("seeds", "[]"))]
    except (ValueError, TypeError):
        return []


class _Collector:
    """Episodes of a replay, for the report."""

    def __init__(self, kind: str, seeds: list[int]) -> None:
        self._kind = kind
        self._seeds = seeds
        self.captures: dict[int, EpisodeCapture] = {}
        self.metrics: dict[int, Metrics] = {}
        self.has_truth = False

    def add(self, episode: int, tick: int, messages: Mapping[str, Message]) -> None:
        """Take in one tick."""
        if episode not in self.captures:
            seed = self._seeds[episode] if episode < len(self._seeds) else episode
            self.captures[episode] = EpisodeCapture(seed)
            self.metrics[episode] = make_metrics(self._kind)
        self.captures[episode].add(tick, messages)
        self.metrics[episode].add(dict(messages))
        self.has_truth = self.has_truth or any(isinstance(message, Truth) for message in messages.values())


def _write_report(
    folder: Path, profile: Profile, bundles: Mapping[str, Bundle], collector: _Collector, clock: str
) -> None:
    from visuomotor.launch.report.page import write_report

    rows = []
    for episode, metrics in collector.metrics.items():
        row = metrics.result(collector.captures[episode].seed)
        if not collector.has_truth:
            kept = ("seed", "guard_ticks", "ticks", "guard_interventions")
            row = {name: row[name] for name in kept} | {"end": "replay", "duration_s": row["ticks"] * 0.1}
        row.pop("success", None)  # was the recorded drive's, not that of the parts in this replay
        rows.append(row | {"digest": "", "topic_digests": {}})
    score = Score(
        task=profile.task,
        suite=profile.suite,
        policy=profile.policy,
        perception=profile.perception.mode,
        clock="lockstep",
        guard=profile.guard,
        forecaster=profile.perception.forecaster,
        episodes=rows,
        assumed=[
            f"a replay in lockstep of a recording in {clock}: the {profile.parts.robot} went as it was recorded, "
            "whatever these commands say"
        ],
        provenance=provenance({name: bundle.digest for name, bundle in bundles.items()}),
    ).finish()
    cameras = {name: load_camera(Path(f)) for name, f in zip(profile.cameras, profile.camera_files, strict=True)}
    page = write_report(
        folder, score, list(collector.captures.values()), cameras, command=" ".join(["visuomotor", *sys.argv[1:]])
    )
    sys.stderr.write(f"report: {page}\n")
