"""What this machine has and what the installation lacks."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from importlib import metadata
from pathlib import Path

from rich.console import Console
from rich.table import Table

from visuomotor import __version__
from visuomotor.deploy.runtime.bundle import BundleError, load_bundle
from visuomotor.deploy.runtime.device import find_obstacle
from visuomotor.launch.evaluate.score import write_json
from visuomotor.launch.profile import PROFILES, load_profile
from visuomotor.messages.run_directory import RunDirectory, RunDirectoryError

EXTRAS = {
    "sim": ("pybullet", "gymnasium"),
    "export": ("onnx",),
    "train": ("torch", "stable_baselines3", "onnx", "safetensors", "tensorboard"),
    "vehicle": ("can", "cantools", "msgpack"),
    "viz": ("rerun",),
}
BASE = ("numpy", "scipy", "msgspec", "pyzmq", "opencv-python-headless", "pydantic", "typer", "rich", "psutil")
RUNTIMES = ("onnxruntime-gpu", "onnxruntime")


def examine(json_file: Path | None = None) -> int:
    """Print a table of checks; returns 0 when driving in simulation can work here, 1 otherwise."""
    checks = [*_platform(), *_packages(), *_devices(), *_bundles(), _sockets()]
    table = Table(title=f"visuomotor {__version__}", min_width=70)
    for name in ("check", "", "found"):
        table.add_column(name)
    marks = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "bad": "[red]bad[/]"}
    for name, state, text in checks:
        table.add_row(name, marks[state], text)
    Console().print(table)
    if json_file is not None:
        write_json(json_file, {"checks": [{"check": n, "state": s, "found": t} for n, s, t in checks]})
    return 1 if any(state == "bad" for _, state, _ in checks) else 0


Check = tuple[str, str, str]


def _platform() -> list[Check]:
    good = sys.platform == "linux" and platform.machine() == "x86_64"
    python = sys.version_info[:2]
    text = platform.python_version() + (
        "" if python == (3, 11) else "; simulation needs 3.11, pybullet's wheels end there"
    )
    cores = len(os.sched_getaffinity(0))
    free_gb = shutil.disk_usage(Path.cwd()).free / 1e9
    return [
        ("platform", "ok" if good else "note", f"{platform.system()} {platform.machine()}"),
        ("python", "ok" if python == (3, 11) else "note" if python > (3, 11) else "bad", text),
        ("cores", "ok" if cores >= 2 else "note", str(cores)),
        ("disk", "ok" if free_gb > 2 else "note", f"{free_gb:.0f} GB free here"),
    ]


def _packages() -> list[Check]:
    checks: list[Check] = []
    for name in BASE:
        version = _version(name)
        checks.append((name, "ok" if version else "bad", version or "missing: pip install visuomotor"))
    runtimes = [f"{name} {version}" for name in RUNTIMES if (version := _version(name))]
    state = {0: "bad", 1: "ok"}.get(len(runtimes), "bad")
    hint = "" if len(runtimes) == 1 else "; expected exactly one of onnxruntime-gpu and onnxruntime"
    checks.append(("ONNX Runtime", state, (", ".join(runtimes) or "none") + hint))
    for extra, modules in EXTRAS.items():
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        text = "installed" if not missing else f"without {', '.join(missing)}: pip install 'visuomotor[{extra}]'"
        checks.append((f"extra {extra}", "note" if missing else "ok", text))
    return checks


def _devices() -> list[Check]:
    checks: list[Check] = []
    for device in ("cuda", "tensorrt"):
        obstacle = find_obstacle(device)
        checks.append((device, "note" if obstacle else "ok", obstacle or "a device answers"))
    return checks


def _bundles() -> list[Check]:
    checks: list[Check] = []
    profile = load_profile(PROFILES / "drive.yaml")
    kinds = {name: "detector" for name in profile.perception.detector.values()}
    kinds |= {profile.perception.forecaster: "forecaster", profile.policy: "policy"}
    for name, kind in kinds.items():
        try:
            bundle = load_bundle(name, kind)  # type: ignore[arg-type]
        except BundleError as error:
            checks.append((f"bundle {name}", "bad", str(error)))
        else:
            checks.append((f"bundle {name}", "ok", f"{kind}, {bundle.digest[:12]}"))
    return checks


def _sockets() -> Check:
    try:
        with RunDirectory() as run_dir:
            return ("run directory", "ok", str(run_dir.path.parent))
    except RunDirectoryError as error:
        return ("run directory", "bad", str(error))


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
