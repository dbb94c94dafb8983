"""Labelled data set of the cell's cameras in COCO form: train, val and test from the three splits.

An episode is a few stills (``sim.cell.stills``) in one look. Same seed, same bytes, for any number of jobs and after
any stop (``sim.shards``). The calibrations lie beside the images, in ``cameras``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np

from visuomotor.messages.camera import CameraModel, load_camera
from visuomotor.sim.bodies import RENDERER_NAME
from visuomotor.sim.cell.labels import CATEGORIES, annotate
from visuomotor.sim.cell.renderer import CellRenderer
from visuomotor.sim.cell.stills import Still, draw_still
from visuomotor.sim.shards import (
    SEED_STRIDE,
    Progress,
    Shard,
    check_request,
    check_settings,
    load_or_make,
    render_folders,
    write_image,
)

FOLDERS: dict[str, tuple[str, float]] = {"train": ("train", 10.0), "val": ("tune", 1.0), "test": ("evaluation", 1.0)}
STILLS = 6  # of one episode: a look costs as much to build as two images


class Job(msgspec.Struct, frozen=True):
    """One episode to render; ``look_seed`` is also the seed of its stills."""

    out: str
    folder: str
    split: str
    episode: int
    look_seed: int
    cameras: tuple[CameraModel, ...]


def pick_cameras(names: Sequence[str] = ("top",)) -> list[CameraModel]:
    """Calibrations of the pick profile: ``top`` above the belt, ``wrist`` on the hand."""
    found = []
    for name in names:
        with as_file(files("visuomotor.launch.profiles") / "pick" / f"camera_{name}.yaml") as path:
            found.append(load_camera(path))
    return found


def render_pick(
    out: Path,
    frames: int,
    seed: int,
    *,
    jobs: int = 1,
    cameras: list[CameraModel] | None = None,
    folders: Sequence[str] = tuple(FOLDERS),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Render about ``frames`` images (whole stills: a multiple of the cameras) under ``out``; returns the counts.

    ``folders`` are those of train, val and test that are made, sharing the frames. Goes on with what an earlier call
    with the same settings left; raises ValueError when the settings differ.
    """
    check_request(frames, seed, jobs, folders, FOLDERS)
    cameras = pick_cameras() if cameras is None else cameras
    check_settings(out, {"seed": seed, "renderer": RENDERER_NAME, "cameras": cameras, "stills": STILLS})
    (out / "cameras").mkdir(exist_ok=True)
    for camera in cameras:
        camera.save(out / "cameras" / f"{camera.name}.yaml")

    def make_jobs(folder: str, split: str) -> Iterator[Job]:
        for episode in itertools.count():
            yield Job(str(out), folder, split, episode, seed * SEED_STRIDE + episode, tuple(cameras))

    return render_folders(
        out,
        frames,
        {folder: FOLDERS[folder] for folder in folders},
        make_jobs=make_jobs,
        render=_load_or_render,
        cameras=len(cameras),
        jobs=jobs,
        progress=progress,
        task="pick",
        categories=CATEGORIES,
    )


_RENDERERS: dict[tuple[CameraModel, ...], CellRenderer] = {}


def _load_or_render(job: Job) -> Shard:
    return load_or_make(job, lambda: _render(job))


def _render(job: Job) -> Shard:
    if job.cameras not in _RENDERERS:
        cv2.setNumThreads(1)  # the jobs are the parallelism
        _RENDERERS[job.cameras] = CellRenderer(list(job.cameras))
    return render_episode(job, _RENDERERS[job.cameras])


def render_episode(job: Job, renderer: CellRenderer) -> Shard:
    """Draw the stills of one look and write their images; each image with its ``annotations``."""
    renderer.reset(job)
    rng = np.random.default_rng(np.random.SeedSequence([0xDA7A, list(FOLDERS).index(job.folder), job.look_seed]))
    ticks = [_keep(job, tick, renderer, draw_still(job.split, rng)) for tick in range(STILLS)]
    return {"episode": job.episode, "case_seed": job.look_seed, "ticks": ticks}


def _keep(job: Job, tick: int, renderer: CellRenderer, still: Still) -> list[dict[str, Any]]:
    """Render and write all cameras of one still."""
    images, masks = renderer.draw_labelled(still)
    records = []
    for camera, image, mask in zip(job.cameras, images, masks, strict=True):
        name = f"{job.episode:05d}_{tick:04d}_{camera.name}.png"
        write_image(Path(job.out) / job.folder / "images" / name, image)
        records.append(
            {
                "file_name": name,
                "width": camera.width,
                "height": camera.height,
                "camera": camera.name,
                "episode": job.episode,
                "tick": tick,
                "roll_rad": 0.0,
                "pitch_rad": 0.0,
                "annotations": annotate(renderer, still, 0, renderer.placed(camera), mask),
            }
        )
    return records
