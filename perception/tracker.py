"""Multi-camera, multi-object tracking in metric ``odom_`` coordinates: detections of one tick in, tracks out.

Birth, confirmation, coasting through occlusion and blind angles, and death are here; the filter is in ``kalman``, the
matching in ``association``, what a camera has in view in ``field_of_view``, the arrays in ``track_bank``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from visuomotor.messages.camera import CameraModel
from visuomotor.messages.schema import Detections, Tracks
from visuomotor.perception import association, kalman
from visuomotor.perception.association import MANOEUVRE_SQUARE, TRACK_GATE_SQUARE
from visuomotor.perception.field_of_view import find_visible, into_ego, lies_inside
from visuomotor.perception.motion import FORBIDDEN, TrackerConfig
from visuomotor.perception.robot_pose import RobotPose, hidden_share
from visuomotor.perception.tasks import PerceptionTask
from visuomotor.perception.track_bank import Measured, TrackBank

CLEAR_SHARE = 0.05  # in plain view: the robot's own limbs hide less of it
SETTLED_HITS = 5  # detections after which a track's velocity is known


class Tracker:
    """Follows objects over all cameras.

    ``cameras`` are the calibrations of every camera whose name may stand in ``Detections.cameras``: what lies outside
    their fields of view is coasted, not missed. ``task`` says what the objects are like; ``config`` overrides its
    thresholds.
    """

    def __init__(
        self, cameras: Sequence[CameraModel], task: PerceptionTask, config: TrackerConfig | None = None
    ) -> None:
        self.config = config or task.tracker
        self._cameras = {camera.name: camera for camera in cameras}
        motion = task.motion
        self._motion = motion
        self._acceleration_along_mps2 = np.array(motion.acceleration_along_mps2)
        self._acceleration_across_mps2 = np.array(motion.acceleration_across_mps2)
        self._steady_mps2 = None if motion.steady_mps2 is None else np.array(motion.steady_mps2)
        self._birth_speed_along_mps = np.array(motion.birth_speed_along_mps)
        self._birth_speed_across_mps = np.array(motion.birth_speed_across_mps)
        self._is_vehicle = np.array(motion.is_vehicle)
        self._with_traffic = np.array(motion.with_traffic)
        self._belt_m = motion.belt_m
        self._rolls = np.array(motion.rolls or (False,) * motion.class_count)
        self._merge_radius_m = np.array(motion.merge_radius_m)
        self._class_cost = association.class_costs(motion)
        self._symmetry = np.array(task.task.symmetry)
        self.reset()

    def reset(self) -> None:
        """Forget all tracks; ids start at 1 again."""
        self._bank = TrackBank.empty(self._motion.class_count)
        self._next_id = 1
        self._t_s: float | None = None

    def update(self, detections: Detections, robot: RobotPose, t_s: float) -> Tracks:
        """Tracks at time ``t_s`` (s), after the detections and the robot's pose of the same instant.

        Raises ValueError when time runs backwards or a camera has no calibration.
        """
        if self._t_s is not None and t_s < self._t_s:
            raise ValueError(f"t_s: expected at least {self._t_s}, got {t_s}; call reset between episodes")
        unknown = set(detections.cameras) - self._cameras.keys()
        if unknown:
            raise ValueError(f"cameras: no calibration of {sorted(unknown)}; expected some of {sorted(self._cameras)}")
        dt_s = 0.0 if self._t_s is None else t_s - self._t_s
        self._t_s = t_s
        measured = self._measure(detections, robot)
        self._predict(dt_s)
        rows, columns = self._associate(measured)
        self._update_hits(measured, rows, columns, t_s)
        self._count_misses(rows, detections.cameras, robot, dt_s, t_s)
        free = np.ones(len(measured.score), bool)
        free[columns] = False
        self._give_birth(measured, free & (measured.score >= self.config.score_birth), robot, t_s)
        self._bury(robot, t_s)
        return self._report(detections.cameras, robot, t_s)

    def _measure(self, detections: Detections, robot: RobotPose) -> Measured:
        used = np.flatnonzero(
            (detections.score >= self.config.score_keep) & np.isfinite(detections.ego_position_m).all(1)
        )
        class_id = np.asarray(detections.class_id)[used].astype(np.int64)
        score = np.asarray(detections.score)[used].astype(np.float64)
        c, s = np.cos(robot.yaw_rad), np.sin(robot.yaw_rad)
        turn = np.array([[c, -s], [s, c]])
        origin = np.array([robot.x_m, robot.y_m])
        position = np.asarray(detections.ego_position_m, np.float64)[used] @ turn.T + origin
        covariance = turn @ np.asarray(detections.ego_covariance_m2, np.float64)[used] @ turn.T
        covariance += np.eye(2) * self.config.measurement_floor_m**2
        size = np.asarray(detections.size_m, np.float64)[used]
        hidden = self._hidden_shares(detections, used, size, robot)
        covariance *= np.square(1.0 + self.config.hidden_sigma * hidden)[:, None, None]
        heading = np.asarray(detections.heading_rad, np.float64)[used] + robot.yaw_rad
        votes = np.zeros((len(used), self._motion.class_count))
        votes[np.arange(len(used)), class_id] = score
        group = association.merge_groups(
            position,
            covariance,
            class_id,
            score,
            np.asarray(detections.camera_index)[used],
            self._class_cost,
            self._merge_radius_m,
        )
        lead = group == np.arange(len(group))
        for other in np.flatnonzero(~lead):  # information-weighted mean of the reports of one object
            first = group[other]
            a, _ = kalman.inverse_2x2(covariance[first])
            b, _ = kalman.inverse_2x2(covariance[other])
            covariance[first], _ = kalman.inverse_2x2(a + b)
            position[first] = covariance[first] @ (a @ position[first] + b @ position[other])
            votes[first] += votes[other]
            score[first] = 1 - (1 - score[first]) * (1 - score[other])
        plain = 1.0 / np.square(1.0 + self.config.hidden_turn_sigma * hidden)
        columns = position, covariance, class_id, score, heading, size, votes, hidden, plain
        return Measured(*(column[lead] for column in columns))

    def _hidden_shares(
        self, detections: Detections, used: np.ndarray, size_m: np.ndarray, robot: RobotPose
    ) -> np.ndarray:
        """How much of each used detection [M] the robot's own limbs hide from the camera that made it, 0 to 1."""
        hidden = np.zeros(len(used))
        if not len(robot.limbs_m):
            return hidden
        index = np.asarray(detections.camera_index)[used]
        place = np.asarray(detections.ego_position_m, np.float64)[used]
        for i, name in enumerate(detections.cameras):
            of = index == i
            hidden[of] = hidden_share(
                self._cameras[name], place[of], size_m[of], robot.limbs_m, self.config.limb_radius_m
            )
        return hidden

    def _predict(self, dt_s: float) -> None:
        bank = self._bank
        if dt_s <= 0 or not len(bank):
            return
        classes = bank.class_id
        noise = kalman.direction_covariance(
            np.arctan2(bank.heading[:, 1], bank.heading[:, 0]),
            self._acceleration_along_mps2[classes],
            self._acceleration_across_mps2[classes],
        )
        before = bank.state
        bank.state, bank.loose = kalman.predict(before, bank.loose, noise, dt_s)
        if self._steady_mps2 is None:
            bank.covariance = bank.loose
        else:
            noise = np.square(self._steady_mps2[classes])[:, None, None] * np.eye(2)
            _, bank.covariance = kalman.predict(before, bank.covariance, noise, dt_s)

    def _associate(self, measured: Measured) -> tuple[np.ndarray, np.ndarray]:
        bank = self._bank
        if not len(bank) or not len(measured.score):
            empty = np.zeros(0, np.int64)
            return empty, empty
        square, log_determinant = kalman.mahalanobis(
            bank.state[:, :2], bank.loose[:, :2, :2], measured.position, measured.covariance
        )
        cost = square + log_determinant + self._class_cost[bank.class_id[:, None], measured.class_id[None]]
        cost += 4.0 * ~bank.confirmed[:, None] + 3.0 * (measured.score < self.config.score_birth)[None]
        cost[square > TRACK_GATE_SQUARE] = FORBIDDEN
        return association.assign(cost, FORBIDDEN / 2)

    def _update_hits(self, measured: Measured, rows: np.ndarray, columns: np.ndarray, t_s: float) -> None:
        if not len(rows):
            return
        bank, config = self._bank, self.config
        clear = measured.hidden[columns] < CLEAR_SHARE
        moved = self._fuse(measured, rows[clear], columns[clear])
        self._carry(rows[clear], moved)
        self._fuse(measured, rows[~clear], columns[~clear])
        score = measured.score[columns]
        bank.votes[rows] = 0.95 * bank.votes[rows] + measured.votes[columns]
        bank.hits[rows] += 1
        bank.score[rows] += np.maximum(1.0 / bank.hits[rows], 0.3) * (score - bank.score[rows])
        plain = measured.plain[columns]  # half an object says little of how long it is and which way it lies
        bank.plain[rows] += plain
        rate = plain / bank.plain[rows]  # of a mean in which each reading has its weight
        bank.size[rows] += np.maximum(rate, 0.15 * plain)[:, None] * (measured.size[columns] - bank.size[rows])
        bank.evidence[rows] += score
        bank.seen_s[rows], bank.missed_s[rows] = t_s, 0.0
        bank.confirmed[rows] |= (bank.evidence[rows] >= config.evidence) & (bank.hits[rows] >= 2)

        seen = np.stack([np.cos(measured.heading_rad[columns]), np.sin(measured.heading_rad[columns])], 1)
        heading = bank.heading[rows]
        untold = np.isnan(measured.heading_rad[columns])
        seen[untold] = heading[untold]
        self._turn_alike(seen, heading, bank.class_id[rows])
        backwards = (seen * heading).sum(1) < 0  # a flipped reading of a settled track
        seen[backwards & (bank.hits[rows] > 3) & self._is_vehicle[bank.class_id[rows]]] *= -1
        heading = heading + np.maximum(rate, 0.25 * plain)[:, None] * (seen - heading)
        velocity = bank.state[rows, 2:]
        speed = np.hypot(velocity[:, 0], velocity[:, 1])
        sigma = np.sqrt(np.trace(bank.covariance[rows, 2:, 2:], axis1=1, axis2=2))
        moving = (speed > self._motion.moving_mps) & (speed > 2.0 * sigma) & self._motion.heading_follows_motion
        heading[untold & moving & ((velocity * heading).sum(1) < 0)] *= -1  # it was a guess: motion knows better
        heading[moving] += 0.25 * (velocity[moving] / speed[moving, None] - heading[moving])
        length = np.hypot(heading[:, 0], heading[:, 1])
        bank.heading[rows] = np.where(length[:, None] > 1e-3, heading / np.maximum(length, 1e-3)[:, None], seen)

    def _fuse(self, measured: Measured, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Take in what was measured; by how much that moved the states [R, 4] from where they were expected."""
        bank = self._bank
        expected, prior = bank.state[rows], bank.covariance[rows]
        position, noise = measured.position[columns], measured.covariance[columns]
        if self._steady_mps2 is not None:
            square = kalman.innovation_square(expected, prior, position, noise)
            prior = np.where((square > MANOEUVRE_SQUARE)[:, None, None], bank.loose[rows], prior)
        bank.state[rows], fused = kalman.update(expected, prior, position, noise)
        bank.covariance[rows] = fused
        bank.loose[rows] = (
            fused if self._steady_mps2 is None else kalman.update(expected, bank.loose[rows], position, noise)[1]
        )
        moved: np.ndarray = bank.state[rows] - expected
        return moved

    def _carry(self, clear: np.ndarray, moved: np.ndarray) -> None:
        """What lies hidden on a belt goes as that does, of which others in plain view tell.

        ``clear``: rows in plain view; ``moved`` [R, 4]: what they did that nobody expected. What may roll takes over a
        change of the belt's speed, all else the speed.
        """
        if self._belt_m is None:
            return
        bank = self._bank
        x, y = bank.state[:, 0], bank.state[:, 1]
        x0, y0, x1, y1 = self._belt_m
        on_belt = (x > x0) & (x < x1) & (y > y0) & (y < y1) & bank.confirmed
        told = on_belt.copy()
        told[clear] = False
        tells = on_belt[clear] & (bank.hits[clear] >= SETTLED_HITS)
        rides = ~self._rolls[bank.class_id]
        if (sure := tells & rides[clear]).any():
            tells = sure
        if not told.any() or not tells.any():
            return
        bank.state[told] += np.median(moved[tells], axis=0)
        if sure.any():
            bank.state[told & rides, 2:] = np.median(bank.state[clear[tells], 2:], axis=0)

    def _turn_alike(self, seen: np.ndarray, heading: np.ndarray, class_id: np.ndarray) -> None:
        """Turn readings [N, 2] of symmetric objects, in place, by whole parts of a circle to next their tracks'."""
        order = self._symmetry[class_id]
        for n in np.flatnonzero(order > 1):
            part = 2 * np.pi / order[n]
            old = np.arctan2(heading[n, 1], heading[n, 0])
            turn = np.arctan2(seen[n, 1], seen[n, 0]) - old
            angle = old + turn - part * np.round(turn / part)
            seen[n] = np.cos(angle), np.sin(angle)

    def _count_misses(self, rows: np.ndarray, alive: Sequence[str], robot: RobotPose, dt_s: float, t_s: float) -> None:
        bank, config = self._bank, self.config
        missed = np.ones(len(bank), bool)
        missed[rows] = False
        if not missed.any():
            return
        stale = ~bank.confirmed & (t_s - bank.seen_s > config.evidence_window_s - 1e-6)
        bank.evidence[stale] = 0.0
        expected = missed & self._in_view(alive, robot)
        distance = np.hypot(bank.state[:, 0] - robot.x_m, bank.state[:, 1] - robot.y_m)
        weight = np.clip(config.range_sure_m / np.maximum(distance, 1.0), 0.2, 1.0)
        bank.missed_s[expected] += (dt_s * weight)[expected]
        bank.score[expected] *= 0.93

    def _outside(self, ego: np.ndarray) -> np.ndarray:
        """Tracks [N], at ``ego`` [N, 2], that are in no camera's picture, alive or dead."""
        outside = np.ones(len(ego), bool)
        for camera in self._cameras.values():
            outside &= ~lies_inside(camera, ego, self.config)
        return outside

    def _in_blind_angle(self, ego: np.ndarray, outside: np.ndarray) -> np.ndarray:
        """Vehicles [N] beside the car where no camera, alive or dead, looks."""
        bank = self._bank
        near = np.hypot(ego[:, 0], ego[:, 1]) < self.config.blind_range_m
        return self._is_vehicle[bank.class_id] & near & outside & bank.confirmed

    def _in_view(self, alive: Sequence[str], robot: RobotPose) -> np.ndarray:
        """Tracks [N] that a living camera should see: inside its field of view and not behind a nearer track."""
        bank = self._bank
        ego = into_ego(bank.state[:, :2], robot)
        half_width = 0.5 * np.where(self._is_vehicle[bank.class_id], bank.size.mean(1), bank.size.min(1))
        visible = np.zeros(len(bank), bool)
        for name in alive:
            visible |= find_visible(self._cameras[name], ego, half_width, bank.confirmed, robot, self.config)
        return visible

    def _give_birth(self, measured: Measured, born: np.ndarray, robot: RobotPose, t_s: float) -> None:
        count = int(born.sum())
        if not count:
            return
        classes, heading_rad = measured.class_id[born], measured.heading_rad[born]
        untold = np.isnan(heading_rad)
        heading_rad = np.where(untold, robot.yaw_rad, heading_rad)  # the road's direction, until it has moved
        heading = np.stack([np.cos(heading_rad), np.sin(heading_rad)], 1)
        along_us = heading @ (np.cos(robot.yaw_rad), np.sin(robot.yaw_rad))
        with_traffic = (along_us > 0.8) & self._with_traffic[classes]
        speed = np.where(with_traffic, self.config.traffic_speed_share * max(robot.speed_mps, 0.0), 0.0)
        covariance = np.zeros((count, 4, 4))
        covariance[:, :2, :2] = measured.covariance[born]
        along, across = self._birth_speed_along_mps[classes], self._birth_speed_across_mps[classes]
        across = np.where(untold, np.maximum(across, 0.5 * along), across)
        along = np.where(untold, np.maximum(along, speed), along)  # it may stand, or come towards us
        covariance[:, 2:, 2:] = kalman.direction_covariance(heading_rad, along, across)
        now = np.full(count, t_s)
        self._bank.extend(
            TrackBank(
                id=np.arange(self._next_id, self._next_id + count),
                state=np.concatenate([measured.position[born], heading * speed[:, None]], 1),
                covariance=covariance,
                loose=covariance.copy(),
                heading=heading,
                size=measured.size[born],
                votes=measured.votes[born],
                plain=measured.plain[born],
                score=measured.score[born],
                evidence=measured.score[born],
                hits=np.ones(count, np.int64),
                confirmed=np.zeros(count, bool),
                born_s=now,
                seen_s=now.copy(),
                missed_s=np.zeros(count),
            )
        )
        self._next_id += count

    def _bury(self, robot: RobotPose, t_s: float) -> None:
        bank, config = self._bank, self.config
        if not len(bank):
            return
        limit = np.where(bank.confirmed, config.missed_confirmed_s, config.missed_tentative_s) + 1e-6
        distance = np.hypot(bank.state[:, 0] - robot.x_m, bank.state[:, 1] - robot.y_m)
        sigma = np.sqrt(np.maximum(bank.loose[:, 0, 0], bank.loose[:, 1, 1]))
        unseen = t_s - bank.seen_s
        ego = into_ego(bank.state[:, :2], robot)
        outside = self._outside(ego)
        blind = self._in_blind_angle(ego, outside)
        longest = np.where(outside, config.outside_max_s, config.unseen_max_s)
        longest = np.where(blind, config.blind_max_s, longest)
        alive = (bank.missed_s <= limit) & (unseen <= longest) & (distance <= config.range_max_m)
        alive &= (sigma <= config.position_sigma_max_m) | (unseen < 0.05) | blind
        alive &= bank.confirmed | (unseen <= 2 * config.missed_tentative_s)
        alive &= ~self._duplicates()
        if not alive.all():
            bank.keep(alive)

    def _duplicates(self) -> np.ndarray:
        """Tracks [N] that lie on top of a better established one of a compatible class."""
        bank = self._bank
        classes = bank.class_id
        delta = bank.state[:, None, :2] - bank.state[None, :, :2]
        radius = self.config.duplicate_m * self._merge_radius_m[classes]
        close = np.hypot(delta[..., 0], delta[..., 1]) < np.minimum(radius[:, None], radius[None])
        if close.sum() == len(bank):
            return np.zeros(len(bank), bool)
        rank = np.empty(len(bank), np.int64)
        rank[np.lexsort((bank.id, -bank.hits, ~bank.confirmed))] = np.arange(len(bank))
        close &= self._class_cost[classes[:, None], classes[None]] < FORBIDDEN
        return (close & (rank[None] < rank[:, None])).any(1)

    def _report(self, alive: tuple[str, ...], robot: RobotPose, t_s: float) -> Tracks:
        bank = self._bank
        chosen = np.flatnonzero(bank.confirmed)
        if len(chosen) > self.config.tracks_max:
            distance = np.hypot(bank.state[:, 0] - robot.x_m, bank.state[:, 1] - robot.y_m)
            chosen = np.sort(chosen[np.argsort(distance[chosen], kind="stable")[: self.config.tracks_max]])
        f32 = np.float32
        return Tracks(
            cameras=tuple(alive),
            track_id=bank.id[chosen].astype(np.int32),
            class_id=bank.class_id[chosen].astype(np.int32),
            score=bank.score[chosen].astype(f32),
            odom_position_m=bank.state[chosen, :2].astype(f32),
            odom_velocity_mps=bank.state[chosen, 2:].astype(f32),
            odom_heading_rad=np.arctan2(bank.heading[chosen, 1], bank.heading[chosen, 0]).astype(f32),
            size_m=bank.size[chosen].astype(f32),
            covariance=bank.covariance[chosen].astype(f32),
            age_s=(t_s - bank.born_s[chosen]).astype(f32),
            unseen_s=(t_s - bank.seen_s[chosen]).astype(f32),
        )
