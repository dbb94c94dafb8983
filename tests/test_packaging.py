"""What is installed is what is on disk, and the runtime needs nothing of simulation and training."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ROOTS = PROJECT["tool"]["setuptools"]["package-dir"]
BLOCKED = ("torch", "stable_baselines3", "sb3_contrib", "gymnasium", "pybullet", "onnx", "matplotlib", "rerun")

BLOCK_AND_IMPORT = """
import importlib, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}} (blocked)", name=name)
sys.meta_path.insert(0, Block())
for name in {modules!r}:
    importlib.import_module(name)
print(sorted(m for m in sys.modules if m.partition(".")[0] in {blocked!r}))
"""


def find_packages() -> set[str]:
    found = {"visuomotor"}
    for package, folder in ROOTS.items():
        if package == "visuomotor":
            continue
        for init in (ROOT / folder).rglob("__init__.py"):
            parts = init.parent.relative_to(ROOT / folder).parts
            found.add(".".join((package, *parts)))
    return found


def modules_of(*packages: str) -> list[str]:
    names = []
    for package in packages:
        base = max((p for p in ROOTS if package == p or package.startswith(p + ".")), key=len)
        folder = ROOT / ROOTS[base] / Path(*package.removeprefix(base).strip(".").split("."))
        names += [f"{package}.{file.stem}" for file in sorted(folder.glob("*.py")) if file.stem != "__init__"]
    return names


def test_package_list_is_what_is_on_disk() -> None:
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == find_packages()


def test_every_python_file_belongs_to_a_package() -> None:
    for folder in ROOTS.values():
        for file in (ROOT / folder).rglob("*.py"):
            assert (file.parent / "__init__.py").exists(), f"{file}: its folder is no package"


def test_data_files_are_packed() -> None:
    patterns = PROJECT["tool"]["setuptools"]["package-data"]
    for package, folder in ROOTS.items():
        for file in (ROOT / folder).rglob("*"):
            if (
                file.suffix not in (".yaml", ".html", ".js", ".json", ".onnx", ".safetensors", ".dbc")
                or not file.is_file()
            ):
                continue
            owners = [p for p in patterns if p == package or p.startswith(package + ".")]
            places = {p: ROOT / folder / Path(*p.removeprefix(package).strip(".").split(".")) for p in owners}
            packed = any(file in set(place.glob(pattern)) for p, place in places.items() for pattern in patterns[p])
            assert packed, f"{file.relative_to(ROOT)} is in no package-data pattern"


def test_runtime_modules_need_neither_simulation_nor_training() -> None:
    modules = modules_of(
        "visuomotor.messages",
        "visuomotor.perception",
        "visuomotor.control",
        "visuomotor.deploy.runtime",
        "visuomotor.deploy.vehicle",
        "visuomotor.launch",
        "visuomotor.launch.checks",
        "visuomotor.launch.evaluate",
        "visuomotor.launch.report",
    )
    assert {"visuomotor.messages.loop", "visuomotor.perception.node", "visuomotor.control.policy_node"} < set(modules)
    code = BLOCK_AND_IMPORT.format(blocked=BLOCKED, modules=modules)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "[]"


def test_constraints_pin_every_dependency_exactly() -> None:
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==(\S+)", line)
        assert match, f"constraints.txt: {line!r} is no exact pin"
        pins[re.sub(r"[-_.]+", "-", match[1]).lower()] = match[2]
    wanted = list(PROJECT["project"]["dependencies"])
    for extra, requirements in PROJECT["project"]["optional-dependencies"].items():
        wanted += requirements if extra != "all" else []
    for requirement in wanted:
        name = re.sub(r"[-_.]+", "-", re.match(r"[A-Za-z0-9._-]+", requirement)[0]).lower()  # type: ignore[index]
        assert name in pins, f"{name} is not pinned"
    assert pins["torch"] == "2.13.0"


@pytest.mark.parametrize("script", ["launch/drive.sh", "launch/test.sh", "benchmarks/gpu.sh", ".ci/run"])
def test_scripts_are_executable_and_parse(script: str) -> None:
    path = ROOT / script
    assert path.stat().st_mode & 0o111
    assert subprocess.run(["bash", "-n", str(path)], capture_output=True).returncode == 0
