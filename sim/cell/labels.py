"""Labels of a rendered cell: what a detector should find of the belt, in COCO form as in ``sim.labels``.

Every part of a class is labelled, on the belt, in a bin or between the fingers; distractors are background.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from visuomotor.messages.camera import CameraModel
from visuomotor.messages.tasks import TASKS
from visuomotor.sim.cell.posture import turn_from_quaternion
from visuomotor.sim.cell.renderer import BACKGROUND, CellRenderer, CellState
from visuomotor.sim.labels import bounding_box, covered_px

_TASK = TASKS["pick"]
CATEGORIES: list[dict[str, Any]] = [
    {"id": i + 1, "name": name, "symmetry": turns}
    for i, (name, turns) in enumerate(zip(_TASK.class_names, _TASK.symmetry, strict=True))
]


def annotate(
    renderer: CellRenderer, worlds: CellState, index: int, camera: CameraModel, mask: np.ndarray
) -> list[dict[str, Any]]:
    """Annotations of every part with at least one visible pixel in ``mask`` (part id per pixel, int32 [H, W]).

    Keys: category_id, bbox (x, y, w, h px), area (visible px), iscrowd, ground_px (image of the point on the belt's
    plane under the part's middle), ego_position_m (that point in ``base_``), distance_m (of it from the arm's foot),
    height_m (of the part's underside above the belt), heading_rad (yaw of the longer side in ``base_``, of which
    a class's symmetry leaves only a part to be told), size_m, visible_share, agent_id. ``camera`` stands
    where it was when ``mask`` was drawn.
    """
    slots = {int(worlds.part_id[index, slot]): int(slot) for slot in np.flatnonzero(worlds.part_present[index])}
    out: list[dict[str, Any]] = []
    for part_id in np.unique(mask[mask != BACKGROUND]).tolist():
        slot = slots[part_id]
        pixels = mask == part_id
        visible = int(np.count_nonzero(pixels))
        position = worlds.part_position_m[index, slot]
        ground_px, _ = camera.project(np.array([[position[0], position[1], 0.0]]))
        mesh = renderer.part_mesh(part_id)
        assert mesh is not None  # it is in the mask
        vertices, _, _, triangles = mesh.arrays()
        placed = vertices @ turn_from_quaternion(worlds.part_quaternion[index, slot]).T + position
        whole = covered_px(camera, placed[triangles])
        heading = (float(worlds.part_yaw_rad[index, slot]) + np.pi) % (2 * np.pi) - np.pi
        out.append(
            {
                "category_id": int(worlds.part_class[index, slot]) + 1,
                "bbox": bounding_box(pixels),
                "area": float(visible),
                "iscrowd": 0,
                "ground_px": [round(float(v), 3) for v in ground_px[0]],
                "ego_position_m": [round(float(v), 4) for v in position[:2]],
                "distance_m": round(float(np.hypot(*position[:2])), 4),
                "height_m": round(float(placed[:, 2].min()), 4),
                "heading_rad": round(heading, 5),
                "size_m": [round(float(v), 4) for v in worlds.part_size_m[index, slot]],
                "visible_share": round(min(1.0, visible / max(whole, float(visible), 1.0)), 4),
                "agent_id": part_id,
            }
        )
    return out
