"""Suites of shifts: a seed becomes a case (belt, parts, order, looks), with stated shares of each kind.

A case is data and holds all that is random about a shift but sensor noise and camera noise, whose streams start from
its seeds. Splits never share a stream.
"""

from __future__ import annotations

import math
import zlib

import msgspec
import numpy as np

from visuomotor.control.arm.config import CELL, CLASS_NAMES
from visuomotor.sim.cell.belt import RAMP_MPS2, SPEED_MAX_MPS, BeltProgram
from visuomotor.sim.cell.parts import CATALOGUE, DISTRACTOR, DISTRACTORS, PartSpec, draw_part, kind_of_class

SPLITS = ("train", "tune", "evaluation")
PARTS_MAX = 16  # in a cell at the same time
ENTRY_Y_M = 1.2  # where parts come onto the belt
SHIFT_S = 40.0
CYCLE_S = 6.0  # of the picker for whom every case can be done
LEAD_S = 3.0  # before the first ordered part must be taken
STILL, CONSTANT, VARYING = "static", "constant", "varying"
_CLEAR_M = 0.13  # between the middles of parts that are no pair
_CLASSES = len(CLASS_NAMES)
_BALL, _BLOCK, _POST = CLASS_NAMES.index("yellow ball"), CLASS_NAMES.index("green block"), "post"


class Suite(msgspec.Struct, frozen=True, kw_only=True):
    """A named, versioned family of cases.

    ``motions``: share of each kind of belt. ``shares``: probability that a case holds the kind at least once, where
    the motion allows it (nothing rolls or hides on a belt that stands still).
    """

    motions: dict[str, float]
    shares: dict[str, float]
    speed_mps: tuple[float, float] = (0.05, 0.30)
    duration_s: float = SHIFT_S
    ordered: tuple[int, int] = (3, 5)  # parts, from..to
    others: bool = True  # parts that nobody ordered


SUITES: dict[str, Suite] = {
    "pick-v1": Suite(
        motions={STILL: 0.15, CONSTANT: 0.60, VARYING: 0.25},
        shares={
            "turned": 0.60,
            "touching": 0.30,
            "rolling": 0.30,
            "distractors": 0.60,
            "occluded": 0.25,
            "order_change": 0.25,
        },
    ),
    "pick-static-v1": Suite(motions={STILL: 1.0}, shares={}, duration_s=20.0, ordered=(1, 2), others=False),
    "pick-reach-v1": Suite(motions={STILL: 1.0}, shares={}, duration_s=8.0, ordered=(1, 1), others=False),
}
EVENT_KINDS = tuple(SUITES["pick-v1"].shares)


class Arrival(msgspec.Struct, frozen=True, kw_only=True):
    """A part and where it lies: ``start_y_m`` is its place at time 0 on a belt without end.

    It enters the cell when the belt has carried it to ``ENTRY_Y_M``, or is there from the start. ``roll_mps`` is its
    velocity relative to the belt when it enters, with the spin that goes with it.
    """

    part: PartSpec
    start_y_m: float
    x_m: float
    yaw_rad: float = 0.0
    roll_mps: tuple[float, float] = (0.0, 0.0)
    kind: str = ""  # what makes it hard: plain or a kind of the suite; empty for what is never ordered


class OrderSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What is ordered of each class since the start of the shift, from an instant on: later ones replace earlier."""

    time_s: float = 0.0
    total: tuple[int, ...]


class CellCase(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that defines one shift. ``arrivals`` are in the order in which they enter."""

    suite: str
    split: str
    seed: int
    motion: str
    belt: BeltProgram
    belt_friction: float
    arrivals: tuple[Arrival, ...]
    orders: tuple[OrderSpec, ...]
    bin_index: tuple[int, ...]  # of each class, ordered or not
    events: tuple[str, ...]  # the motion and the kinds
    look_seed: int
    stream_seed: int  # of sensor noise
    duration_s: float


def cell_case(suite: str, split: str, seed: int) -> CellCase:
    """The case of a seed (any integer >= 0). Raises ValueError that names what is known."""
    if suite not in SUITES:
        raise ValueError(f"suite: expected one of {', '.join(SUITES)}, got {suite!r}")
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed: expected an integer >= 0, got {seed!r}")
    sequence = np.random.SeedSequence([zlib.crc32(suite.encode()), SPLITS.index(split), int(seed)])
    return _CaseBuilder(suite, split, int(seed), np.random.default_rng(sequence)).build()


