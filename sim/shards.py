"""A data set rendered in shards, whatever is rendered: it goes on after a stop, and any number of jobs gives the same.

Each episode leaves one shard; the annotations are the shards in the order of their episodes, cut at the number of
frames asked for.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import cv2
import msgspec
import numpy as np

from visuomotor.sim.bodies import RENDERER_NAME

PNG_COMPRESSION = 1
SEED_STRIDE = 1_000_000  # data set seed n uses the cases from n million on: none that a suite is scored on

Progress = Callable[[str, int, int], None]  # folder, images done, images wanted
Shard = dict[str, Any]  # episode, case_seed, ticks: [[image, ...], ...]


class Episode(Protocol):
    """What is known of an episode to render; picklable."""

    @property
    def out(self) -> str:
        """Folder of the data set."""

    @property
    def folder(self) -> str:
        """Its part: train, val or test."""

    @property
    def episode(self) -> int:
        """Number within the part."""


E = TypeVar("E", bound=Episode)


def render_folders(
    out: Path,
    frames: int,
    folders: dict[str, tuple[str, float]],
    *,
    make_jobs: Callable[[str, str], Iterator[E]],
    render: Callable[[E], Shard],
    cameras: int,
    jobs: int,
    progress: Progress | None,
    task: str,
    categories: list[dict[str, Any]],
) -> dict[str, Any]:
    """Render about ``frames`` images, shared by ``folders`` (name -> split, share), under ``out``; returns the counts.

    ``make_jobs`` takes a folder and its split. ``render`` makes or loads one shard; with several jobs it has to be a
    function that another process can import. The counts are in ``summary.json``, too.
    """
    summary: dict[str, Any] = {}
    total = sum(share for _, share in folders.values())
    for folder, (split, share) in folders.items():
        wanted = max(1, round(frames * share / total / cameras))  # ticks
        where = out / folder
        (where / "images").mkdir(parents=True, exist_ok=True)
        (where / "shards").mkdir(exist_ok=True)
        tell = (lambda *_: None) if progress is None else partial(progress, folder)
        shards = _render_until(make_jobs(folder, split), render, wanted, jobs, cameras, tell)
        summary[folder] = _merge(where, shards, wanted, split, task, categories)
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    return summary


def check_request(frames: int, seed: int, jobs: int, folders: Collection[str], known: Collection[str]) -> None:
    """Raise ValueError for what cannot be rendered."""
    if frames < 1 or seed < 0 or jobs < 1:
        raise ValueError(f"frames, seed, jobs: expected >= 1, >= 0, >= 1, got {frames}, {seed}, {jobs}")
    if not folders or not set(folders) <= set(known):
        raise ValueError(f"folders: expected some of {', '.join(known)}, got {', '.join(folders) or 'none'}")


def check_settings(out: Path, settings: dict[str, Any]) -> None:
    """Note the settings in the folder; raises ValueError when it holds a data set made with others."""
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(msgspec.to_builtins(settings), indent=1, sort_keys=True)
    path = out / "settings.json"
    if path.exists() and path.read_text() != text:
        raise ValueError(f"{path}: the folder holds a data set made with other settings; choose another folder")
    path.write_text(text)


def _render_until(
    source: Iterator[E],
    render: Callable[[E], Shard],
    wanted: int,
    jobs: int,
    cameras: int,
    tell: Callable[[int, int], None],
) -> list[Shard]:
    """Shards of episodes 0, 1, ... up to the first that completes the number of ticks wanted."""
    done: dict[int, Shard] = {}

    def ticks() -> int:
        """Ticks in the unbroken row of shards from the first episode on."""
        total = episode = 0
        while episode in done:
            total += len(done[episode]["ticks"])
            episode += 1
        return total

    def told() -> None:
        tell(min(wanted, sum(len(s["ticks"]) for s in done.values())) * cameras, wanted * cameras)

    if jobs == 1:
        for job in source:
            done[job.episode] = render(job)
            told()
            if ticks() >= wanted:
                break
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, mp_context=context) as pool:
            running: dict[Future[Shard], int] = {}
            while ticks() < wanted:
                while len(running) < jobs:
                    job = next(source)
                    running[pool.submit(render, job)] = job.episode
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    done[running.pop(future)] = future.result()
                told()
            for future, episode in running.items():
                done[episode] = future.result()
    return [done[episode] for episode in sorted(done)]


def load_or_make(job: Episode, make: Callable[[], Shard]) -> Shard:
    """The shard of an episode, from disk or newly made."""
    path = Path(job.out) / job.folder / "shards" / f"{job.episode:05d}.json"
    if path.exists():
        loaded: Shard = json.loads(path.read_text())
        return loaded
    shard = make()
    part = path.with_suffix(".part")
    part.write_text(json.dumps(shard))
    part.replace(path)
    return shard


def write_image(path: Path, image: np.ndarray) -> None:
    """Write a PNG; raises OSError when it cannot be written."""
    if not cv2.imwrite(str(path), image, [cv2.IMWRITE_PNG_COMPRESSION, PNG_COMPRESSION]):
        raise OSError(f"{path}: could not be written")


def _merge(
    where: Path, shards: list[Shard], wanted: int, split: str, task: str, categories: list[dict[str, Any]]
) -> dict[str, Any]:
    """Write ``annotations.json`` of the first ``wanted`` ticks (later ones wait for a larger set), and count."""
    names = [category["name"] for category in categories]
    ticks = [(shard["case_seed"], tick) for shard in shards for tick in shard["ticks"]]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    per_camera: dict[str, int] = {}
    per_class: dict[str, dict[str, int]] = {}
    for case_seed, tick in ticks[:wanted]:
        for record in tick:
            image = {"id": len(images) + 1, **record, "case_seed": case_seed}
            labels = image.pop("annotations")
            images.append(image)
            per_camera[image["camera"]] = per_camera.get(image["camera"], 0) + 1
            counts = per_class.setdefault(image["camera"], dict.fromkeys(names, 0))
            for label in labels:
                annotations.append({"id": len(annotations) + 1, "image_id": image["id"], **label})
                counts[names[label["category_id"] - 1]] += 1
    info = {"description": f"visuomotor {task}", "split": split, "renderer": RENDERER_NAME}
    coco = {"info": info, "images": images, "annotations": annotations, "categories": categories}
    (where / "annotations.json").write_text(json.dumps(coco))
    return {"images": len(images), "annotations": len(annotations), "cameras": per_camera, "classes": per_class}
