"""Labels of a rendered frame: what a detector should find, in COCO form.

Boxes come from the segmentation mask, so they hold the visible part. ``visible_share`` is the visible pixels over the
pixels the object would cover with nothing before it and no image border: its silhouette, drawn from the same triangles
onto an unbounded canvas. The part of an object closer than ``NEAR_M`` in front of the camera is in neither.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from visuomotor.messages.camera import CameraModel, rotation
from visuomotor.messages.schema import CLASS_NAMES, PEDESTRIAN
from visuomotor.sim.mesh import Limb
from visuomotor.sim.renderer import BACKGROUND, Renderer, WorldState, walking_swing

NEAR_M = 0.3
CANVAS_PX = 160  # the longer side of the canvas on which silhouettes are measured
LENS_RADIUS = 1.6  # beyond this tangent of the view angle the lens model would fold back

CATEGORIES: list[dict[str, Any]] = [{"id": i + 1, "name": name} for i, name in enumerate(CLASS_NAMES)]


def annotate(
    renderer: Renderer, worlds: WorldState, index: int, camera: CameraModel, mask: np.ndarray
) -> list[dict[str, Any]]:
    """Annotations of every agent with at least one visible pixel in ``mask`` (agent id per pixel, int32 [H, W]).

    Keys: category_id, bbox (x, y, w, h px), area (visible px), iscrowd, ground_px (image of the footprint's centre, may
    lie outside; as in ``CameraModel`` the centre of the first pixel is 0, 0), ego_position_m, distance_m,
    heading_rad (in ``ego_``), size_m, visible_share, agent_id.
    """
    seen = mask[mask != BACKGROUND]
    if seen.size == 0:
        return []
    ids = np.unique(seen)
    slots = {int(worlds.agent_id[index, slot]): int(slot) for slot in np.flatnonzero(worlds.agent_present[index])}
    ego = worlds.ego_pose[index]
    roll, pitch = float(worlds.ego_roll_rad[index]), float(worlds.ego_pitch_rad[index])
    cos, sin = np.cos(ego[2]), np.sin(ego[2])
    out: list[dict[str, Any]] = []
    for agent_id in ids.tolist():
        slot = slots[agent_id]
        pixels = mask == agent_id
        visible = int(np.count_nonzero(pixels))
        delta = worlds.agent_position_m[index, slot] - ego[:2]
        position = np.array([cos * delta[0] + sin * delta[1], -sin * delta[0] + cos * delta[1]])
        heading = float(worlds.agent_yaw_rad[index, slot] - ego[2])
        heading = (heading + np.pi) % (2 * np.pi) - np.pi
        ground_px, depth = camera.project(np.array([[*position, 0.0]]), roll, pitch)
        class_id = int(worlds.agent_class[index, slot])
        limbs = renderer.agent_limbs(agent_id)
        swing = 0.0
        if class_id == PEDESTRIAN:
            swing = walking_swing(
                worlds.agent_position_m[index, slot],
                worlds.agent_velocity_mps[index, slot],
                float(worlds.agent_yaw_rad[index, slot]),
            )
        whole = silhouette_px(camera, limbs or [], position, heading, roll, pitch, swing=swing)
        out.append(
            {
                "category_id": class_id + 1,
                "bbox": bounding_box(pixels),
                "area": float(visible),
                "iscrowd": 0,
                "ground_px": [round(float(v), 3) for v in ground_px[0]] if depth[0] > NEAR_M else [-1e4, -1e4],
                "ego_position_m": [round(float(v), 4) for v in position],
                "distance_m": round(float(np.hypot(*position)), 4),
                "heading_rad": round(heading, 5),
                "size_m": [round(float(v), 4) for v in worlds.agent_size_m[index, slot]],
                "visible_share": round(min(1.0, visible / max(whole, float(visible), 1.0)), 4),
                "agent_id": agent_id,
            }
        )
    return out


def bounding_box(pixels: np.ndarray) -> list[float]:
    """COCO's x, y, width, height of the pixels that are set, bool [H, W] with at least one."""
    columns, rows = np.flatnonzero(pixels.any(axis=0)), np.flatnonzero(pixels.any(axis=1))
    width, height = columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1
    return [float(columns[0]), float(rows[0]), float(width), float(height)]


def silhouette_px(
    camera: CameraModel,
    limbs: list[Limb],
    ego_position_m: np.ndarray,
    heading_rad: float,
    roll_rad: float,
    pitch_rad: float,
    *,
    swing: float = 0.0,
) -> float:
    """Pixels that a model at a place in ``ego_`` would cover on an unbounded sensor."""
    triangles = []
    for limb in limbs:
        vertices, _, _, faces = limb.mesh.arrays()
        if limb.swing_rad:
            turn = rotation(0.0, swing * limb.swing_rad, 0.0)
            hinge = np.array([0.0, 0.0, limb.hinge_z_m])
            vertices = (vertices - hinge) @ turn.T + hinge
        triangles.append(vertices[faces])
    if not triangles:
        return 0.0
    points = np.concatenate(triangles) @ rotation(0.0, 0.0, heading_rad).T
    points[..., :2] += ego_position_m
    return covered_px(camera, points, roll_rad, pitch_rad)


def covered_px(camera: CameraModel, triangles_m: np.ndarray, roll_rad: float = 0.0, pitch_rad: float = 0.0) -> float:
    """Pixels that triangles [T, 3, 3] in ``ego_`` would cover on an unbounded sensor."""
    body = triangles_m.reshape(-1, 3) @ rotation(roll_rad, pitch_rad, 0.0)
    local = (body - camera.ego_position_m) @ camera.ego_from_camera
    front = (local[:, 2] > NEAR_M).reshape(-1, 3).all(axis=1)
    if not front.any():
        return 0.0
    flat = local[:, :2] / np.maximum(local[:, 2:], NEAR_M)
    radius = np.hypot(flat[:, 0], flat[:, 1])
    share = np.minimum(1.0, LENS_RADIUS / np.maximum(radius, 1e-9))
    centre = np.array([camera.cx, camera.cy])
    px = centre + (camera.distort(flat * share[:, None]) - centre) / share[:, None]
    px = px.reshape(-1, 3, 2)[front]
    low, high = px.min(axis=(0, 1)), px.max(axis=(0, 1))
    scale = CANVAS_PX / max(float((high - low).max()), 1e-3)
    size = np.ceil((high - low) * scale).astype(int) + 3
    canvas = np.zeros((size[1], size[0]), np.uint8)
    fixed = np.round(((px - low) * scale + 0.5) * 16).astype(np.int32)
    for triangle in fixed:
        cv2.fillConvexPoly(canvas, triangle, 1, cv2.LINE_8, 4)
    # OpenCV also fills the pixels its outline touches: half a pixel all around
    outline, _ = cv2.findContours(canvas, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    rim = 0.5 * sum(len(contour) for contour in outline)
    return max(float(np.count_nonzero(canvas)) - rim, 1.0) / scale**2
