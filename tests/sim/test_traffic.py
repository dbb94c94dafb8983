from collections.abc import Iterator

import msgspec
import numpy as np
import pytest

from visuomotor.messages.schema import CAR, CONE, CYCLIST, PEDESTRIAN
from visuomotor.sim.drive import ENDS, MANOEUVRES, DriveWorlds
from visuomotor.sim.road import RoadParameters
from visuomotor.sim.scenario import (
    BRAKER,
    CROSS,
    CUT_IN,
    ESCORT,
    HESITATE,
    PARKED,
    QUEUE,
    RIDER,
    STATIC,
    TRAFFIC,
    TURN_BACK,
    WALKER,
    AgentSpec,
    DriveCase,
    Driver,
    drive_case,
)

DRIVER = Driver(10.0, 1.3, 2.0, 1.5, 2.0, 0.2, 3.5)
WALKING = PARKED._replace(desired_speed_mps=1.4)


def agent(
    s: float, d: float, *, role: int = TRAFFIC, speed: float = 10.0, driver: Driver = DRIVER, **more: object
) -> AgentSpec:
    fields: dict = {"class_id": CAR, "size_m": (4.5, 1.8, 1.5), **more}
    return AgentSpec(role=role, s_m=s, d_m=d, speed_mps=speed, driver=driver, **fields)


def obstacle(s: float, d: float, **more: object) -> AgentSpec:
    return agent(s, d, role=STATIC, speed=0.0, driver=PARKED, **more)


class Stage:
    """One straight road of 600 m on which the ego drives as told."""

    def __init__(self) -> None:
        self.worlds = DriveWorlds(1)

    def set(self, *agents: AgentSpec, lanes: int = 2, speed: float = 10.0, lane: int = 0) -> None:
        road = RoadParameters(lane_count=lanes, length_m=600.0, speed_limit_mps=10.0, segments=((1100.0, 0.0, 0.0),))
        case = DriveCase(
            suite="drive-v1",
            split="tune",
            seed=0,
            road=road,
            ego_lane=lane,
            ego_speed_mps=speed,
            agents=agents,
            events=(),
            looks_seed=0,
            stream_seed=0,
            time_limit_s=200.0,
        )
        self.worlds.reset(0, case)

    def step(self, acceleration: float | None = None) -> None:
        """One tick; without an acceleration the ego follows what is ahead of it in its lane."""
        w = self.worlds
        if acceleration is None:
            acceleration = follow(w)
        w.step(np.array([acceleration]), np.zeros(1))

    def run(self, seconds: float, acceleration: float | None = None) -> dict[str, np.ndarray]:
        names = ("agent_s_m", "agent_d_m", "agent_velocity_mps", "agent_manoeuvre", "ego_s_m", "ego_speed_mps")
        log: dict[str, list[np.ndarray]] = {name: [] for name in names}
        for _ in range(round(seconds * 10)):
            self.step(acceleration)
            for name in names:
                log[name].append(getattr(self.worlds, name)[0].copy())
        return {name: np.array(rows) for name, rows in log.items()}

    @property
    def end(self) -> str:
        return ENDS[self.worlds.end[0]]


def follow(w: DriveWorlds) -> float:
    """A careful driver that stays in its lane: slow near people at the kerb, brakes for what comes into its way."""
    v = float(w.ego_speed_mps[0])
    wanted = min(1.5, float(w.roads[0].speed_limit_mps) - v)
    for j in np.flatnonzero(w.agent_present[0]):
        length, width = w.agent_size_m[0, j, :2]
        across = w._traffic.lateral_speed[0, j]
        aside = w.agent_d_m[0, j] - w.ego_d_m[0]
        comes = abs(aside + 1.2 * across) < abs(aside)
        strip = 0.5 * (1.8 + width) + 0.3
        inside = abs(aside) < strip or (
            comes and (abs(aside + 2.5 * across) < strip or aside * (aside + 2.5 * across) < 0)
        )
        gap = w.agent_s_m[0, j] - w.ego_s_m[0] - 0.5 * (4.5 + length)
        waits = w.agent_class[0, j] == PEDESTRIAN and abs(aside) < 8.0 and -1.0 < gap < 45.0
        if waits and abs(across) < 0.1 and not inside:
            wanted = min(wanted, (0.6 * float(w.roads[0].speed_limit_mps) - v) * 1.5)
        if not inside or gap < -1.0:
            continue
        along = 0.0 if w.agent_class[0, j] == PEDESTRIAN else float(w._traffic.speed[0, j])
        room = max(gap - 2.5, 0.05)
        needed = max(v * v - along * along, 0.0) / (2.0 * room)
        wanted = min(wanted, -needed if needed > 1.6 else (gap - 3.0 - 1.2 * v) * 0.2 + (along - v) * 0.7)
    return float(np.clip(wanted, -3.5, 2.0))


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.worlds.close()


