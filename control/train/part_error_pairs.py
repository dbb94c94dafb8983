"""Truth and tracks of picking side by side: what the error model of parts is fitted to and compared on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
from scipy.optimize import linear_sum_assignment

from visuomotor.control.arm.config import CELL
from visuomotor.control.arm.kinematics import link_frames, tool_pose
from visuomotor.control.train.error_pairs import DT_S, FRESH_S, tracks_of, untracked
from visuomotor.control.train.run_logs import Ticks
from visuomotor.messages.camera import CameraModel
from visuomotor.messages.schema import ArmState, Order, Tracks, Truth
from visuomotor.sim.cell.error_model import SYMMETRY, PartErrorParameters, PartErrors
from visuomotor.sim.cell.visibility import BeltView, arm_rods
from visuomotor.sim.track_errors import PerceivedTracks

GATE_M = 0.04
STICKY_M = 0.02  # a track stays with its part unless another is nearer by this
OTHER_CLASS_M = 0.02  # a track of another class must be so much nearer to be preferred
NEAR_M = 0.08  # a false track this near a part is beside it
LIFTED_M = 0.05  # the underside of a part this high is off the belt, or thrown over a rim
SPARE = 8  # slots for false alarms


@dataclass(kw_only=True)
class Shift:
    """The truth of T ticks with a slot for each part; a slice of it is what ``PartErrors.observe`` reads."""

    part_present: np.ndarray  # [T, N]
    part_id: np.ndarray  # [T, N]
    part_class: np.ndarray  # [T, N] -1: of no class
    part_position_m: np.ndarray  # [T, N, 3] base
    part_velocity_mps: np.ndarray  # [T, N, 3]
    part_yaw_rad: np.ndarray  # [T, N]
    part_size_m: np.ndarray  # [T, N, 3]
    part_held: np.ndarray  # [T, N]
    joint_position_rad: np.ndarray  # [T, 7]
    belt_speed_mps: np.ndarray  # [T]
    wanted: np.ndarray  # [T, C] parts still to be binned

    @classmethod
    def of(cls, log: Ticks) -> Shift:
        """From (truth, tracks, arm_state, order, ...) of consecutive ticks; ValueError when there are none."""
        if not log:
            raise ValueError("log: expected at least one tick")
        truths = [cast(Truth, tick[0]) for tick in log]
        slot_of = {int(i): slot for slot, i in enumerate(sorted({int(i) for t in truths for i in t.agent_id}))}
        shape = (len(log), len(slot_of) + SPARE)
        shift = cls(
            part_present=np.zeros(shape, bool),
            part_id=np.full(shape, -1, np.int64),
            part_class=np.full(shape, -1, np.int64),
            part_position_m=np.zeros((*shape, 3)),
            part_velocity_mps=np.zeros((*shape, 3)),
            part_yaw_rad=np.zeros(shape),
            part_size_m=np.ones((*shape, 3)),
            part_held=np.zeros(shape, bool),
            joint_position_rad=np.array([cast(ArmState, tick[2]).joint_position_rad for tick in log], np.float64),
            belt_speed_mps=np.array([truth.belt_speed_mps for truth in truths]),
            wanted=np.array([cast(Order, tick[3]).wanted for tick in log], np.int64),
        )
        for tick, truth in enumerate(truths):
            slots = np.array([slot_of[int(i)] for i in truth.agent_id], np.int64)
            shift.part_present[tick, slots] = True
            shift.part_id[tick, slots] = truth.agent_id
            shift.part_class[tick, slots] = truth.class_id
            shift.part_position_m[tick, slots, :2] = truth.map_position_m
            shift.part_position_m[tick, slots, 2] = truth.height_m
            shift.part_velocity_mps[tick, slots, :2] = truth.map_velocity_mps
            shift.part_yaw_rad[tick, slots] = truth.map_yaw_rad
            shift.part_size_m[tick, slots] = truth.size_m
            shift.part_held[tick, slots] = np.array(truth.manoeuvre) == "held"
        both = shift.part_present[1:] & shift.part_present[:-1]
        shift.part_velocity_mps[1:, :, 2] = np.diff(shift.part_position_m[..., 2], axis=0) / DT_S * both
        return shift

    def at(self, tick: int) -> Shift:
        """One tick as a batch of one."""
        return Shift(**{name: value[tick : tick + 1] for name, value in vars(self).items()})


@dataclass(kw_only=True)
class PartPairs:
    """M ticks of parts of a class, by shift, part and tick; NaN or -1 where the part has no track."""

    agent: np.ndarray  # unique over shifts
    tick: np.ndarray
    class_id: np.ndarray
    share: np.ndarray  # visible
    from_middle_m: np.ndarray  # of the picture, on the belt
    tool_m: np.ndarray  # from the tool, level
    held: np.ndarray
    lifted: np.ndarray
    on_belt: np.ndarray
    wanted: np.ndarray
    velocity_mps: np.ndarray  # [M, 2]
    belt_mps2: np.ndarray  # [M] the belt's acceleration
    track: np.ndarray  # unique over shifts, or -1
    fresh: np.ndarray  # detected in this tick
    unseen_s: np.ndarray
    age_s: np.ndarray
    track_class: np.ndarray
    error_m: np.ndarray  # [M, 2]
    track_velocity_mps: np.ndarray  # [M, 2]
    heading_error_rad: np.ndarray  # modulo the class's symmetry
    size_ratio: np.ndarray  # [M, 2]
    ticks: int = 0
    distractors: int = 0  # parts of no class
    # Of each false track in each tick: track, class, near a part, unseen s, on the belt, on a distractor, a part's
    # before, of a wanted class.
    false_ticks: np.ndarray = field(default_factory=lambda: np.zeros((0, 8)))

    @property
    def tracked(self) -> np.ndarray:
        """Rows that have a track."""
        return self.track >= 0

    @property
    def follows(self) -> np.ndarray:
        """[M - 1] whether a row is the next tick of the part of the row before."""
        return (self.agent[1:] == self.agent[:-1]) & (self.tick[1:] == self.tick[:-1] + 1)


def simulate(
    shifts: Sequence[Shift], camera: CameraModel, parameters: PartErrorParameters
) -> list[list[PerceivedTracks]]:
    """Tracks [1, N] of every tick of each shift that the error model makes of a logged truth, all side by side."""
    slots = max(shift.part_present.shape[1] for shift in shifts)
    ticks = [len(shift.wanted) for shift in shifts]
    padded = [_pad(shift, slots) for shift in shifts]
    errors = PartErrors(len(shifts), slots, camera, parameters)
    for index in range(len(shifts)):
        errors.reset(index, [index, 0xF17])
    tracks: list[list[PerceivedTracks]] = [[] for _ in shifts]
    for tick in range(max(ticks)):
        rows = [shift.at(min(tick, count - 1)) for shift, count in zip(padded, ticks, strict=True)]
        cells = Shift(**{name: np.concatenate([getattr(row, name) for row in rows]) for name in vars(rows[0])})
        live = tick < np.array(ticks)
        found = errors.observe(cells, arm_rods(link_frames(cells.joint_position_rad)), live)
        for index in np.flatnonzero(live).tolist():
            one = {name: value[index : index + 1].copy() for name, value in vars(found).items()}
            tracks[index].append(PerceivedTracks(**one))
    return tracks


def _pad(shift: Shift, slots: int) -> Shift:
    more = slots - shift.part_present.shape[1]
    padded = Shift(
        **{
            name: np.concatenate([value, np.ones((len(value), more, *value.shape[2:]), value.dtype)], axis=1)
            if name.startswith("part_")
            else value
            for name, value in vars(shift).items()
        }
    )
    padded.part_present[:, slots - more :] = False
    return padded


def collect(
    shifts: Iterable[tuple[Shift, Sequence[PerceivedTracks]]], camera: CameraModel, gate_m: float = GATE_M
) -> PartPairs:
    """Assign tracks to parts tick by tick: least total distance, rather to the part that they were at."""
    view = BeltView(camera)
    columns: dict[str, list[np.ndarray]] = {}
    false: list[np.ndarray] = []
    ticks = distractors = 0
    for number, (shift, tracks) in enumerate(shifts):
        if len(tracks) != len(shift.wanted):
            raise ValueError(f"shift {number}: {len(shift.wanted)} ticks of truth, {len(tracks)} of tracks")
        ticks += len(tracks)
        distractors += int((shift.part_present & (shift.part_class < 0)).any(axis=0).sum())
        rows, unmatched = _shift(number, shift, tracks, view, gate_m)
        for name, value in rows.items():
            columns.setdefault(name, []).append(value)
        false.append(unmatched)
    if not columns:
        raise ValueError("shifts: expected at least one")
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    return PartPairs(**joined, ticks=ticks, distractors=distractors, false_ticks=np.concatenate(false))


def real_tracks(log: Ticks) -> list[PerceivedTracks]:
    """The logged tracks of a shift."""
    return [tracks_of(cast(Tracks, tick[1])) for tick in log]


def _shift(
    number: int, shift: Shift, tracks: Sequence[PerceivedTracks], view: BeltView, gate_m: float
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    shape = shift.part_present.shape
    rods = arm_rods(frames := link_frames(shift.joint_position_rad))
    tool_m = tool_pose(frames).position_m
    place_m = shift.part_position_m[..., :2]
    known = shift.part_present & (shift.part_class >= 0)
    order = np.maximum(SYMMETRY[shift.part_class], 1)
    low_m = np.maximum(shift.part_position_m[..., 2] - 0.5 * shift.part_size_m[..., 2], 0.0)
    seen_m = view.shadow_m(np.concatenate([place_m, low_m[..., None]], axis=2))  # where a picture shows what is lifted
    columns = {**untracked(shape), "error_m": np.full((*shape, 2), np.nan)}
    false: list[tuple[float, ...]] = []
    last = np.full(shape[1], -1, np.int64)  # track that each slot had
    were: set[int] = set()  # tracks that have been a part's
    for tick, found in enumerate(tracks):
        here, parts = np.flatnonzero(found.present[0]), np.flatnonzero(shift.part_present[tick])
        ids = found.track_id[0, here]
        position = found.position_m[0, here][:, None]
        apart = np.minimum(
            np.linalg.norm(position - place_m[tick, parts], axis=2),
            np.linalg.norm(position - seen_m[tick, parts], axis=2),
        )
        cost = apart + OTHER_CLASS_M * (found.class_id[0, here][:, None] != shift.part_class[tick, parts])
        cost = np.where(apart <= gate_m, cost - STICKY_M * (ids[:, None] == last[parts]), 1e3)
        row, column = linear_sum_assignment(cost)
        good = apart[row, column] <= gate_m
        source, slot = here[row[good]], parts[column[good]]
        last[:] = np.where(shift.part_present[tick], last, -1)
        last[slot] = ids[row[good]]
        of_class = shift.part_class[tick, slot] >= 0
        were |= set(last[slot][of_class].tolist())
        columns["track"][tick, slot] = found.track_id[0, source] + 100_000 * number
        columns["unseen_s"][tick, slot] = found.unseen_s[0, source]
        columns["age_s"][tick, slot] = found.age_s[0, source]
        columns["track_class"][tick, slot] = found.class_id[0, source]
        columns["error_m"][tick, slot] = found.position_m[0, source] - place_m[tick, slot]
        columns["track_velocity_mps"][tick, slot] = found.velocity_mps[0, source]
        turn, part = found.heading_rad[0, source] - shift.part_yaw_rad[tick, slot], 2 * np.pi / order[tick, slot]
        columns["heading_error_rad"][tick, slot] = turn - part * np.round(turn / part)
        columns["size_ratio"][tick, slot] = found.size_m[0, source] / shift.part_size_m[tick, slot, :2]
        on_distractor = set(row[good][~of_class].tolist())
        for index in range(len(here)):
            if index in on_distractor or index not in row[good]:
                class_id = int(found.class_id[0, here[index]])
                near = apart[index][known[tick, parts]].min(initial=np.inf) < NEAR_M
                false.append(
                    (
                        float(ids[index] + 100_000 * number),
                        float(class_id),
                        float(near),
                        float(found.unseen_s[0, here[index]]),
                        float(_over_belt(found.position_m[0, here[index]])),
                        float(index in on_distractor),
                        float(int(ids[index]) in were),
                        float(shift.wanted[tick, class_id] > 0),
                    )
                )
    belt = np.zeros(shape[0])
    belt[1:] = (shift.belt_speed_mps[1:] - shift.belt_speed_mps[:-1]) / DT_S
    x, y = place_m[..., 0], place_m[..., 1]
    on_belt = (x > CELL.belt_x_m[0]) & (x < CELL.belt_x_m[1]) & (low_m < 0.02) & (y > CELL.belt_y_m[0])
    columns |= {
        "agent": np.broadcast_to(np.arange(shape[1]) + 1000 * number, shape),
        "tick": np.broadcast_to(np.arange(shape[0])[:, None], shape),
        "class_id": shift.part_class,
        "share": view.shares(shift.part_position_m, shift.part_size_m, shift.part_present, rods),
        "from_middle_m": np.linalg.norm(place_m - view.middle_m, axis=-1),
        "tool_m": np.linalg.norm(place_m - tool_m[:, None, :2], axis=-1),
        "held": shift.part_held,
        "lifted": low_m > LIFTED_M,
        "on_belt": on_belt & ~shift.part_held,
        "wanted": np.take_along_axis(shift.wanted, np.maximum(shift.part_class, 0), axis=1) > 0,
        "velocity_mps": shift.part_velocity_mps[..., :2],
        "belt_mps2": np.broadcast_to(belt[:, None], shape),
        "fresh": (columns["track"] >= 0) & (columns["unseen_s"] <= FRESH_S),
    }
    rows = {name: np.swapaxes(value, 0, 1)[known.T] for name, value in columns.items()}
    return rows, np.array(false, np.float64).reshape(-1, 8)


def _over_belt(place_m: np.ndarray) -> bool:
    return bool(CELL.belt_x_m[0] < place_m[0] < CELL.belt_x_m[1] and CELL.belt_y_m[0] < place_m[1] < CELL.belt_y_m[1])
