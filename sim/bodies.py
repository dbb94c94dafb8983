"""Bodies that are only looked at: a PyBullet client of its own, with meshes coloured by palettes, and TinyRenderer."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pybullet

from visuomotor.sim.lens import Lens
from visuomotor.sim.mesh import Limb, Mesh, Part

RENDERER_NAME = "pybullet-tinyrenderer"
CELL = 4  # texels a palette cell


@dataclass(frozen=True, kw_only=True)
class Light:
    """The one lamp or sun of a scene: unit vector towards it and its strengths."""

    direction: np.ndarray  # [3]
    colour_bgr: tuple[float, float, float]  # 1 is neutral
    ambient: float
    diffuse: float
    specular: float


class _Rows:
    """Lists of numbers lent to PyBullet, which never gives back its references to the rows of a mesh (0.3 MB a car).

    The same row objects serve every mesh, so nothing piles up.
    """

    def __init__(self) -> None:
        self._rows: list[list[float]] = []

    def lend(self, values: np.ndarray) -> list[list[float]]:
        """``values`` [n, m] as a list of rows, good until the next call; to be cleared after use."""
        while len(self._rows) < len(values):
            self._rows.append([])
        lent = self._rows[: len(values)]
        for row, numbers in zip(lent, values.tolist(), strict=True):
            row[:] = numbers
        return lent


_ROWS = (_Rows(), _Rows(), _Rows())  # vertices, normals, texture coordinates


class BodyClient:
    """Makes, moves and draws bodies; knows no physics and nothing of what the bodies stand for."""

    def __init__(self) -> None:
        self.client = pybullet.connect(pybullet.DIRECT)
        self._palettes = 0
        self._folder = tempfile.TemporaryDirectory(prefix="visuomotor-palette-")

    def close(self) -> None:
        """Disconnect the client."""
        if self.client >= 0:
            pybullet.disconnect(physicsClientId=self.client)
            self.client = -1
            self._folder.cleanup()

    def clear(self) -> None:
        """Remove every body."""
        pybullet.resetSimulation(physicsClientId=self.client)

    def remove(self, body: int) -> None:
        """Remove one body."""
        pybullet.removeBody(body, physicsClientId=self.client)

    def move(self, body: int, position_m: tuple[float, float, float], orientation: tuple[float, ...]) -> None:
        """Put a body's origin somewhere; ``orientation`` is a quaternion x, y, z, w."""
        pybullet.resetBasePositionAndOrientation(body, position_m, orientation, physicsClientId=self.client)

    def swing(self, body: int, joint: int, angle_rad: float) -> None:
        """Turn one limb about its hinge."""
        pybullet.resetJointState(body, joint, angle_rad, physicsClientId=self.client)

    def load_palette(self, colours: np.ndarray) -> int:
        """Texture of a palette, uint8 [16, 3] BGR with one row per ``Part``."""
        image = np.repeat(np.repeat(colours[None], CELL, axis=0), CELL, axis=1)
        self._palettes += 1  # PyBullet keeps textures by file name: a name never comes twice
        path = Path(self._folder.name) / f"palette{self._palettes}.png"
        cv2.imwrite(str(path), image)
        texture = int(pybullet.loadTexture(str(path), physicsClientId=self.client))
        path.unlink()
        return texture

    def make(self, limbs: list[Limb], texture: int) -> int:
        """One multibody whose links are the limbs."""
        shapes = [self._make_shape(limb.mesh, limb.hinge_z_m) for limb in limbs]
        links = len(limbs) - 1
        body = pybullet.createMultiBody(
            0.0,
            -1,
            shapes[0],
            linkMasses=[1.0] * links,
            linkCollisionShapeIndices=[-1] * links,
            linkVisualShapeIndices=shapes[1:],
            linkPositions=[[0.0, 0.0, limb.hinge_z_m] for limb in limbs[1:]],
            linkOrientations=[[0, 0, 0, 1]] * links,
            linkInertialFramePositions=[[0, 0, 0]] * links,
            linkInertialFrameOrientations=[[0, 0, 0, 1]] * links,
            linkParentIndices=[0] * links,
            linkJointTypes=[pybullet.JOINT_REVOLUTE] * links,
            linkJointAxis=[[0, 1, 0]] * links,
            physicsClientId=self.client,
        )
        for link in range(-1, links):
            pybullet.changeVisualShape(body, link, textureUniqueId=texture, physicsClientId=self.client)
        return int(body)

    def _make_shape(self, mesh: Mesh, hinge_z_m: float) -> int:
        vertices, normals, parts, triangles = mesh.arrays()
        uvs = np.stack([(parts + 0.5) / len(Part), np.full(len(parts), 0.5)], axis=1)
        local = vertices - (0.0, 0.0, hinge_z_m)
        lists = [rows.lend(values) for rows, values in zip(_ROWS, (local, normals, uvs), strict=True)]
        indices = triangles.ravel().tolist()
        shape = pybullet.createVisualShape(
            pybullet.GEOM_MESH,
            vertices=lists[0],
            normals=lists[1],
            uvs=lists[2],
            indices=indices,
            rgbaColor=[1, 1, 1, 1],
            physicsClientId=self.client,
        )
        for given in (*lists, indices):
            given.clear()
        return int(shape)

    def draw(self, lens: Lens, view: list[float], light: Light) -> tuple[np.ndarray, np.ndarray]:
        """The pinhole image uint8 [h, w, 4] RGBA and the body id of each of its pixels, int32 [h, w], -1: none."""
        blue, green, red = light.colour_bgr
        _, _, rgba, _, bodies = pybullet.getCameraImage(
            lens.width,
            lens.height,
            view,
            lens.projection,
            lightDirection=(10 * light.direction).tolist(),
            lightColor=[red, green, blue],
            lightAmbientCoeff=light.ambient,
            lightDiffuseCoeff=light.diffuse,
            lightSpecularCoeff=light.specular,
            shadow=0,
            renderer=pybullet.ER_TINY_RENDERER,
            physicsClientId=self.client,
        )
        shape = (lens.height, lens.width)
        return np.asarray(rgba, np.uint8).reshape(*shape, 4), np.asarray(bodies, np.int32).reshape(shape)


def lay_over(image: np.ndarray, rgba: np.ndarray, bodies: np.ndarray, lens: Lens) -> None:
    """Blend the bodies over the backdrop, in place; their edges are softened by the lens lookup."""
    solid = bodies >= 0
    if not solid.any():
        return
    layer = np.zeros_like(rgba)
    cv2.copyTo(rgba, solid.view(np.uint8), layer)
    layer[..., 3] = solid.view(np.uint8) * np.uint8(255)
    bent = cv2.remap(layer, lens.map_x, lens.map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    keep = 255 - bent[..., 3]
    cv2.multiply(image, cv2.merge([keep, keep, keep]), dst=image, scale=1 / 255)
    cv2.add(image, cv2.cvtColor(bent, cv2.COLOR_RGBA2BGR), dst=image)


def name_pixels(bodies: np.ndarray, lens: Lens, body_of: dict[int, int], missing: int) -> np.ndarray:
    """The owner of every pixel of the sensor, int32 [H, W]: ``body_of`` maps owner to body, others are ``missing``."""
    table = np.full(int(bodies.max(initial=0)) + 2, missing, np.int32)
    for owner, body in body_of.items():
        if body < len(table) - 1:
            table[body] = owner
    owners = table[bodies]  # body -1 reads the last entry
    rows, columns = np.round(lens.map_y).astype(np.int32), np.round(lens.map_x).astype(np.int32)
    named: np.ndarray = owners[rows, columns]
    return named
