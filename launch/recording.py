"""The recorder as a node of a run, and what its file says about the run."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from visuomotor import __version__
from visuomotor.deploy.runtime.bundle import Bundle
from visuomotor.launch.evaluate.score import provenance
from visuomotor.launch.process_table import NodeSpec
from visuomotor.launch.profile import Profile
from visuomotor.messages.wiring import SHARED

RECORDER = "recorder"
SUMMARY_FILE = "recorder.json"
PROFILE_FILE = "profile.json"


def check_recording(record: Path | None, lossy: bool) -> None:
    """Raise ValueError before anything is started when there is no place for a recording, or one is there already."""
    if record is None:
        if lossy:
            raise ValueError("--lossy: expected together with --record FILE")
        return
    if record.exists():
        raise ValueError(f"--record: {record} exists already; remove it or choose another name")
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        with record.open("xb"):
            pass
        record.unlink()
    except OSError as error:
        raise ValueError(f"--record: {record} cannot be made ({error.strerror})") from error


def describe_run(profile: Profile, seeds: Sequence[int], bundles: Mapping[str, Bundle]) -> dict[str, str]:
    """What was run, as text by name; ``bundles`` is JSON of digest by bundle."""
    origin = provenance()
    return {
        "task": profile.task,
        "suite": profile.suite,
        "split": profile.split,
        "seeds": json.dumps(list(seeds)),
        "camera": ", ".join(f"{name}={source.device}" for name, source in profile.sources.items()),
        "clock": profile.clock,
        "policy": profile.policy,
        "forecaster": profile.perception.forecaster,
        "perception": profile.perception.mode,
        "bundles": json.dumps({name: bundle.digest for name, bundle in bundles.items()}),
        "version": __version__,
        "revision": origin["revision"],
        "machine": origin["machine"],
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": " ".join(["visuomotor", *sys.argv[1:]]),
    }


def make_recorder(
    table: Sequence[NodeSpec], profile: Profile, record: Path, lossy: bool, run: dict[str, str], run_dir: Path
) -> NodeSpec:
    """The recorder of the nodes in ``table``. Profile and calibrations go into the file, so that it can be replayed."""
    services = tuple(dict.fromkeys(s for spec in table for s in spec.outputs if s not in SHARED))
    attachments = {PROFILE_FILE: portable_profile(profile).model_dump_json(exclude={"source"})}
    for name, file in zip(profile.cameras, profile.camera_files, strict=True):
        attachments[f"{name}.yaml"] = Path(file).read_text()
    return NodeSpec(
        name=RECORDER,
        module="visuomotor.deploy.record.node:create",
        config={
            "file": str(record.absolute()),
            "services": services,
            "clock": profile.clock,
            "lossy": lossy,
            "run": run,
            "attachments": attachments,
            "summary": str(run_dir / SUMMARY_FILE),
        },
        inputs=services,
        outputs=(),
        vital=False,
    )


def portable_profile(profile: Profile) -> Profile:
    """The same with folders of bundles made absolute: they are found again from elsewhere on this machine."""

    def place(bundle: str) -> str:
        return str(Path(bundle).absolute()) if (Path(bundle) / "bundle.json").is_file() else bundle

    seen = profile.perception.model_copy(
        update={
            "detector": profile.perception.detector | {c: place(b) for c, b in profile.perception.detectors.items()},
            "forecaster": place(profile.perception.forecaster),
        }
    )
    return profile.model_copy(update={"perception": seen, "policy": place(profile.policy)})


def describe_recording(run_dir: Path, record: Path, lost: str) -> str:
    """One line on how the recording went: its size, what is missing in it, and why."""
    size = record.stat().st_size / 1e6 if record.exists() else 0.0
    summary = run_dir / SUMMARY_FILE
    if lost or not summary.exists() or not summary.stat().st_size:
        return f"recording: {record}, {size:.1f} MB, cut: the recorder {lost or 'did not finish'}"
    counts: dict[str, Any] = json.loads(summary.read_text())
    text = f"recording: {record}, {counts['messages']} messages, {size:.1f} MB"
    if counts["stopped"]:
        text += f"; {counts['stopped']}"
    reasons = {"dropped": "dropped because the disk was too slow", "missed": "overtaken by newer ones on the bus"}
    for key, why in reasons.items():
        if counts[key]:
            text += "; " + ", ".join(f"{n} of {service}" for service, n in sorted(counts[key].items())) + f" {why}"
    return text
