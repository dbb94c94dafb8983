"""Camera images of a world: bodies by PyBullet's TinyRenderer, ground and sky by ``sim.backdrop``.

The renderer keeps a client of its own with visual shapes only, so that drawing never touches the physics. Bodies are
drawn as a pinhole image slightly wider than the sensor, bent by the lens with one lookup table per camera, and laid
over the backdrop; exposure, vignette, blur and noise follow. Everything is a pure function of the case and the state.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import pybullet

from visuomotor.messages.camera import CameraModel
from visuomotor.messages.schema import CONE, PEDESTRIAN
from visuomotor.sim.backdrop import Backdrop
from visuomotor.sim.clutter3d import clutter
from visuomotor.sim.lens import Lens
from visuomotor.sim.looks import Looks, agent_look, clutter_palette, looks
from visuomotor.sim.mesh import Limb, Part
from visuomotor.sim.models3d import agent_model
from visuomotor.sim.road import Road
from visuomotor.sim.roadside import Clutter, place_clutter

RENDERER_NAME = "pybullet-tinyrenderer"
VIEW_RANGE_M = 120.0  # bodies farther than this from the ego car are not drawn
CONE_RANGE_M = 70.0
STRIDE_M = 1.5  # distance walked in one cycle of the legs
CELL = 4  # texels a palette cell
BACKGROUND = -1  # in masks: no agent


class WorldState(Protocol):
    """What the renderer reads of ``sim.drive.DriveWorlds``: arrays over B worlds and N agents, map frame."""

    tick: np.ndarray
    ego_pose: np.ndarray
    ego_roll_rad: np.ndarray
    ego_pitch_rad: np.ndarray
    agent_present: np.ndarray
    agent_id: np.ndarray
    agent_class: np.ndarray
    agent_position_m: np.ndarray
    agent_velocity_mps: np.ndarray
    agent_yaw_rad: np.ndarray
    agent_size_m: np.ndarray


class Scene(Protocol):
    """What the renderer reads of ``sim.scenario.DriveCase``."""

    @property
    def split(self) -> str:
        """Name of the split."""

    @property
    def looks_seed(self) -> int:
        """Seed of the looks."""


@dataclass
class _Body:
    body: int
    limbs: list[Limb]
    class_id: int
    size_m: tuple[float, float, float]


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


class Renderer:
    """Draws the cameras of one world. ``reset`` for each new episode, then ``draw`` at each tick."""

    def __init__(self, cameras: list[CameraModel]) -> None:
        names = [camera.name for camera in cameras]
        if len(set(names)) != len(names):
            raise ValueError(f"cameras: expected different names, got {names}")
        self.cameras = list(cameras)
        self._lenses = {camera.name: Lens(camera) for camera in cameras}
        self._backdrop = Backdrop(self.cameras)
        self._client = pybullet.connect(pybullet.DIRECT)
        self._agents: dict[int, _Body] = {}
        self._clutter: list[Clutter] = []
        self._look: Looks | None = None
        self._palettes = 0
        self._noise_bank = np.random.default_rng(11).standard_normal((320, 512, 3)).astype(np.float32)
        self._folder = tempfile.TemporaryDirectory(prefix="visuomotor-palette-")

    def close(self) -> None:
        """Disconnect the client."""
        if self._client >= 0:
            pybullet.disconnect(physicsClientId=self._client)
            self._client = -1
            self._folder.cleanup()

    @property
    def look(self) -> Looks:
        """The appearance of the current scene; RuntimeError before the first reset."""
        if self._look is None:
            raise RuntimeError("Renderer.reset has not been called")
        return self._look

    def reset(self, case: Scene, road: Road) -> None:
        """Build the scene of an episode from its road and its seed of looks."""
        self._look = looks(case.split, case.looks_seed)
        pybullet.resetSimulation(physicsClientId=self._client)
        self._agents.clear()
        self._textures: dict[int, int] = {}
        self._backdrop.reset(road, self._look)
        self._clutter = place_clutter(road, self._look)
        table = np.arange(256, dtype=np.float64)[:, None] / 255
        curve = np.clip(table * self._look.exposure * np.array(self._look.tint_bgr), 0, 1) ** self._look.gamma
        self._tone = np.round(255 * curve).astype(np.uint8)[:, None, :]
        self._noise = np.round(self._noise_bank * self._look.noise).astype(np.int16)
        self._vignette = {
            name: cv2.merge(
                [np.round(255 * (1 - self._look.vignette * lens.radius2 / 1.4)).clip(0, 255).astype(np.uint8)] * 3
            )
            for name, lens in self._lenses.items()
        }

    # ------------------------------------------------------------------------------------------------------- drawing
    def draw(self, worlds: WorldState, index: int = 0, *, timings: Any = None) -> dict[str, np.ndarray]:
        """Images uint8 [H, W, 3] BGR by camera name, of world ``index`` as it stands.

        ``timings``: a callable that takes the name of a camera when its image is done.
        """
        self.pose(worlds, index)
        images = {}
        for camera in self.cameras:
            images[camera.name] = self.draw_camera(worlds, index, camera.name)[0]
            if timings is not None:
                timings(camera.name)
        return images

    def draw_labelled(self, worlds: WorldState, index: int = 0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Images as from ``draw``, and by camera the agent id of every pixel, int32 [H, W], -1 where there is none."""
        self.pose(worlds, index)
        images, masks = {}, {}
        for camera in self.cameras:
            images[camera.name], bodies = self.draw_camera(worlds, index, camera.name)
            masks[camera.name] = self._agent_mask(bodies, self._lenses[camera.name])
        return images, masks

    def draw_camera(self, worlds: WorldState, index: int, name: str) -> tuple[np.ndarray, np.ndarray]:
        """One camera's image, and the body id of every pixel of its pinhole image; ``pose`` comes first."""
        lens, look = self._lenses[name], self.look
        ego_pose = worlds.ego_pose[index]
        roll, pitch = float(worlds.ego_roll_rad[index]), float(worlds.ego_pitch_rad[index])
        image = self._backdrop.draw(name, ego_pose, roll, pitch, self._shadows)
        sun = self._sun
        _, _, rgba, _, bodies = pybullet.getCameraImage(
            lens.width,
            lens.height,
            lens.view(ego_pose, roll, pitch),
            lens.projection,
            lightDirection=(10 * sun).tolist(),
            lightColor=[look.light_bgr[2], look.light_bgr[1], look.light_bgr[0]],
            lightAmbientCoeff=look.ambient,
            lightDiffuseCoeff=look.diffuse,
            lightSpecularCoeff=look.specular,
            shadow=0,
            renderer=pybullet.ER_TINY_RENDERER,
            physicsClientId=self._client,
        )
        bodies = np.asarray(bodies, np.int32).reshape(lens.height, lens.width)
        self._lay_over(image, np.asarray(rgba, np.uint8).reshape(lens.height, lens.width, 4), bodies, lens)
        return self._expose(image, name, int(worlds.tick[index])), bodies

    @staticmethod
    def _lay_over(image: np.ndarray, rgba: np.ndarray, bodies: np.ndarray, lens: Lens) -> None:
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

    def _expose(self, image: np.ndarray, name: str, tick: int) -> np.ndarray:
        """What the lens and the sensor do to the light."""
        look = self.look
        if look.vignette > 0.02:
            image = cv2.multiply(image, self._vignette[name], scale=1 / 255)
        image = cv2.LUT(image, self._tone)
        if look.blur_px > 0.2:
            image = cv2.GaussianBlur(image, (3, 3), look.blur_px)
        height, width = image.shape[:2]
        salt = list(self._lenses).index(name)
        row = (tick * 37 + salt * 11) % max(1, self._noise.shape[0] - height + 1)
        column = (tick * 53 + salt * 29) % max(1, self._noise.shape[1] - width + 1)
        noise = self._noise[row : row + height, column : column + width]
        if noise.shape != image.shape:  # a sensor larger than the bank
            noise = np.resize(self._noise, image.shape)
        return cv2.add(image, noise, dtype=cv2.CV_8U)

    def _agent_mask(self, bodies: np.ndarray, lens: Lens) -> np.ndarray:
        table = np.full(int(bodies.max(initial=0)) + 2, BACKGROUND, np.int32)
        for agent_id, agent in self._agents.items():
            if agent.body < len(table) - 1:
                table[agent.body] = agent_id
        agents = table[bodies]  # body -1 reads the last entry
        rows, columns = np.round(lens.map_y).astype(np.int32), np.round(lens.map_x).astype(np.int32)
        return agents[rows, columns]

    # --------------------------------------------------------------------------------------------------------- posing
    def pose(self, worlds: WorldState, index: int) -> None:
        """Move every body to where the state says; make the bodies of new agents, remove those of agents gone."""
        look = self.look
        ego = worlds.ego_pose[index]
        away = np.hypot(*(worlds.agent_position_m[index] - ego[:2]).T)
        reach = np.where(worlds.agent_class[index] == CONE, CONE_RANGE_M, VIEW_RANGE_M)
        slots = np.flatnonzero(worlds.agent_present[index] & (away < reach))
        wanted = {int(worlds.agent_id[index, slot]): int(slot) for slot in slots}
        for agent_id in [key for key in self._agents if key not in wanted]:
            pybullet.removeBody(self._agents.pop(agent_id).body, physicsClientId=self._client)
        self._sun = np.array(
            [
                np.cos(look.sun_elevation_rad) * np.cos(look.sun_azimuth_rad),
                np.cos(look.sun_elevation_rad) * np.sin(look.sun_azimuth_rad),
                np.sin(look.sun_elevation_rad),
            ]
        )
        self._shadows: list[np.ndarray] = []
        for agent_id, slot in wanted.items():
            class_id = int(worlds.agent_class[index, slot])
            length, width, height = (float(v) for v in worlds.agent_size_m[index, slot])
            agent = self._agents.get(agent_id)
            if agent is not None and (agent.class_id, agent.size_m) != (class_id, (length, width, height)):
                pybullet.removeBody(agent.body, physicsClientId=self._client)  # the id was given to somebody else
                agent = None
            if agent is None:
                agent = self._agents[agent_id] = self._make_agent(agent_id, class_id, (length, width, height))
            position, yaw = worlds.agent_position_m[index, slot], float(worlds.agent_yaw_rad[index, slot])
            self._move(agent.body, position, yaw)
            if class_id == PEDESTRIAN:
                swing = walking_swing(position, worlds.agent_velocity_mps[index, slot], yaw)
                for joint, limb in enumerate(agent.limbs[1:]):
                    pybullet.resetJointState(agent.body, joint, swing * limb.swing_rad, physicsClientId=self._client)
            if away[slot] < 60.0:
                self._shadows.append(_shadow(position, yaw, agent.size_m, self._sun, ego))
        for item in self._clutter:
            near = float(np.hypot(*(item.position_m - ego[:2]))) < VIEW_RANGE_M - 15.0
            if near and item.body < 0:
                item.body = self._make_body([Limb(clutter(item.kind, item.scale))], item.row)
                self._move(item.body, item.position_m, item.yaw_rad)
            elif not near and item.body >= 0:
                pybullet.removeBody(item.body, physicsClientId=self._client)
                item.body = -1

    def agent_limbs(self, agent_id: int) -> list[Limb] | None:
        """The model of an agent that is being drawn, None for any other."""
        agent = self._agents.get(agent_id)
        return None if agent is None else agent.limbs

    def _move(self, body: int, position_m: np.ndarray, yaw_rad: float) -> None:
        pybullet.resetBasePositionAndOrientation(
            body,
            [float(position_m[0]), float(position_m[1]), 0.0],
            [0.0, 0.0, float(np.sin(yaw_rad / 2)), float(np.cos(yaw_rad / 2))],
            physicsClientId=self._client,
        )

    def _make_agent(self, agent_id: int, class_id: int, size_m: tuple[float, float, float]) -> _Body:
        style, colours = agent_look(self.look.split, self.look.seed, agent_id, class_id)
        limbs = agent_model(class_id, size_m, style)
        return _Body(self._make_body(limbs, colours), limbs, class_id, size_m)

    def _make_body(self, limbs: list[Limb], colours: np.ndarray | int) -> int:
        """One multibody whose links are the limbs; ``colours`` is a palette, or the row of a clutter palette."""
        if not isinstance(colours, int):
            texture = self._load_palette(colours)
        else:
            if colours not in self._textures:
                self._textures[colours] = self._load_palette(clutter_palette(self.look.split, self.look.seed, colours))
            texture = self._textures[colours]
        shapes = []
        for limb in limbs:
            vertices, normals, parts, triangles = limb.mesh.arrays()
            uvs = np.stack([(parts + 0.5) / len(Part), np.full(len(parts), 0.5)], axis=1)
            local = vertices - (0.0, 0.0, limb.hinge_z_m)
            lists = [rows.lend(values) for rows, values in zip(_ROWS, (local, normals, uvs), strict=True)]
            indices = triangles.ravel().tolist()
            shapes.append(
                pybullet.createVisualShape(
                    pybullet.GEOM_MESH,
                    vertices=lists[0],
                    normals=lists[1],
                    uvs=lists[2],
                    indices=indices,
                    rgbaColor=[1, 1, 1, 1],
                    physicsClientId=self._client,
                )
            )
            for given in (*lists, indices):
                given.clear()
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
            physicsClientId=self._client,
        )
        for link in range(-1, links):
            pybullet.changeVisualShape(body, link, textureUniqueId=texture, physicsClientId=self._client)
        return int(body)

    def _load_palette(self, colours: np.ndarray) -> int:
        image = np.repeat(np.repeat(colours[None], CELL, axis=0), CELL, axis=1)
        self._palettes += 1  # PyBullet keeps textures by file name: a name never comes twice
        path = Path(self._folder.name) / f"palette{self._palettes}.png"
        cv2.imwrite(str(path), image)
        texture = int(pybullet.loadTexture(str(path), physicsClientId=self._client))
        path.unlink()
        return texture


