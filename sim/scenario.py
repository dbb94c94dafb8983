"""Scenario suites: a seed becomes a case (road, ego start, traffic, events, looks), with stated shares of each event.

A case is data and holds all that is random about an episode but sensor noise and the recycling of far traffic, whose
streams start from its seed. Splits never share a stream.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

import msgspec
import numpy as np

from visuomotor.messages.schema import CAR, CONE, CYCLIST, PEDESTRIAN, TRUCK
from visuomotor.sim.road import RoadParameters, random_road

SPLITS = ("train", "tune", "evaluation")
AGENTS_MAX = 32
EVENTS_MAX = 4

# Roles: which rule moves an agent, see ``sim.traffic``.
ROLES = ("traffic", "cut_in", "braker", "queue", "static", "pedestrian", "cyclist", "escort")
TRAFFIC, CUT_IN, BRAKER, QUEUE, STATIC, WALKER, RIDER, ESCORT = range(len(ROLES))
CROSS, HESITATE, TURN_BACK = range(3)  # ``variant`` of a walker


class Suite(msgspec.Struct, frozen=True, kw_only=True):
    """A named, versioned family of cases. ``shares``: probability that a case holds at least one event of the kind.

    ``blind_spot`` comes only with an obstacle in the ego's lane; its share is given that there is one.
    """

    shares: dict[str, float]
    blind_spot_given_obstacle: float
    background: tuple[int, int]  # vehicles around the ego, from..to
    late_walkers: float  # share of the pedestrians who step out late, so that only a wary driver can stop
    ego_lane_share: float  # obstacles stand in the lane in which the ego starts


SUITES: dict[str, Suite] = {
    "drive-v1": Suite(
        shares={
            "cut_in": 0.35,
            "leader_brakes_hard": 0.35,
            "queue": 0.30,
            "broken_down": 0.30,
            "closed_lane": 0.25,
            "pedestrian": 0.45,
            "cyclist": 0.20,
        },
        blind_spot_given_obstacle=0.45,
        background=(6, 14),
        late_walkers=0.5,
        ego_lane_share=0.85,
    )
}
EVENT_KINDS = (*SUITES["drive-v1"].shares, "blind_spot")


class Driver(NamedTuple):
    """Temper of a driver: IDM (Treiber 2000) and MOBIL (Kesting 2007) parameters."""

    desired_speed_mps: float
    headway_s: float
    min_gap_m: float
    acceleration_mps2: float
    deceleration_mps2: float
    politeness: float
    lane_change_s: float


PARKED = Driver(0.0, 1.0, 2.0, 1.0, 2.0, 0.0, 3.5)


class AgentSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One agent of a case.

    ``trigger_s_m``: the agent appears (or starts its script) when the ego has come to this s; -inf: from the start.
    ``hold_s``, ``value``, ``variant`` mean what the role makes of them, see ``sim.traffic``.
    """

    class_id: int
    role: int
    size_m: tuple[float, float, float]
    s_m: float
    d_m: float
    speed_mps: float = 0.0
    yaw_offset_rad: float = 0.0
    driver: Driver = PARKED
    trigger_s_m: float = float("-inf")
    hold_s: float = 0.0
    value: float = 0.0
    variant: int = 0


class EventSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What happens where: the kind, its place along the route and the agents (indices into the case's) that play it."""

    kind: str
    s_m: float
    lane: int
    agents: tuple[int, ...]


class DriveCase(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that defines one episode."""

    suite: str
    split: str
    seed: int
    road: RoadParameters
    ego_lane: int
    ego_speed_mps: float
    agents: tuple[AgentSpec, ...]
    events: tuple[EventSpec, ...]
    looks_seed: int
    stream_seed: int  # of sensor noise and recycled traffic
    time_limit_s: float

    @property
    def lane_count(self) -> int:
        """Lanes of the road."""
        return self.road.lane_count


def drive_case(suite: str, split: str, seed: int) -> DriveCase:
    """The case of a seed (any integer >= 0). Raises ValueError that names what is known."""
    if suite not in SUITES:
        raise ValueError(f"suite: expected one of {', '.join(SUITES)}, got {suite!r}")
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed: expected an integer >= 0, got {seed!r}")
    sequence = np.random.SeedSequence([zlib.crc32(suite.encode()), SPLITS.index(split), int(seed)])
    return _CaseBuilder(suite, split, int(seed), np.random.default_rng(sequence)).build()


def draw_driver(rng: np.random.Generator, limit_mps: float, truck: bool = False) -> Driver:
    """A driver between timid and pushing."""
    push = rng.uniform()
    return Driver(
        desired_speed_mps=limit_mps * ((0.75 + 0.15 * push) if truck else (0.8 + 0.3 * push)),
        headway_s=1.9 - 0.9 * push,
        min_gap_m=rng.uniform(1.8, 3.0),
        acceleration_mps2=(0.8 if truck else 1.3) + 0.7 * push,
        deceleration_mps2=rng.uniform(1.6, 2.4),
        politeness=0.5 - 0.4 * push,
        lane_change_s=rng.uniform(3.0, 4.0) + (0.5 if truck else 0.0),
    )


def draw_vehicle(rng: np.random.Generator) -> tuple[int, tuple[float, float, float]]:
    """Class and size of a vehicle of the traffic."""
    if rng.random() < 0.15:
        return TRUCK, (rng.uniform(6.5, 9.5), rng.uniform(2.2, 2.45), rng.uniform(2.7, 3.5))
    return CAR, (rng.uniform(3.9, 4.9), rng.uniform(1.7, 1.95), rng.uniform(1.4, 1.8))


class _CaseBuilder:
    def __init__(self, suite: str, split: str, seed: int, rng: np.random.Generator) -> None:
        self.names = (suite, split, seed)
        self.suite = SUITES[suite]
        self.rng = rng
        self.road = random_road(rng)
        self.limit = self.road.speed_limit_mps
        self.width = self.road.lane_width_m
        self.agents: list[AgentSpec] = []
        self.events: list[EventSpec] = []

    def build(self) -> DriveCase:
        rng, road = self.rng, self.road
        kinds = self._draw_kinds()
        self.ego_lane = int(rng.integers(road.lane_count))
        if "cyclist" in kinds and rng.random() < 0.7:
            self.ego_lane = 0
        self.ego_speed = self.limit * rng.uniform(0.5, 0.95)
        span = (road.length_m - 170.0) / len(kinds)
        for i, kind in enumerate(kinds):
            place = 130.0 + span * (i + rng.uniform(0.1, 0.9 if i == len(kinds) - 1 else 0.4))
            self._event(kind, place)
            if kind in ("broken_down", "closed_lane") and len(self.events) + len(kinds) - i - 1 < EVENTS_MAX:
                self._hide_a_car(place)
        self._background()
        waiting = sum(9.0 if event.kind in ("queue", "pedestrian", "blind_spot") else 6.0 for event in self.events)
        suite, split, seed = self.names
        return DriveCase(
            suite=suite,
            split=split,
            seed=seed,
            road=road,
            ego_lane=self.ego_lane,
            ego_speed_mps=self.ego_speed,
            agents=tuple(self.agents),
            events=tuple(self.events),
            looks_seed=int(rng.integers(2**31)),
            stream_seed=int(rng.integers(2**31)),
            time_limit_s=round(1.4 * road.length_m / self.limit + 10.0 + waiting, 1),
        )

    def _draw_kinds(self) -> list[str]:
        rng, shares = self.rng, self.suite.shares
        kinds = [kind for kind, share in shares.items() if rng.random() < share]
        if not kinds:
            names = list(shares)
            weights = np.array(list(shares.values()))
            kinds = [str(rng.choice(names, p=weights / weights.sum()))]
        kinds = [kinds[i] for i in rng.permutation(len(kinds))]
        room = min(EVENTS_MAX, max(1, int((self.road.length_m - 170.0) / 90.0)))
        return kinds[:room]

    def _event(self, kind: str, place_m: float) -> None:
        first = len(self.agents)
        rng = self.rng
        lane = self.ego_lane
        if kind in ("queue", "broken_down", "closed_lane") and rng.random() > self.suite.ego_lane_share:
            lane = int(rng.integers(self.road.lane_count))
        getattr(self, f"_{kind}")(place_m, lane)
        self.events.append(self._spec(kind, place_m, lane, first))

    def _hide_a_car(self, place_m: float) -> None:
        """Perhaps add a blind-spot car to the obstacle that was placed last."""
        lane, first = self.events[-1].lane, len(self.agents)
        taken = any(event.kind == "blind_spot" for event in self.events)
        if taken or lane != self.ego_lane or self.rng.random() > self.suite.blind_spot_given_obstacle:
            return
        self._blind_spot(place_m, lane)
        self.events.append(self._spec("blind_spot", place_m, lane, first))

    def _spec(self, kind: str, place_m: float, lane: int, first: int) -> EventSpec:
        return EventSpec(kind=kind, s_m=place_m, lane=lane, agents=tuple(range(first, len(self.agents))))

    def _cut_in(self, place_m: float, lane: int) -> None:
        rng = self.rng
        class_id, size = draw_vehicle(rng)
        self._add(
            class_id=class_id,
            role=CUT_IN,
            size_m=size,
            s_m=place_m,
            d_m=0.0,
            speed_mps=0.7 * self.limit,
            driver=draw_driver(rng, self.limit)._replace(lane_change_s=rng.uniform(2.6, 3.4)),
            trigger_s_m=place_m - 110.0,
            hold_s=rng.uniform(6.0, 12.0),  # slow after the cut-in for so long
            value=rng.uniform(0.35, 0.75),  # of the speed limit, then
            variant=int(rng.integers(2)),  # preferred side it comes from: 0 left, 1 right
        )

    def _leader_brakes_hard(self, place_m: float, lane: int) -> None:
        rng = self.rng
        class_id, size = draw_vehicle(rng)
        self._add(
            class_id=class_id,
            role=BRAKER,
            size_m=size,
            s_m=place_m,
            d_m=0.0,
            speed_mps=0.75 * self.limit,
            driver=draw_driver(rng, self.limit)._replace(desired_speed_mps=self.limit * rng.uniform(0.7, 0.85)),
            trigger_s_m=place_m - 110.0,
            hold_s=rng.uniform(1.5, 5.0),
            value=rng.uniform(4.5, 8.0),  # deceleration
        )

    def _queue(self, place_m: float, lane: int) -> None:
        rng = self.rng
        lanes = {lane} if rng.random() < 0.5 else set(range(min(self.road.lane_count, 2))) | {lane}
        hold, crawl = rng.uniform(8.0, 18.0), rng.choice((0.0, rng.uniform(1.0, 3.0)))
        for row in sorted(lanes):
            s = place_m + rng.uniform(-4.0, 4.0)
            for _ in range(int(rng.integers(2, 5 if len(lanes) == 1 else 4))):
                class_id, size = draw_vehicle(rng)
                self._add(
                    class_id=class_id,
                    role=QUEUE,
                    size_m=size,
                    s_m=s + size[0] / 2,
                    d_m=row * self.width + rng.normal(0.0, 0.12),
                    driver=draw_driver(rng, self.limit, class_id == TRUCK),
                    hold_s=hold,
                    value=float(crawl),
                )
                s += size[0] + rng.uniform(2.5, 5.0)

    def _broken_down(self, place_m: float, lane: int) -> None:
        rng = self.rng
        class_id, size = draw_vehicle(rng)
        self._add(
            class_id=class_id,
            role=STATIC,
            size_m=size,
            s_m=place_m,
            d_m=lane * self.width + rng.uniform(-0.35, 0.35),
            yaw_offset_rad=rng.normal(0.0, 0.06),
        )

    def _closed_lane(self, place_m: float, lane: int) -> None:
        rng = self.rng
        side = 1.0 if lane == 0 or (lane < self.road.lane_count - 1 and rng.random() < 0.5) else -1.0
        taper, length = rng.uniform(12.0, 20.0), rng.uniform(10.0, 30.0)
        across = np.linspace(-side * 1.5, side * 1.35, 5)
        along = np.linspace(0.0, taper, 5)
        along = np.append(along, taper + np.linspace(length / 3, length, 3))
        across = np.append(across, [side * 1.4] * 3)
        for ds, dd in zip(along, across, strict=True):
            d = lane * self.width + float(dd) + rng.normal(0.0, 0.05)
            self._add(class_id=CONE, role=STATIC, size_m=(0.4, 0.4, 0.75), s_m=place_m + float(ds), d_m=d)

    def _pedestrian(self, place_m: float, lane: int) -> None:
        rng, road = self.rng, self.road
        late = rng.random() < self.suite.late_walkers
        right = lane <= (road.lane_count - 1) / 2 if late else rng.random() < 0.5
        edge = road.shoulder_m + (0.3 if late else rng.uniform(0.4, 1.5))
        right_d, left_d = -0.5 * self.width - edge, (road.lane_count - 0.5) * self.width + edge
        self._add(
            class_id=PEDESTRIAN,
            role=WALKER,
            size_m=(0.5, 0.5, rng.uniform(1.55, 1.9)),
            s_m=place_m,
            d_m=right_d if right else left_d,
            yaw_offset_rad=np.pi / 2 if right else -np.pi / 2,
            driver=PARKED._replace(desired_speed_mps=rng.uniform(1.4, 2.0) if late else rng.uniform(1.0, 1.8)),
            hold_s=rng.uniform(1.5, 4.0),  # of hesitation
            value=-rng.uniform(0.5, 3.0)
            if late
            else rng.uniform(0.5, 9.0),  # metres beyond a firm stop; < 0: steps out late
            variant=int(rng.choice((CROSS, HESITATE, TURN_BACK), p=(0.45, 0.3, 0.25))),
        )

    def _cyclist(self, place_m: float, lane: int) -> None:
        rng = self.rng
        speed = rng.uniform(3.0, 5.0)
        self._add(
            class_id=CYCLIST,
            role=RIDER,
            size_m=(1.8, 0.65, rng.uniform(1.6, 1.85)),
            s_m=place_m,
            d_m=rng.uniform(-1.1, -0.6),
            speed_mps=speed,
            driver=PARKED._replace(desired_speed_mps=speed, deceleration_mps2=1.5),
            trigger_s_m=place_m - 110.0,
        )

    def _blind_spot(self, place_m: float, lane: int) -> None:
        rng = self.rng
        sides = [side for side in (1, -1) if 0 <= lane + side < self.road.lane_count]
        class_id, size = draw_vehicle(rng)
        self._add(
            class_id=class_id,
            role=ESCORT,
            size_m=size,
            s_m=rng.uniform(-7.0, -1.0),
            d_m=(lane + int(rng.choice(sides))) * self.width,
            speed_mps=self.ego_speed,
            driver=draw_driver(rng, self.limit)._replace(desired_speed_mps=self.limit),
            trigger_s_m=place_m - 70.0,  # from here on its time runs
            hold_s=rng.uniform(4.0, 8.0),
            value=rng.uniform(-6.0, -2.5),  # where it stays relative to the ego
        )

    def _background(self) -> None:
        rng = self.rng
        free = AGENTS_MAX - len(self.agents)
        wanted = min(int(rng.integers(self.suite.background[0], self.suite.background[1] + 1)), free)
        placed = [(0.0, self.ego_lane, 22.0)]  # s, lane, clearance
        placed += [(a.s_m, round(a.d_m / self.width), 16.0) for a in self.agents if a.role in (ESCORT, QUEUE, STATIC)]
        for _ in range(40 * wanted):
            if wanted == 0:
                break
            s, lane = rng.uniform(-75.0, 120.0), int(rng.integers(self.road.lane_count))
            class_id, size = draw_vehicle(rng)
            clear = 8.0 + size[0]
            if any(other == lane and abs(s - t) < max(clear, room) for t, other, room in placed):
                continue
            driver = draw_driver(rng, self.limit, class_id == TRUCK)
            self._add(
                class_id=class_id,
                role=TRAFFIC,
                size_m=size,
                s_m=s,
                d_m=lane * self.width,
                speed_mps=min(driver.desired_speed_mps, self.limit) * rng.uniform(0.75, 0.95),
                driver=driver,
            )
            placed.append((s, lane, clear))
            wanted -= 1

    def _add(self, **fields: object) -> None:
        plain = {key: float(value) if isinstance(value, np.floating) else value for key, value in fields.items()}
        self.agents.append(AgentSpec(**plain))  # type: ignore[arg-type]