def draw_belt(rng: np.random.Generator, motion: str, speeds: tuple[float, float], duration_s: float) -> BeltProgram:
    """A programme of one kind: standing, one speed, or stops and changes of speed in ramps."""
    if motion == STILL:
        return BeltProgram()
    speed = rng.uniform(*speeds)
    if motion == CONSTANT:
        return BeltProgram(speed_mps=(speed,))
    stops = rng.random() < 0.6
    times, values = [0.0], [speed]
    while times[-1] < duration_s:
        times.append(times[-1] + rng.uniform(2.5, 6.0))
        values.append(values[-1])
        following = 0.0 if stops and values[-1] > 0.0 else rng.uniform(max(speeds[0], 0.1), speeds[1])
        ramp = RAMP_MPS2 if stops else rng.uniform(0.05, RAMP_MPS2)
        times.append(times[-1] + max(abs(following - values[-1]) / ramp, 0.05))
        values.append(following)
        if following == 0.0:
            times.append(times[-1] + rng.uniform(1.0, 3.0))
            values.append(0.0)
            following = rng.uniform(max(speeds[0], 0.1), speeds[1])
            times.append(times[-1] + following / ramp)
            values.append(following)
    return BeltProgram(time_s=tuple(times), speed_mps=tuple(values))


def roll_distance(arrival: Arrival, time_s: float) -> float:
    """How far a rolling part has come along the belt, relative to it, so long after it entered, m."""
    speed = abs(arrival.roll_mps[1])
    deceleration = arrival.part.rolling_friction_m * 9.81 / (1.4 * 0.5 * arrival.part.size_m[1])
    moving = min(time_s, speed / max(deceleration, 1e-6))
    return math.copysign(speed * moving - 0.5 * deceleration * moving**2, arrival.roll_mps[1])


