"""The ETH/UCY pedestrian recordings as ``SceneSet``s, with the usual leave-one-scene-out protocol.

Files: tab-separated ``frame  pedestrian  x  y`` in metres, 0.4 s a step. Windows of 8 + 12 frames, stride 1; a
pedestrian counts when it is in all 20, a window counts when at least ``min_complete`` pedestrians do (2 in the
Social-GAN family of loaders, 1 in Trajectron++'s). Pedestrians who are there now but not throughout are neighbours.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from visuomotor.messages.schema import PEDESTRIAN
from visuomotor.perception.train.forecaster_data import SceneSet

OBSERVED, PREDICTED = 8, 12
STEP_S = 0.4
SCENES: dict[str, tuple[str, ...]] = {
    "eth": ("biwi_eth",),
    "hotel": ("biwi_hotel",),
    "univ": ("students001", "students003"),
    "zara1": ("crowds_zara01",),
    "zara2": ("crowds_zara02",),
}
RECORDINGS = (
    "biwi_eth", "biwi_hotel", "crowds_zara01", "crowds_zara02", "crowds_zara03", "students001", "students003",
    "uni_examples",
)  # fmt: skip


def files_of(root: Path, scene: str | None, part: str) -> list[Path]:
    """Files of one split: ``part`` is train, val or test; training parts leave ``scene`` out (None: leave none out).

    Raises ValueError on an unknown scene or a missing folder.
    """
    if scene is not None and scene not in SCENES:
        raise ValueError(f"scene: expected one of {', '.join(SCENES)}, got {scene!r}")
    if not (root / "raw").is_dir():
        raise ValueError(f"{root}: expected a folder with raw/train, raw/val and raw/all_data")
    if part == "test":
        return [root / "raw" / "all_data" / f"{name}.txt" for name in SCENES[scene or ""]]
    held_out = SCENES[scene] if scene else ()
    return [root / "raw" / part / f"{name}_{part}.txt" for name in RECORDINGS if name not in held_out]


def load_windows(path: Path, min_complete: int = 2) -> SceneSet:
    """All windows of one recording; every window is a scene. Raises ValueError that names a file it cannot read."""
    try:
        rows = np.loadtxt(path, dtype=np.float64, ndmin=2)[:, :4]
    except (OSError, ValueError, IndexError) as error:
        raise ValueError(f"{path}: expected rows of frame, pedestrian, x, y ({error})") from error
    frames, frame_index = np.unique(rows[:, 0], return_inverse=True)
    _, person = np.unique(rows[:, 1], return_inverse=True)
    position = np.full((person.max() + 1, len(frames), 2), np.nan)
    position[person, frame_index] = np.round(rows[:, 2:], 4)
    seen = np.isfinite(position[..., 0])
    length = OBSERVED + PREDICTED
    parts: list[tuple[np.ndarray, ...]] = []
    for first in range(len(frames) - length + 1):
        window = seen[:, first : first + length]
        complete = np.asarray(window.all(axis=1))
        if complete.sum() < min_complete:
            continue
        here = np.flatnonzero(window[:, OBSERVED - 1])
        parts.append((here, np.full(len(here), first), complete[here]))
    if not parts:
        raise ValueError(f"{path}: no window with {min_complete} pedestrians in all {length} frames")
    who = np.concatenate([p[0] for p in parts])
    start = np.concatenate([p[1] for p in parts])
    index = start[:, None] + np.arange(length)
    values = np.nan_to_num(position[who[:, None], index]).astype(np.float32)
    present = seen[who[:, None], index]
    _, scene = np.unique(start, return_inverse=True)
    count = len(who)
    return SceneSet(
        history_m=values[:, :OBSERVED],
        present=present[:, :OBSERVED],
        class_id=np.full(count, PEDESTRIAN, np.int64),
        future_m=values[:, OBSERVED:],
        future_present=present[:, OBSERVED:],
        manoeuvre=np.full(count, -1, np.int64),
        scene=scene.astype(np.int64),
        group=(start // length).astype(np.int64),  # overlapping windows are resampled together
        scored=np.concatenate([p[2] for p in parts]),
    )


def load_split(root: Path, scene: str | None, part: str, min_complete: int = 2) -> SceneSet:
    """All windows of one split, see ``files_of``."""
    return SceneSet.concatenate([load_windows(path, min_complete) for path in files_of(root, scene, part)])
