"""Labelled data set of the driving cameras in COCO form: train, val and test from the three splits.

An episode is driven by ``LaneFollower``; now and then a tick is kept with all its cameras, more often when a
pedestrian, cyclist or cone is near, and most of them with bystanders added. Same seed, same bytes, for any number of
jobs and after any stop (``sim.shards``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np

from visuomotor.messages.camera import CameraModel, load_camera
from visuomotor.messages.schema import CONE, CYCLIST, PEDESTRIAN
from visuomotor.sim.bodies import RENDERER_NAME
from visuomotor.sim.bystanders import CROWDS, Snapshot, with_bystanders
from visuomotor.sim.drive import DriveWorlds
from visuomotor.sim.labels import CATEGORIES, annotate
from visuomotor.sim.lane_follower import LaneFollower
from visuomotor.sim.renderer import Renderer
from visuomotor.sim.scenario import drive_case
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

FOLDERS: dict[str, tuple[str, float]] = {"train": ("train", 0.85), "val": ("tune", 0.07), "test": ("evaluation", 0.08)}
TICKS_KEPT_MAX = 14  # of one episode
TICKS_MAX = 700
KEEP_EVERY = 30  # ticks
KEEP_EVERY_RARE = 10  # when a pedestrian, cyclist or cone is near
RARE_RANGE_M = 40.0
RARE_EVENTS = ("pedestrian", "cyclist", "closed_lane")
PLAIN_SHARE = 0.3  # of the cases without any of these events that are used all the same


class Job(msgspec.Struct, frozen=True):
    """One episode to render."""

    out: str
    suite: str
    split: str
    folder: str
    episode: int
    case_seed: int
    cameras: tuple[CameraModel, ...]
    crowd: str = "around"  # a key of CROWDS


def drive_cameras() -> list[CameraModel]:
    """The calibrations of the drive profile: left, right, front."""
    from importlib.resources import as_file, files

    found = []
    for name in ("left", "right", "front"):
        with as_file(files("visuomotor.launch.profiles") / "drive" / f"camera_{name}.yaml") as path:
            found.append(load_camera(path))
    return found


def render_drive(
    out: Path,
    frames: int,
    seed: int,
    *,
    jobs: int = 1,
    suite: str = "drive-v1",
    cameras: list[CameraModel] | None = None,
    crowd: str = "around",
    folders: Sequence[str] = tuple(FOLDERS),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Render about ``frames`` images (whole ticks: a multiple of the cameras) under ``out``; returns the counts.

    ``crowd`` names who is added to the ticks kept, a key of ``bystanders.CROWDS``; ``folders`` which of train, val and
    test are made, sharing the frames. Goes on with what an earlier call
    with the same settings left; raises ValueError when the settings differ.
    """
    check_request(frames, seed, jobs, folders, FOLDERS)
    if crowd not in CROWDS:
        raise ValueError(f"crowd: expected {' or '.join(CROWDS)}, got {crowd!r}")
    cameras = drive_cameras() if cameras is None else cameras
    settings = {"seed": seed, "suite": suite, "renderer": RENDERER_NAME, "cameras": cameras, "crowd": crowd}
    check_settings(out, settings)

    def make_jobs(folder: str, split: str) -> Iterator[Job]:
        episode = 0
        for case_seed in range(seed * SEED_STRIDE, (seed + 1) * SEED_STRIDE):
            kinds = {event.kind for event in drive_case(suite, split, case_seed).events}
            if not kinds.isdisjoint(RARE_EVENTS) or case_seed * 0.618034 % 1.0 < PLAIN_SHARE:
                yield Job(str(out), suite, split, folder, episode, case_seed, tuple(cameras), crowd)
                episode += 1

    return render_folders(
        out,
        frames,
        {folder: FOLDERS[folder] for folder in folders},
        make_jobs=make_jobs,
        render=_load_or_render,
        cameras=len(cameras),
        jobs=jobs,
        progress=progress,
        task="drive",
        categories=CATEGORIES,
    )


_RENDERERS: dict[tuple[CameraModel, ...], tuple[Renderer, DriveWorlds]] = {}


def _load_or_render(job: Job) -> Shard:
    return load_or_make(job, lambda: _render(job))


def _render(job: Job) -> Shard:
    if job.cameras not in _RENDERERS:
        cv2.setNumThreads(1)  # the jobs are the parallelism
        _RENDERERS[job.cameras] = (Renderer(list(job.cameras)), DriveWorlds(1))
    return render_episode(job, *_RENDERERS[job.cameras])


def render_episode(job: Job, renderer: Renderer, worlds: DriveWorlds) -> dict[str, Any]:
    """Drive one case and write the images kept: {"ticks": [[image, ...], ...]}, each image with its ``annotations``."""
    case = drive_case(job.suite, job.split, job.case_seed)
    worlds.reset(0, case)
    renderer.reset(case, worlds.roads[0])
    rng = np.random.default_rng(np.random.SeedSequence([0xDA7A, case.looks_seed]))
    driver = LaneFollower(rng)
    images_folder = Path(job.out) / job.folder / "images"
    kept: list[list[dict[str, Any]]] = []
    due = float(rng.uniform(0, KEEP_EVERY))
    views = [camera.ego_yaw_rad for camera in job.cameras]
    views += [0.0] * (len(views) - 1)  # as many in front as at both sides
    for tick in range(TICKS_MAX):
        due -= _interest(worlds)
        if due <= 0:
            due += float(rng.uniform(0.7, 1.3)) * KEEP_EVERY
            state = with_bystanders(worlds, 0, worlds.roads[0], rng, CROWDS[job.crowd], views)
            kept.append(_keep(job, tick, renderer, state, images_folder))
            if len(kept) >= TICKS_KEPT_MAX:
                break
        acceleration, steering = driver.act(worlds)
        worlds.step(np.array([acceleration]), np.array([steering]))
        if worlds.end[0] != 0:
            break
    return {"episode": job.episode, "case_seed": job.case_seed, "ticks": kept}


def _interest(worlds: DriveWorlds) -> float:
    """How fast the time to the next image runs: faster near rare classes, slower when the car stands."""
    away = np.hypot(*(worlds.agent_position_m[0] - worlds.ego_pose[0, :2]).T)
    rare = np.isin(worlds.agent_class[0], (PEDESTRIAN, CYCLIST, CONE)) & worlds.agent_present[0] & (away < RARE_RANGE_M)
    rate = KEEP_EVERY / KEEP_EVERY_RARE if rare.any() else 1.0
    return rate if worlds.ego_speed_mps[0] > 0.5 else 0.3 * rate


def _keep(job: Job, tick: int, renderer: Renderer, worlds: Snapshot, folder: Path) -> list[dict[str, Any]]:
    """Render and write all cameras of one tick."""
    images, masks = renderer.draw_labelled(worlds, 0)
    records = []
    for camera in job.cameras:
        name = f"{job.episode:05d}_{tick:04d}_{camera.name}.png"
        write_image(folder / name, images[camera.name])
        records.append(
            {
                "file_name": name,
                "width": camera.width,
                "height": camera.height,
                "camera": camera.name,
                "episode": job.episode,
                "tick": tick,
                "roll_rad": round(float(worlds.ego_roll_rad[0]), 6),
                "pitch_rad": round(float(worlds.ego_pitch_rad[0]), 6),
                "annotations": annotate(renderer, worlds, 0, camera, masks[camera.name]),
            }
        )
    return records
