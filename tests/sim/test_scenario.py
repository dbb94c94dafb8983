import collections
import itertools

import msgspec
import numpy as np
import pytest

from visuomotor.messages.schema import CLASS_NAMES
from visuomotor.sim.road import Road
from visuomotor.sim.scenario import (
    AGENTS_MAX,
    EVENT_KINDS,
    EVENTS_MAX,
    ROLES,
    SPLITS,
    STATIC,
    SUITES,
    TRAFFIC,
    WALKER,
    DriveCase,
    drive_case,
)

CASES = [drive_case("drive-v1", "tune", seed) for seed in range(400)]


def test_a_seed_names_one_case() -> None:
    assert drive_case("drive-v1", "train", 7) == drive_case("drive-v1", "train", 7)
    assert drive_case("drive-v1", "train", 7) != drive_case("drive-v1", "train", 8)
    assert drive_case("drive-v1", "train", np.int64(7)) == drive_case("drive-v1", "train", 7)


def test_splits_never_meet() -> None:
    roads = [drive_case("drive-v1", split, seed).road for split in SPLITS for seed in range(30)]
    assert len({msgspec.json.encode(road) for road in roads}) == 90


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**63, 10**30])
def test_any_integer_from_zero_is_a_seed(seed: int) -> None:
    case = drive_case("drive-v1", "evaluation", seed)
    assert case.seed == seed
    assert case.events


@pytest.mark.parametrize(
    ("suite", "split", "seed", "named"),
    [
        ("drive-v9", "tune", 0, "drive-v1"),
        ("drive-v1", "test", 0, "evaluation"),
        ("drive-v1", "tune", -1, "-1"),
        ("drive-v1", "tune", 1.5, "1.5"),
        ("drive-v1", "tune", "7", "'7'"),
        ("drive-v1", "tune", True, "True"),
    ],
)
def test_bad_arguments_are_named(suite: str, split: str, seed: object, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        drive_case(suite, split, seed)  # type: ignore[arg-type]


def test_cases_survive_json() -> None:
    for case in CASES[:20]:
        case = msgspec.structs.replace(case, agents=tuple(a for a in case.agents if np.isfinite(a.trigger_s_m)))
        assert msgspec.json.decode(msgspec.json.encode(case), type=DriveCase) == case


def test_shares_of_events_are_as_stated() -> None:
    found = collections.Counter(kind for case in CASES for kind in {event.kind for event in case.events})
    suite = SUITES["drive-v1"]
    for kind, share in suite.shares.items():
        assert found[kind] / len(CASES) == pytest.approx(share, abs=0.08), kind
    assert 0.1 < found["blind_spot"] / len(CASES) < 0.3
    assert set(found) == set(EVENT_KINDS)


def test_one_to_four_events_spread_along_the_route() -> None:
    counts = collections.Counter(len(case.events) for case in CASES)
    assert set(counts) == {1, 2, 3, 4}
    assert max(counts) <= EVENTS_MAX
    assert all(counts[n] > 0.08 * len(CASES) for n in counts)
    for case in CASES:
        places = sorted(event.s_m for event in case.events if event.kind != "blind_spot")
        assert all(b - a > 40.0 for a, b in itertools.pairwise(places))
        assert places[0] > 120.0
        assert places[-1] < case.road.length_m - 10.0


def test_traffic_fits_and_starts_apart() -> None:
    for case in CASES:
        assert len(case.agents) <= AGENTS_MAX
        assert 5 <= sum(agent.role == TRAFFIC for agent in case.agents) <= 14
        here = [a for a in case.agents if a.role != WALKER and a.trigger_s_m <= 0]
        ego = [(0.0, case.ego_lane * 3.5, 4.5)]
        boxes = ego + [(a.s_m, a.d_m, a.size_m[0]) for a in here if a.role != STATIC]
        for i, (s, d, length) in enumerate(boxes):
            for other_s, other_d, other_length in boxes[:i]:
                if abs(d - other_d) < 2.0:
                    assert abs(s - other_s) > 0.5 * (length + other_length) + 1.0


def test_agents_are_of_known_kinds_and_real_sizes() -> None:
    heights = {
        "car": (1.3, 1.9),
        "truck": (2.5, 3.8),
        "cyclist": (1.5, 1.95),
        "pedestrian": (1.4, 2.0),
        "cone": (0.5, 1.0),
    }
    for case in CASES[:100]:
        for agent in case.agents:
            low, high = heights[CLASS_NAMES[agent.class_id]]
            assert low < agent.size_m[2] < high
            assert 0 <= agent.role < len(ROLES)
            assert agent.speed_mps <= 1.2 * case.road.speed_limit_mps


def test_an_obstacle_never_closes_the_whole_road() -> None:
    for case in CASES:
        road = Road(case.road)
        for event in case.events:
            if event.kind in ("broken_down", "closed_lane"):
                lanes = {round(case.agents[i].d_m / road.lane_width_m) for i in event.agents}
                assert len(lanes) < road.lane_count


def test_time_limits_leave_room_for_waiting() -> None:
    for case in CASES:
        assert case.time_limit_s > 1.4 * case.road.length_m / case.road.speed_limit_mps + 15.0