def test_a_free_driver_reaches_its_desired_speed_and_keeps_the_lane(stage: Stage) -> None:
    stage.set(agent(40.0, 3.5, speed=4.0))
    log = stage.run(15.0, 0.0)
    assert np.hypot(*log["agent_velocity_mps"][-1, 0]) == pytest.approx(10.0, abs=0.5)
    assert np.all(log["agent_d_m"][:, 0] == 3.5)


def test_followers_keep_the_idm_gap_behind_a_slow_leader(stage: Stage) -> None:
    slow = agent(60.0, 0.0, speed=5.0, role=RIDER, driver=PARKED._replace(desired_speed_mps=5.0, deceleration_mps2=2.0))
    stage.set(slow, agent(30.0, 0.0), lanes=1, speed=0.0)
    log = stage.run(19.0, -1.0)
    gap = log["agent_s_m"][:, 0] - log["agent_s_m"][:, 1] - 4.5
    equilibrium = (2.0 + 5.0 * 1.3) / np.sqrt(1.0 - 0.5**4)
    assert gap.min() > 2.0
    assert gap[-1] == pytest.approx(equilibrium, rel=0.1)


def test_a_follower_stops_behind_the_standing_ego(stage: Stage) -> None:
    stage.set(agent(-60.0, 0.0), lanes=1, speed=0.0)
    log = stage.run(25.0, -1.0)
    assert -4.5 - 5.0 < log["agent_s_m"][-1, 0] < -4.5 - 1.0
    assert stage.end == ""


def test_drivers_overtake_a_slow_leader_when_there_is_room_and_not_otherwise(stage: Stage) -> None:
    slow = agent(70.0, 0.0, role=RIDER, speed=3.0, driver=PARKED._replace(desired_speed_mps=3.0))
    stage.set(slow, agent(30.0, 0.0), speed=0.0)
    log = stage.run(14.0, -1.0)
    assert log["agent_d_m"][:, 1].max() > 3.4
    assert MANOEUVRES.index("lane_change") in log["agent_manoeuvre"][:, 1]
    blocker = agent(30.0, 3.5, role=RIDER, speed=6.0, driver=PARKED._replace(desired_speed_mps=4.0))
    stage.set(slow, agent(30.0, 0.0, speed=6.0), blocker, speed=0.0)
    assert stage.run(3.0, -1.0)["agent_d_m"][:, 1].max() == 0.0  # a car beside it


def test_lane_changes_are_smooth(stage: Stage) -> None:
    slow = agent(70.0, 0.0, role=RIDER, speed=3.0, driver=PARKED._replace(desired_speed_mps=3.0))
    stage.set(slow, agent(30.0, 0.0), speed=0.0)
    d = stage.run(14.0, -1.0)["agent_d_m"][:, 1]
    moving = d[(d > 0.0) & (d < 3.5)]
    assert 25 <= len(moving) <= 60  # 3 to 6 seconds
    assert np.abs(np.diff(d, 2)).max() < 0.04  # 4 m/s2
    assert np.diff(d).max() < 0.25


