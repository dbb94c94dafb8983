"""Labelled data set of the driving cameras in COCO form: train, val and test from the three splits.

An episode is driven by ``LaneFollower``; now and then a tick is kept with all its cameras, more often when a
pedestrian, cyclist or cone is near, and most of them with bystanders added. Each episode leaves one shard, so a run
that was stopped goes on where it was; the annotations are the shards in the order of their episodes, cut at the number
of frames asked for. Same seed, same bytes, for any number of jobs.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np

from visuomotor.messages.camera import CameraModel, load_camera
from visuomotor.messages.schema import CLASS_NAMES, CONE, CYCLIST, PEDESTRIAN
from visuomotor.sim.bodies import RENDERER_NAME
from visuomotor.sim.bystanders import CROWDS, Snapshot, with_bystanders
from visuomotor.sim.drive import DriveWorlds
from visuomotor.sim.labels import CATEGORIES, annotate
from visuomotor.sim.lane_follower import LaneFollower
from visuomotor.sim.renderer import Renderer
from visuomotor.sim.scenario import drive_case

FOLDERS: dict[str, tuple[str, float]] = {"train": ("train", 0.85), "val": ("tune", 0.07), "test": ("evaluation", 0.08)}
TICKS_KEPT_MAX = 14  # of one episode
TICKS_MAX = 700
KEEP_EVERY = 30  # ticks
KEEP_EVERY_RARE = 10  # when a pedestrian, cyclist or cone is near
RARE_RANGE_M = 40.0
RARE_EVENTS = ("pedestrian", "cyclist", "closed_lane")
PLAIN_SHARE = 0.3  # of the cases without any of these events that are used all the same
SEED_STRIDE = 1_000_000  # data set seed n uses the cases from n million on: none that a suite is scored on
PNG_COMPRESSION = 1

Progress = Callable[[str, int, int], None]  # folder, images done, images wanted


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
    if frames < 1 or seed < 0 or jobs < 1:
        raise ValueError(f"frames, seed, jobs: expected >= 1, >= 0, >= 1, got {frames}, {seed}, {jobs}")
    if crowd not in CROWDS:
        raise ValueError(f"crowd: expected {' or '.join(CROWDS)}, got {crowd!r}")
    if not folders or not set(folders) <= FOLDERS.keys():
        raise ValueError(f"folders: expected some of {', '.join(FOLDERS)}, got {', '.join(folders) or 'none'}")
    cameras = drive_cameras() if cameras is None else cameras
    settings = {"seed": seed, "suite": suite, "renderer": RENDERER_NAME, "cameras": cameras, "crowd": crowd}
    _check_settings(out, settings)
    summary: dict[str, Any] = {}
    shares = {folder: FOLDERS[folder] for folder in folders}
    total = sum(share for _, share in shares.values())
    for folder, (split, share) in shares.items():
        wanted = max(1, round(frames * share / total / len(cameras)))  # ticks
        where = out / folder
        (where / "images").mkdir(parents=True, exist_ok=True)
        (where / "shards").mkdir(exist_ok=True)

        def make_jobs(folder: str = folder, split: str = split) -> Iterator[Job]:
            episode = 0
            for case_seed in range(seed * SEED_STRIDE, (seed + 1) * SEED_STRIDE):
                kinds = {event.kind for event in drive_case(suite, split, case_seed).events}
                if not kinds.isdisjoint(RARE_EVENTS) or case_seed * 0.618034 % 1.0 < PLAIN_SHARE:
                    yield Job(str(out), suite, split, folder, episode, case_seed, tuple(cameras), crowd)
                    episode += 1

        shards = _render_until(make_jobs(), where, wanted, jobs, len(cameras), progress, folder)
        summary[folder] = _merge(where, shards, wanted, split)
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    return summary


def _check_settings(out: Path, settings: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(msgspec.to_builtins(settings), indent=1, sort_keys=True)
    path = out / "settings.json"
    if path.exists() and path.read_text() != text:
        raise ValueError(f"{path}: the folder holds a data set made with other settings; choose another folder")
    path.write_text(text)


def _render_until(
    source: Iterator[Job], where: Path, wanted: int, jobs: int, cameras: int, progress: Progress | None, folder: str
) -> list[dict[str, Any]]:
    """Shards of episodes 0, 1, ... up to the first that completes the number of ticks wanted."""
    done: dict[int, dict[str, Any]] = {}

    def ticks() -> int:
        """Ticks in the unbroken row of shards from the first episode on."""
        total = episode = 0
        while episode in done:
            total += len(done[episode]["ticks"])
            episode += 1
        return total

    def told() -> None:
        if progress is not None:
            progress(folder, min(wanted, sum(len(s["ticks"]) for s in done.values())) * cameras, wanted * cameras)

    if jobs == 1:
        for job in source:
            done[job.episode] = _load_or_render(job)
            told()
            if ticks() >= wanted:
                break
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, mp_context=context) as pool:
            running: dict[Future[dict[str, Any]], int] = {}
            while ticks() < wanted:
                while len(running) < jobs:
                    job = next(source)
                    running[pool.submit(_load_or_render, job)] = job.episode
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    done[running.pop(future)] = future.result()
                told()
            for future, episode in running.items():
                done[episode] = future.result()
    return [done[episode] for episode in sorted(done)]


_RENDERERS: dict[tuple[CameraModel, ...], tuple[Renderer, DriveWorlds]] = {}


def _load_or_render(job: Job) -> dict[str, Any]:
    """The shard of an episode, from disk or newly made."""
    path = Path(job.out) / job.folder / "shards" / f"{job.episode:05d}.json"
    if path.exists():
        loaded: dict[str, Any] = json.loads(path.read_text())
        return loaded
    if job.cameras not in _RENDERERS:
        cv2.setNumThreads(1)  # the jobs are the parallelism
        _RENDERERS[job.cameras] = (Renderer(list(job.cameras)), DriveWorlds(1))
    renderer, worlds = _RENDERERS[job.cameras]
    shard = render_episode(job, renderer, worlds)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(shard))
    part.replace(path)
    return shard


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
        if not cv2.imwrite(str(folder / name), images[camera.name], [cv2.IMWRITE_PNG_COMPRESSION, PNG_COMPRESSION]):
            raise OSError(f"{folder / name}: could not be written")
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


def _merge(where: Path, shards: list[dict[str, Any]], wanted: int, split: str) -> dict[str, Any]:
    """Write ``annotations.json`` of the first ``wanted`` ticks (later ones wait for a larger set), and count."""
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
            counts = per_class.setdefault(image["camera"], dict.fromkeys(CLASS_NAMES, 0))
            for label in labels:
                annotations.append({"id": len(annotations) + 1, "image_id": image["id"], **label})
                counts[CLASS_NAMES[label["category_id"] - 1]] += 1
    info = {"description": "visuomotor drive", "split": split, "renderer": RENDERER_NAME}
    coco = {"info": info, "images": images, "annotations": annotations, "categories": CATEGORIES}
    (where / "annotations.json").write_text(json.dumps(coco))
    return {"images": len(images), "annotations": len(annotations), "cameras": per_camera, "classes": per_class}
