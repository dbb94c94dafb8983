"""Interpreter and packages: versions against what this installation declares, one ONNX Runtime, one OpenCV."""

from __future__ import annotations

import importlib.util
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata

from visuomotor.launch.checks.examination import Check, Place, State

RUNTIMES = ("onnxruntime-gpu", "onnxruntime")
OPENCV = ("opencv-python-headless", "opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless")
EXTRAS = {
    "sim": ("pybullet", "gymnasium"),
    "export": ("onnx",),
    "train": ("torch", "stable_baselines3", "onnx", "safetensors", "tensorboard"),
    "vehicle": ("can", "cantools", "msgpack"),
    "viz": ("rerun",),
}
CLAUSE = re.compile(r"(>=|<=|==|<|>)\s*([0-9][0-9.]*)")


def check_software(place: Place) -> list[Check]:
    """Platform, Python, required packages, runtimes, extras."""
    installed = {d.metadata["Name"].lower(): d.version for d in metadata.distributions() if d.metadata["Name"]}
    required = [line for line in metadata.requires("visuomotor") or () if "extra ==" not in line]
    return [
        *_platform(),
        *check_packages(required, installed),
        check_only_one("ONNX Runtime", RUNTIMES, installed, required),
        check_only_one("OpenCV", OPENCV, installed, required),
        *_extras(place),
    ]


def _platform() -> list[Check]:
    system = f"{platform.system()} {platform.machine()}"
    good = sys.platform == "linux" and platform.machine() == "x86_64"
    python, version = sys.version_info[:2], platform.python_version()
    checks = [Check("platform", "ok" if good else "note", system, "" if good else "tested on Linux x86_64 alone")]
    if python < (3, 11):
        return [*checks, Check("python", "bad", version, "install Python 3.11")]
    if python > (3, 11):
        return [*checks, Check("python", "note", version, "for simulation take 3.11: pybullet's wheels end there")]
    return [*checks, Check("python", "ok", version)]


def check_packages(required: Sequence[str], installed: Mapping[str, str]) -> list[Check]:
    """Each requirement, as in "numpy<3,>=2.0", against the installed versions by lower-case name."""
    checks = []
    for requirement in required:
        name, wanted = split_requirement(requirement)
        if name in RUNTIMES or name in OPENCV:
            continue  # another distribution may be in its place: see check_only_one
        version = installed.get(name.lower())
        do = f"pip install -c constraints.txt '{name}{wanted}'"
        if version is None:
            checks.append(Check(name, "bad", "missing", do))
        elif not in_range(version, wanted):
            checks.append(Check(name, "bad", f"{version}, outside {wanted}", do))
        else:
            checks.append(Check(name, "ok", version))
    return checks


def split_requirement(requirement: str) -> tuple[str, str]:
    """Name and version clauses of a requirement without extras."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name is not None, requirement
    return name[0], requirement[name.end() :].partition(";")[0].strip()


def in_range(version: str, wanted: str) -> bool:
    """Whether a version keeps to clauses such as ">=2.0,<3"; of both the numbers alone are compared."""
    found = _numbers(version)
    for operator, text in CLAUSE.findall(wanted):
        bound = _numbers(text)
        width = max(len(found), len(bound))
        a, b = (numbers + (0,) * (width - len(numbers)) for numbers in (found, bound))
        if not {">=": a >= b, "<=": a <= b, "==": a == b, "<": a < b, ">": a > b}[operator]:
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    leading = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in leading[0].split(".")) if leading else ()


def check_only_one(
    name: str, distributions: Sequence[str], installed: Mapping[str, str], required: Sequence[str]
) -> Check:
    """Exactly one of distributions that bring the same module, in the range required of the first.

    Two overwrite each other's files.
    """
    found = [d for d in distributions if d in installed]
    text = ", ".join(f"{d} {installed[d]}" for d in found) or "none"
    wanted = dict(map(split_requirement, required)).get(distributions[0], "")
    install = f"pip install -c constraints.txt '{distributions[0]}{wanted}'"
    if not found:
        return Check(name, "bad", text, install)
    if len(found) > 1:
        return Check(name, "bad", f"{text}; expected exactly one", f"pip uninstall -y {' '.join(found)} && {install}")
    if not in_range(installed[found[0]], wanted):
        return Check(name, "bad", f"{text}, outside {wanted}", install)
    return Check(name, "ok", text)


def _extras(place: Place) -> list[Check]:
    checks = []
    for extra, modules in EXTRAS.items():
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        needed = extra == "vehicle" and place.profile is not None and place.profile.can is not None
        if missing:
            found = f"without {', '.join(missing)}"
            state: State = "bad" if needed else "note"
            checks.append(Check(f"extra {extra}", state, found, f"pip install 'visuomotor[{extra}]'"))
        else:
            checks.append(Check(f"extra {extra}", "ok", "installed"))
    return checks