def test_traffic_leaves_a_closed_lane_and_does_not_jam(stage: Stage) -> None:
    cones = [obstacle(150.0 + 4 * i, -1.5 + 0.7 * i, class_id=CONE, size_m=(0.4, 0.4, 0.75)) for i in range(5)]
    cars = [agent(100.0 - 18 * i, 3.5 * (i % 2), speed=8.0) for i in range(6)]
    stage.set(*cones, *cars, speed=0.0)
    log = stage.run(45.0, -1.0)
    ahead = [i for i in range(5, 11) if log["agent_s_m"][0, i] > 15.0]
    assert len(ahead) >= 3
    for i in ahead:
        passing = np.abs(log["agent_s_m"][:, i] - 166.0) < 8.0
        assert passing.any(), "never came past the cones"
        assert np.all(log["agent_d_m"][passing, i] > 2.0)


def test_an_obstacle_is_never_driven_over(stage: Stage) -> None:
    cars = [agent(110.0 - 16 * i, 3.5 * (i % 2), speed=9.0) for i in range(6)]
    stage.set(obstacle(160.0, 0.2), *cars, speed=0.0)
    log = stage.run(30.0, -1.0)
    for i in range(1, 7):
        near = np.abs(log["agent_s_m"][:, i] - 160.0) < 4.3
        assert np.all(np.abs(log["agent_d_m"][near, i] - 0.2) > 1.7)


def test_a_cut_in_leaves_room_to_brake(stage: Stage) -> None:
    for value in (0.45, 0.8):
        stage.set(agent(0.0, 0.0, role=CUT_IN, speed=7.0, trigger_s_m=5.0, hold_s=8.0, value=value))
        lateral, gaps = [], []
        for _ in range(450):
            stage.step()
            w = stage.worlds
            if w.agent_present[0, 0]:
                lateral.append(w.agent_d_m[0, 0])
                gaps.append(w.agent_s_m[0, 0] - w.ego_s_m[0] - 4.5)
        assert stage.end in ("", "goal")
        assert gaps[0] > 80.0 - 4.5  # it appears far away, in the lane beside
        assert lateral[0] == 3.5
        assert min(lateral) < 0.1
        cut = next(k for k, d in enumerate(lateral) if d < 3.4)
        assert 4.0 < gaps[cut] < 25.0
        assert min(gaps) > 1.0


def test_a_leader_brakes_hard_when_the_ego_is_near_and_drives_on(stage: Stage) -> None:
    stage.set(agent(0.0, 0.0, role=BRAKER, speed=7.0, trigger_s_m=5.0, hold_s=2.0, value=6.0))
    log = stage.run(60.0)
    speed = np.hypot(*np.moveaxis(log["agent_velocity_mps"][:, 0], -1, 0))
    decelerations = np.diff(speed) / 0.1
    assert decelerations.min() == pytest.approx(-6.0, abs=0.3)
    standing = np.flatnonzero(speed < 0.05)
    assert 15 < len(standing) < 40
    assert speed[standing[-1] :].max() > 3.0
    assert MANOEUVRES.index("brake") in log["agent_manoeuvre"][:, 0]
    assert stage.end in ("", "goal")


def test_a_queue_stands_until_the_ego_is_near_and_dissolves(stage: Stage) -> None:
    stage.set(*(agent(150.0 + 8 * i, 0.0, role=QUEUE, speed=0.0, hold_s=6.0) for i in range(3)), lanes=1)
    log = stage.run(60.0)
    moved = np.abs(log["agent_s_m"][:, 2] - log["agent_s_m"][0, 2]) > 0.1
    assert log["ego_s_m"][np.flatnonzero(moved)[0]] > 166.0 - 85.0
    assert log["ego_speed_mps"].min() < 3.0
    assert stage.end in ("", "goal")
    assert log["ego_s_m"].max() > 200.0


