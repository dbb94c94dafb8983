"""Whose labels mean which class of the task: label files, the default table, and mapping files that change it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from visuomotor.deploy.export.foreign_onnx import ForeignModelError
from visuomotor.messages.tasks import Task
from visuomotor.messages.yaml_file import YamlError, load_yaml

# COCO's names and those of Pascal VOC that some COCO files use, where a task has such a class; its own names mean
# themselves.
SYNONYMS: dict[str, str] = {
    "bus": "truck",
    "person": "pedestrian",
    "bicycle": "cyclist",
    "motorcycle": "cyclist",
    "motorbike": "cyclist",
}


def read_labels(path: Path) -> tuple[str, ...]:
    """Names of a network's classes in their order, one a line; empty lines at the end don't count.

    Raises ForeignModelError that names the file and the line.
    """
    names = [line.strip() for line in _read(path).rstrip().splitlines()]
    if not names:
        raise ForeignModelError(f"{path}: expected the names of the network's classes, one a line, got nothing")
    for number, name in enumerate(names, 1):
        if not name:
            raise ForeignModelError(f"{path}: line {number}: expected the name of a class, got an empty line")
        if name in names[: number - 1]:
            raise ForeignModelError(f"{path}: line {number}: expected each name once, got '{name}' again")
    return tuple(names)


def default_map(task: Task) -> dict[str, str]:
    """Label -> class of the task, without a mapping file."""
    names = task.class_names
    return {name: name for name in names} | {label: name for label, name in SYNONYMS.items() if name in names}


def read_map(path: Path, task: Task) -> dict[str, str | None]:
    """Mapping file: YAML of label -> class of the task, or null for a label that is to be left out."""
    try:
        data = load_yaml(path)
    except OSError as error:
        raise ForeignModelError(f"{path}: cannot be read ({error.strerror})") from error
    except YamlError as error:
        raise ForeignModelError(str(error)) from error
    if not isinstance(data, dict) or not data:
        raise ForeignModelError(f"{path}: expected a mapping of label to class, got {data!r:.200}")
    for label, name in data.items():
        if name is not None and name not in task.class_names:
            expected = f"one of {', '.join(task.class_names)} or null"
            raise ForeignModelError(f"{path}: {label}: expected {expected}, got {name!r:.200}")
    return {str(label): name for label, name in data.items()}


def map_labels(
    labels: Sequence[str], changes: Mapping[str, str | None], task: Task, labels_file: Path, map_file: Path | None
) -> dict[str, str]:
    """Label -> class of the task, for the labels that mean one: the default table with ``changes`` laid over it.

    Raises ForeignModelError that names a label of ``changes`` that the network does not have, or when none is left.
    """
    if unknown := [label for label in changes if label not in labels]:
        raise ForeignModelError(f"{map_file}: {unknown[0]}: no such label; expected labels of {labels_file}")
    usual = default_map(task)
    known = {label: changes.get(label, usual.get(label)) for label in labels}
    chosen = {label: name for label, name in known.items() if name is not None}
    if not chosen:
        expected = f"expected some of {', '.join(usual)}, or a mapping file (--map)"
        raise ForeignModelError(f"{labels_file}: no label means a class of the task; {expected}")
    return chosen


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except UnicodeDecodeError as error:
        raise ForeignModelError(f"{path}: expected text, got bytes that are none") from error
    except OSError as error:
        raise ForeignModelError(f"{path}: cannot be read ({error.strerror})") from error
