"""Wavefront meshes (.obj) as arrays, and their reduction to what a small image can show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Wavefront:
    """Triangles of a file; every one has a material, and texture coordinates where the file gives them."""

    vertices: np.ndarray  # [V, 3]
    triangles: np.ndarray  # [T, 3] into vertices
    material: np.ndarray  # [T] index into materials
    materials: tuple[str, ...]
    uv: np.ndarray  # [T, 2] mean of the corners, NaN: none


def read_wavefront(path: Path) -> Wavefront:
    """Read the faces of a file, polygons cut into fans; raises ValueError when there are none."""
    vertices, corners_uv, faces, materials = [], [], [], [""]
    for line in path.read_text(errors="replace").splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "v":
            vertices.append(rest)
        elif kind == "vt":
            corners_uv.append(rest)
        elif kind == "usemtl":
            materials.append(rest.strip())
        elif kind == "f":
            corners = [item.split("/") for item in rest.split()]
            point = [int(item[0]) - 1 for item in corners]
            texture = [int(item[1]) - 1 if len(item) > 1 and item[1] else -1 for item in corners]
            for i in range(1, len(point) - 1):
                fan = (0, i, i + 1)
                faces.append((*(point[j] for j in fan), *(texture[j] for j in fan), len(materials) - 1))
    if not faces:
        raise ValueError(f"{path}: expected a mesh with faces, got none")
    table = np.array(faces, np.int64)
    found = np.array([row.split()[:2] for row in corners_uv] or [["nan", "nan"]], np.float64)
    uv = np.where((table[:, 3:6] >= 0)[..., None], found[table[:, 3:6]], np.nan).mean(axis=1)
    return Wavefront(
        vertices=np.array([row.split()[:3] for row in vertices], np.float64),
        triangles=table[:, :3],
        material=table[:, 6],
        materials=tuple(materials),
        uv=uv,
    )


def cluster(
    vertices: np.ndarray, triangles: np.ndarray, part: np.ndarray, cell_m: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Merge the vertices of each cube of side ``cell_m`` and drop what collapses (Rossignac and Borrel 1993).

    ``part`` [T] is the palette column of each triangle; columns don't merge. Returns vertices [V, 3], their normals
    [V, 3] averaged over the original surface, columns [V] and triangles [T, 3].
    """
    corner = vertices[triangles]  # [T, 3, 3]
    normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])  # as long as twice the area
    key = np.concatenate(
        [np.floor(corner / cell_m).astype(np.int64), np.repeat(part[:, None, None], 3, axis=1)], axis=2
    )
    _, owner = np.unique(key.reshape(-1, 4), axis=0, return_inverse=True)
    owner = owner.reshape(-1)
    count = int(owner.max()) + 1
    weight = np.repeat(np.linalg.norm(normal, axis=1), 3) + 1e-12
    share = np.bincount(owner, weight, count)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.stack([np.bincount(owner, weight * values[:, i], count) for i in range(3)], axis=1) / share[:, None]

    position = mean(corner.reshape(-1, 3))
    direction = mean(np.repeat(normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12), 3, axis=0))
    direction /= np.maximum(np.linalg.norm(direction, axis=1, keepdims=True), 1e-9)
    column = np.zeros(count, np.int64)
    column[owner] = np.repeat(part, 3)
    merged = owner.reshape(-1, 3)
    merged = merged[(merged[:, 0] != merged[:, 1]) & (merged[:, 1] != merged[:, 2]) & (merged[:, 2] != merged[:, 0])]
    _, first = np.unique(np.sort(merged, axis=1), axis=0, return_index=True)
    return position, direction, column, merged[np.sort(first)]