class _CaseBuilder:
    def __init__(self, suite: str, split: str, seed: int, rng: np.random.Generator) -> None:
        self.names = (suite, split, seed)
        self.suite = SUITES[suite]
        self.rng = rng
        motions = self.suite.motions
        self.motion = str(rng.choice(list(motions), p=list(motions.values())))
        self.belt = draw_belt(rng, self.motion, self.suite.speed_mps, self.suite.duration_s)
        self.kinds = {kind for kind, share in self.suite.shares.items() if rng.random() < share}
        if self.motion == STILL:
            self.kinds -= {"rolling", "occluded"}
        self.arrivals: list[Arrival] = []
        self.taken: list[tuple[float, float, float]] = []  # y from, y to, x of what the belt holds

    def build(self) -> CellCase:
        rng = self.rng
        suite, split, seed = self.names
        times = self._take_times(int(rng.integers(self.suite.ordered[0], self.suite.ordered[1] + 1)))
        classes = self._ordered_classes(len(times))
        kinds = [{self.pair: "touching", self.hidden: "occluded", self.rolling: "rolling"}.get(i, "") for i in range(9)]
        for time, class_id, kind in zip(times, classes, kinds, strict=False):
            self._ordered(time, class_id, kind)
        orders = self._orders(times, classes)
        if self.suite.others:
            self._fill({c for order in orders for c in range(_CLASSES) if order.total[c]})
        bins = rng.permutation(_CLASSES) % len(CELL.bin_centre_m)
        return CellCase(
            suite=suite,
            split=split,
            seed=seed,
            motion=self.motion,
            belt=self.belt,
            belt_friction=float(rng.uniform(0.9, 1.1)),
            arrivals=tuple(sorted(self.arrivals, key=lambda arrival: arrival.start_y_m)),
            orders=orders,
            bin_index=tuple(int(i) for i in bins),
            events=(self.motion, *(kind for kind in EVENT_KINDS if kind in self.kinds)),
            look_seed=int(rng.integers(2**31)),
            stream_seed=int(rng.integers(2**31)),
            duration_s=self.suite.duration_s,
        )

    def _take_times(self, count: int) -> list[float]:
        """When a picker of ``CYCLE_S`` may take the ordered parts; enough belt between them to lie apart."""
        rng = self.rng
        times = [LEAD_S + rng.uniform(0.5, 2.0)]
        self.change = int(rng.integers(1, count)) if "order_change" in self.kinds else 0
        while len(times) < count:
            time = times[-1] + CYCLE_S + rng.uniform(0.0, 1.2) + (1.5 if len(times) == self.change else 0.0)
            if self.motion != STILL:
                while time < self.suite.duration_s and self._run(times[-1], time) < 0.25:
                    time += 0.5
            if time > self.suite.duration_s - CYCLE_S:
                break
            times.append(time)
        if self.change >= len(times):
            self.kinds.discard("order_change")
            self.change = 0
        return times

    def _run(self, start_s: float, end_s: float) -> float:
        return float(self.belt.travel(end_s) - self.belt.travel(start_s))

    def _ordered_classes(self, count: int) -> list[int]:
        """Two to three classes for the ordered parts; which one rolls, is half of a pair or hides behind a post."""
        rng = self.rng
        chosen = rng.choice(_CLASSES, size=int(rng.integers(2, 4)), replace=False)
        classes = [int(chosen[i]) for i in rng.integers(len(chosen), size=count)]
        places = [int(i) for i in rng.permutation(count)]
        if "rolling" in self.kinds:
            classes[places[0]] = _BALL
        self.rolling = next((i for i in places if classes[i] == _BALL), -1) if "rolling" in self.kinds else -1
        free = [i for i in places if classes[i] != _BALL]
        self.pair = free.pop() if "touching" in self.kinds and free else -1
        upright = [i for i in free if classes[i] != _BLOCK]
        self.hidden = upright.pop() if "occluded" in self.kinds and upright else -1
        for kind, place in (("touching", self.pair), ("occluded", self.hidden)):
            if place < 0:
                self.kinds.discard(kind)
        return classes

    def _orders(self, times: list[float], classes: list[int]) -> tuple[OrderSpec, ...]:
        """The order, and perhaps its change: some classes come later, one that was ordered is cancelled."""
        rng = self.rng
        total = np.bincount(classes, minlength=_CLASSES)
        if self.change == 0:
            return (OrderSpec(total=tuple(total.tolist())),)
        first = np.bincount(classes[: self.change], minlength=_CLASSES)
        idle = np.flatnonzero(total == 0)
        first[int(rng.choice(idle))] = 1  # what is cancelled
        latest = times[self.change] - 4.0
        time = rng.uniform(max(1.0, latest - 2.0), max(1.5, latest))
        return OrderSpec(total=tuple(first.tolist())), OrderSpec(time_s=round(time, 1), total=tuple(total.tolist()))

    def _ordered(self, time_s: float, class_id: int, kind: str) -> None:
        """Place one ordered part, with its neighbour if it is one of a pair; a crowded belt may leave it alone."""
        rng = self.rng
        part = draw_part(kind_of_class(class_id), self.names[1], rng)
        yaw = 0.0 if kind == "occluded" else self._yaw()
        for attempt in range(200):
            x = rng.uniform(CELL.lane_x_m[0] + 0.02, CELL.lane_x_m[1] - 0.02)
            y = rng.uniform(-0.05, 0.18) + float(self.belt.travel(time_s))
            if self.motion == STILL:
                y = rng.uniform(-0.30, 0.33)
            arrival = Arrival(part=part, start_y_m=y, x_m=x, yaw_rad=yaw)
            if class_id == _BALL:
                arrival = self._ball(arrival, time_s, kind)
            group = [arrival, *(self._neighbour(arrival, kind) if attempt < 100 else ())]
            if all(self._free(member) for member in group):
                alone = len(group) == 1 and kind != "rolling"
                if alone:
                    self.kinds.discard(kind)
                self.arrivals += [self._named(member, "" if alone else kind) for member in group]
                return

    def _named(self, arrival: Arrival, kind: str) -> Arrival:
        """The arrival with the word for what makes it hard."""
        row = CATALOGUE[arrival.part.kind]
        if row.class_id == DISTRACTOR:
            return arrival
        if not kind:
            rolls = row.shape == "sphere" and self.motion == VARYING
            turned = row.shape in ("box", "mesh") and "turned" in self.kinds
            kind = "rolling" if rolls else "turned" if turned else "plain"
        return msgspec.structs.replace(arrival, kind=kind)

    def _yaw(self) -> float:
        rng = self.rng
        if "turned" in self.kinds:
            return float(rng.uniform(-math.pi / 2, math.pi / 2))
        return float(rng.choice((0.0, math.pi / 2)) + rng.uniform(-0.15, 0.15))

    def _ball(self, arrival: Arrival, time_s: float, kind: str) -> Arrival:
        """A ball rolls where the belt changes its speed, or on its own; then it starts so that it comes by in time."""
        rng = self.rng
        if self.motion == VARYING:
            return self._with_resistance(arrival, rng.uniform(0.0004, 0.0008))
        if kind != "rolling":
            return arrival
        along = rng.uniform(0.03, 0.10)
        if rng.random() < 0.5:  # with the belt, but not faster than belts run
            along = -min(along, max(SPEED_MAX_MPS - self.belt.speed_mps[0], 0.02))
        roll = (rng.uniform(-0.006, 0.006), along)
        arrival = self._with_resistance(arrival, rng.uniform(0.00002, 0.0001))
        arrival = msgspec.structs.replace(arrival, roll_mps=roll)
        y = arrival.start_y_m
        for _ in range(4):
            entry_s = max(0.0, arrival.start_y_m - ENTRY_Y_M) / self.belt.speed_mps[0]
            start = y - roll_distance(arrival, max(time_s - entry_s, 0.0))
            arrival = msgspec.structs.replace(arrival, start_y_m=start)
        return arrival

    @staticmethod
    def _with_resistance(arrival: Arrival, rolling_friction_m: float) -> Arrival:
        part = msgspec.structs.replace(arrival.part, rolling_friction_m=rolling_friction_m)
        return msgspec.structs.replace(arrival, part=part)

    def _neighbour(self, arrival: Arrival, kind: str) -> tuple[Arrival, ...]:
        """What touches the end of a part, so that its sides stay free for the fingers, or a post downstream of it."""
        rng = self.rng
        if kind == "touching":
            low = [i for i, row in enumerate(CATALOGUE) if row.name != _POST and row.class_id != _BALL]
            part = draw_part(int(rng.choice(low)), self.names[1], rng)
            apart = 0.5 * (arrival.part.size_m[0] + part.size_m[0]) + rng.uniform(0.0005, 0.002)
            apart *= float(rng.choice((-1.0, 1.0)))
            yaw = arrival.yaw_rad
        elif kind == "occluded":
            post = next(i for i, row in enumerate(CATALOGUE) if row.name == _POST)
            part = draw_part(post, self.names[1], rng)
            apart, yaw = -rng.uniform(0.062, 0.070), 0.0
        else:
            return ()
        along = yaw if kind == "touching" else math.pi / 2
        return (
            Arrival(
                part=part,
                start_y_m=arrival.start_y_m + apart * math.sin(along),
                x_m=arrival.x_m + apart * math.cos(along),
                yaw_rad=yaw,
            ),
        )

    def _free(self, arrival: Arrival) -> bool:
        """Whether a part would lie on the belt, apart from all that are there."""
        (low, high), half = CELL.belt_x_m, 0.5 * max(arrival.part.size_m[:2])
        if not low + half <= arrival.x_m <= high - half:
            return False
        travelled = roll_distance(arrival, self.suite.duration_s)
        low_y, high_y = sorted((arrival.start_y_m, arrival.start_y_m + travelled))
        for other in self.arrivals:
            way = roll_distance(other, self.suite.duration_s)
            near, far = sorted((other.start_y_m, other.start_y_m + way))
            gap = max(near - high_y, low_y - far, 0.0)
            if math.hypot(gap, other.x_m - arrival.x_m) < _CLEAR_M:
                return False
        return True

    def _fill(self, ordered: set[int]) -> None:
        """Parts that nobody wants, and now and then one more of what is ordered."""
        rng = self.rng
        if self.motion == STILL:
            span, count = (-0.33, 0.36), int(rng.integers(1, 5))
        else:
            span = (-0.5, ENTRY_Y_M + float(self.belt.travel(self.suite.duration_s)))
            count = round((span[1] - span[0]) * rng.uniform(0.4, 1.4))
        strange = int("distractors" in self.kinds)  # at least one
        for i in range(count + strange):
            if i < strange or ("distractors" in self.kinds and rng.random() < 0.35):
                kind = int(rng.choice(DISTRACTORS))
            else:
                others = [c for c in range(_CLASSES) if c not in ordered]
                kind = kind_of_class(int(rng.choice(others if rng.random() < 0.85 else sorted(ordered))))
            part = draw_part(kind, self.names[1], rng)
            for _ in range(30):
                arrival = Arrival(
                    part=part, start_y_m=rng.uniform(*span), x_m=rng.uniform(*CELL.lane_x_m), yaw_rad=self._yaw()
                )
                if part.class_id == _BALL:
                    arrival = self._ball(arrival, 0.0, "")
                if self._free(arrival) and self._crowd(arrival) < PARTS_MAX - 2:
                    self.arrivals.append(self._named(arrival, ""))
                    break

    def _crowd(self, arrival: Arrival) -> int:
        """How many parts would share the belt with one."""
        length = ENTRY_Y_M - CELL.belt_y_m[0]
        return sum(abs(other.start_y_m - arrival.start_y_m) < length for other in self.arrivals)