@pytest.mark.parametrize("variant", [CROSS, HESITATE, TURN_BACK])
@pytest.mark.parametrize("side", [-3.5, 7.0])
def test_a_pedestrian_can_be_stopped_for(stage: Stage, variant: int, side: float) -> None:
    walker = agent(
        200.0, side, role=WALKER, speed=0.0, driver=WALKING, class_id=PEDESTRIAN, size_m=(0.5, 0.5, 1.7),
        hold_s=2.0, value=3.0, variant=variant, yaw_offset_rad=-np.sign(side) * np.pi / 2,
    )  # fmt: skip
    stage.set(walker)
    log = stage.run(70.0)
    assert stage.end in ("", "goal")
    d = log["agent_d_m"][:, 0]
    assert np.ptp(d) > 1.0
    assert log["ego_speed_mps"].min() < 6.0  # the ego had to slow down for it
    assert MANOEUVRES.index("crossing") in log["agent_manoeuvre"][:, 0]
    far = 3.5 - side
    assert d[-1] == pytest.approx(side if variant == TURN_BACK else far, abs=0.4)
    way = np.diff(d) * -np.sign(side)
    assert (way < -0.05).any() == (variant == TURN_BACK)
    paused = (np.abs(way) < 1e-6) & (np.abs(d[1:] - side) > 1.0) & (np.abs(d[1:] - far) > 0.5)
    assert paused.sum() >= (0 if variant == CROSS else 5)


def test_traffic_stops_for_a_pedestrian(stage: Stage) -> None:
    walker = agent(60.0, 1.0, role=WALKER, speed=0.0, driver=PARKED, class_id=PEDESTRIAN, size_m=(0.5, 0.5, 1.7))
    stage.set(walker, agent(15.0, 0.0), lanes=1, speed=0.0)
    log = stage.run(10.0, -1.0)
    assert log["agent_s_m"][-1, 1] < 60.0 - 2.0


def test_a_cyclist_rides_slowly_at_the_right_side(stage: Stage) -> None:
    rider = agent(
        0.0, -0.8, role=RIDER, speed=4.0, driver=PARKED._replace(desired_speed_mps=4.0), class_id=CYCLIST,
        size_m=(1.8, 0.65, 1.7), trigger_s_m=5.0,
    )  # fmt: skip
    stage.set(rider)
    log = stage.run(30.0)
    shown = log["agent_s_m"][:, 0] > 80.0
    assert np.all(log["agent_d_m"][shown, 0] == -0.8)
    assert np.hypot(*log["agent_velocity_mps"][-1, 0]) == pytest.approx(4.0, abs=0.1)
    assert log["ego_speed_mps"][-1] == pytest.approx(4.0, abs=1.0)


def test_a_blind_spot_car_stays_beside_the_ego_and_then_lets_it_go(stage: Stage) -> None:
    escort = agent(-5.0, 3.5, role=ESCORT, trigger_s_m=130.0, hold_s=5.0, value=-4.0)
    stage.set(obstacle(200.0, 0.0), escort)
    log = stage.run(40.0)
    relative = log["agent_s_m"][:, 1] - log["ego_s_m"]
    beside = log["ego_s_m"] < 130.0
    assert np.abs(relative[beside][20:] + 4.0).max() < 3.0
    assert relative.max() > 20.0
    assert stage.end == ""


def test_traffic_far_behind_comes_back_as_somebody_else(stage: Stage) -> None:
    stage.set(agent(-80.0, 3.5, speed=1.0, driver=DRIVER._replace(desired_speed_mps=1.0)), speed=10.0)
    stage.run(15.0, 0.0)
    w = stage.worlds
    assert w.agent_id[0, 0] >= 32 or not w.agent_present[0, 0]
    assert not w.agent_present[0, 0] or abs(w.agent_s_m[0, 0] - w.ego_s_m[0]) > 60.0


def test_a_careful_lane_keeper_is_hardly_ever_hit(stage: Stage) -> None:
    """No event forces a collision on a driver that keeps its distance, whatever the case."""
    hits = []
    for seed in range(6):
        case = drive_case("drive-v1", "tune", 500 + seed)
        straight = msgspec.structs.replace(case.road, segments=((1300.0, 0.0, 0.0),))
        stage.worlds.reset(0, msgspec.structs.replace(case, road=straight))
        for _ in range(300):
            stage.step()
            if stage.end:
                break
        if stage.end == "collision":
            hits.append((500 + seed, bool(stage.worlds.at_fault[0])))
    assert len(hits) <= 1, hits  # of 6