def walking_swing(position_m: np.ndarray, velocity_mps: np.ndarray, yaw_rad: float) -> float:
    """Phase of the legs, -1..1, from where a walker is: no state, so any tick can be drawn first."""
    speed = float(np.hypot(*velocity_mps))
    walked = float(position_m[0] * np.cos(yaw_rad) + position_m[1] * np.sin(yaw_rad))
    return min(1.0, speed) * float(np.sin(2 * np.pi * walked / STRIDE_M))


def _shadow(
    position_m: np.ndarray, yaw_rad: float, size_m: tuple[float, float, float], sun: np.ndarray, ego: np.ndarray
) -> np.ndarray:
    """Hull [n, 2] in ``ego_`` of a body's shadow on the ground: its footprint and its roof, moved away from the sun."""
    length, width, height = size_m
    cos, sin = np.cos(yaw_rad), np.sin(yaw_rad)
    corners = np.array([(1, 1), (1, -1), (-1, -1), (-1, 1)]) * (length / 2, width / 2)
    foot = corners @ np.array([[cos, sin], [-sin, cos]]) + position_m
    roof = (foot - position_m) * 0.8 + position_m - 0.9 * height * sun[:2] / sun[2]
    hull = cv2.convexHull(np.concatenate([foot, roof]).astype(np.float32)).reshape(-1, 2) - ego[:2]
    c, s = np.cos(ego[2]), np.sin(ego[2])
    return hull @ np.array([[c, -s], [s, c]])
