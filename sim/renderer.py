"""Camera images of a world: bodies by PyBullet's TinyRenderer, ground and sky by ``sim.backdrop``.

The renderer keeps a client of its own with visual shapes only, so that drawing never touches the physics. Bodies are
drawn as a pinhole image slightly wider than the sensor, bent by the lens with one lookup table per camera, and laid
over the backdrop; exposure, vignette, blur and noise follow. Everything is a pure function of the case and the state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

from visuomotor.messages.camera import CameraModel
from visuomotor.messages.schema import CONE, PEDESTRIAN
from visuomotor.sim.backdrop import Backdrop
from visuomotor.sim.bodies import BodyClient, Light, lay_over, name_pixels
from visuomotor.sim.clutter3d import clutter
from visuomotor.sim.exposure import Exposure
from visuomotor.sim.lens import Lens
from visuomotor.sim.looks import Looks, agent_look, clutter_palette, looks
from visuomotor.sim.mesh import Limb
from visuomotor.sim.models3d import agent_model
from visuomotor.sim.road import Road
from visuomotor.sim.roadside import Clutter, place_clutter

VIEW_RANGE_M = 120.0  # bodies farther than this from the ego car are not drawn
CONE_RANGE_M = 70.0
STRIDE_M = 1.5  # distance walked in one cycle of the legs
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


class Renderer:
    """Draws the cameras of one world. ``reset`` for each new episode, then ``draw`` at each tick."""

    def __init__(self, cameras: list[CameraModel]) -> None:
        names = [camera.name for camera in cameras]
        if len(set(names)) != len(names):
            raise ValueError(f"cameras: expected different names, got {names}")
        self.cameras = list(cameras)
        self._lenses = {camera.name: Lens(camera) for camera in cameras}
        self._backdrop = Backdrop(self.cameras)
        self._bodies = BodyClient()
        self._exposure = Exposure(self._lenses)
        self._agents: dict[int, _Body] = {}
        self._clutter: list[Clutter] = []
        self._look: Looks | None = None

    def close(self) -> None:
        """Disconnect the client."""
        self._bodies.close()

    @property
    def look(self) -> Looks:
        """The appearance of the current scene; RuntimeError before the first reset."""
        if self._look is None:
            raise RuntimeError("Renderer.reset has not been called")
        return self._look

    def reset(self, case: Scene, road: Road) -> None:
        """Build the scene of an episode from its road and its seed of looks."""
        self._look = looks(case.split, case.looks_seed)
        self._bodies.clear()
        self._agents.clear()
        self._textures: dict[int, int] = {}
        self._backdrop.reset(road, self._look)
        self._clutter = place_clutter(road, self._look)
        self._exposure.reset(self._look)

    # ------------------------------------------------------------------------------------------------------- drawing
    def draw(self, worlds: WorldState, index: int = 0) -> dict[str, np.ndarray]:
        """Images uint8 [H, W, 3] BGR by camera name, of world ``index`` as it stands."""
        self.pose(worlds, index)
        return {camera.name: self.draw_camera(worlds, index, camera.name)[0] for camera in self.cameras}

    def draw_labelled(self, worlds: WorldState, index: int = 0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Images as from ``draw``, and by camera the agent id of every pixel, int32 [H, W], -1 where there is none."""
        self.pose(worlds, index)
        images, masks = {}, {}
        for camera in self.cameras:
            images[camera.name], bodies = self.draw_camera(worlds, index, camera.name)
            masks[camera.name] = name_pixels(
                bodies, self._lenses[camera.name], {key: agent.body for key, agent in self._agents.items()}, BACKGROUND
            )
        return images, masks

    def draw_camera(self, worlds: WorldState, index: int, name: str) -> tuple[np.ndarray, np.ndarray]:
        """One camera's image, and the body id of every pixel of its pinhole image; ``pose`` comes first."""
        lens = self._lenses[name]
        ego_pose = worlds.ego_pose[index]
        roll, pitch = float(worlds.ego_roll_rad[index]), float(worlds.ego_pitch_rad[index])
        image = self._backdrop.draw(name, ego_pose, roll, pitch, self._shadows)
        rgba, bodies = self._bodies.draw(lens, lens.view(ego_pose, roll, pitch), self._light)
        lay_over(image, rgba, bodies, lens)
        return self._exposure.expose(image, name, int(worlds.tick[index])), bodies

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
            self._bodies.remove(self._agents.pop(agent_id).body)
        sun = np.array(
            [
                np.cos(look.sun_elevation_rad) * np.cos(look.sun_azimuth_rad),
                np.cos(look.sun_elevation_rad) * np.sin(look.sun_azimuth_rad),
                np.sin(look.sun_elevation_rad),
            ]
        )
        self._light = Light(
            direction=sun,
            colour_bgr=look.light_bgr,
            ambient=look.ambient,
            diffuse=look.diffuse,
            specular=look.specular,
        )
        self._shadows: list[np.ndarray] = []
        for agent_id, slot in wanted.items():
            class_id = int(worlds.agent_class[index, slot])
            length, width, height = (float(v) for v in worlds.agent_size_m[index, slot])
            agent = self._agents.get(agent_id)
            if agent is not None and (agent.class_id, agent.size_m) != (class_id, (length, width, height)):
                self._bodies.remove(agent.body)  # the id was given to somebody else
                agent = None
            if agent is None:
                agent = self._agents[agent_id] = self._make_agent(agent_id, class_id, (length, width, height))
            position, yaw = worlds.agent_position_m[index, slot], float(worlds.agent_yaw_rad[index, slot])
            self._move(agent.body, position, yaw)
            if class_id == PEDESTRIAN:
                swing = walking_swing(position, worlds.agent_velocity_mps[index, slot], yaw)
                for joint, limb in enumerate(agent.limbs[1:]):
                    self._bodies.swing(agent.body, joint, swing * limb.swing_rad)
            if away[slot] < 60.0:
                self._shadows.append(_shadow(position, yaw, agent.size_m, sun, ego))
        for item in self._clutter:
            near = float(np.hypot(*(item.position_m - ego[:2]))) < VIEW_RANGE_M - 15.0
            if near and item.body < 0:
                item.body = self._make_clutter(item)
                self._move(item.body, item.position_m, item.yaw_rad)
            elif not near and item.body >= 0:
                self._bodies.remove(item.body)
                item.body = -1

    def agent_limbs(self, agent_id: int) -> list[Limb] | None:
        """The model of an agent that is being drawn, None for any other."""
        agent = self._agents.get(agent_id)
        return None if agent is None else agent.limbs

    def _move(self, body: int, position_m: np.ndarray, yaw_rad: float) -> None:
        upright = (0.0, 0.0, float(np.sin(yaw_rad / 2)), float(np.cos(yaw_rad / 2)))
        self._bodies.move(body, (float(position_m[0]), float(position_m[1]), 0.0), upright)

    def _make_agent(self, agent_id: int, class_id: int, size_m: tuple[float, float, float]) -> _Body:
        style, colours = agent_look(self.look.split, self.look.seed, agent_id, class_id)
        limbs = agent_model(class_id, size_m, style)
        return _Body(self._bodies.make(limbs, self._bodies.load_palette(colours)), limbs, class_id, size_m)

    def _make_clutter(self, item: Clutter) -> int:
        if item.row not in self._textures:
            colours = clutter_palette(self.look.split, self.look.seed, item.row)
            self._textures[item.row] = self._bodies.load_palette(colours)
        return self._bodies.make([Limb(clutter(item.kind, item.scale))], self._textures[item.row])


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
