"""Cases of the suites: repeatable, apart, with their stated shares, and such that a picker can have everything."""

from collections import Counter

import msgspec
import numpy as np
import pytest

pytest.importorskip("pybullet")

from visuomotor.control.arm.config import CELL
from visuomotor.sim.cell.parts import CATALOGUE, DISTRACTOR
from visuomotor.sim.cell.scenario import (
    CYCLE_S,
    ENTRY_Y_M,
    EVENT_KINDS,
    PARTS_MAX,
    SUITES,
    cell_case,
    roll_distance,
)

COUNT = 200


@pytest.fixture(scope="module")
def cases():
    return [cell_case("pick-v1", "evaluation", seed) for seed in range(COUNT)]


def test_a_seed_is_always_the_same_case_and_no_two_are_alike(cases):
    assert cell_case("pick-v1", "evaluation", 7) == cases[7]
    assert cell_case("pick-v1", "evaluation", np.int64(7)) == cases[7]
    assert len({msgspec.json.encode(case) for case in cases}) == COUNT


def test_splits_share_no_stream():
    looks = [{cell_case("pick-v1", split, seed).look_seed for seed in range(50)} for split in ("train", "tune")]
    assert not looks[0] & looks[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("pick-v9", "train", 0), "suite: expected one of pick-v1"),
        (("pick-v1", "test", 0), "split: expected one of train, tune, evaluation"),
        (("pick-v1", "train", -1), "seed: expected an integer >= 0"),
        (("pick-v1", "train", 1.0), "seed: expected an integer >= 0"),
        (("pick-v1", "train", True), "seed: expected an integer >= 0"),
    ],
)
def test_unknown_names_and_seeds_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        cell_case(*arguments)


def test_motions_have_their_shares(cases):
    counts = Counter(case.motion for case in cases)
    for motion, share in SUITES["pick-v1"].motions.items():
        assert abs(counts[motion] / COUNT - share) < 3.5 * np.sqrt(share * (1 - share) / COUNT), motion


def test_kinds_occur_at_most_as_often_as_stated_and_not_much_less(cases):
    counts = Counter(event for case in cases for event in case.events)
    for kind, share in SUITES["pick-v1"].shares.items():
        spread = 3.5 * np.sqrt(share * (1 - share) / COUNT)
        assert counts[kind] / COUNT < share + spread, kind
        # Nothing rolls or hides on a belt that stands still, and a kind may find no part that can play it.
        assert counts[kind] / COUNT > 0.7 * share - spread, kind


def test_events_are_what_the_parts_say(cases):
    for case in cases:
        kinds = {a.kind for a in case.arrivals} - {"", "plain"}
        assert kinds <= set(EVENT_KINDS)
        for kind in ("touching", "occluded"):
            assert (kind in case.events) == (kind in kinds), (case.seed, kind)
        assert ("order_change" in case.events) == (len(case.orders) == 2)
        assert all(a.kind == "" for a in case.arrivals if a.part.class_id == DISTRACTOR)


def test_belts_run_as_their_motion_says(cases):
    for case in cases:
        assert (case.motion == "static") == (case.belt.speed_mps == (0.0,))
        assert (case.motion == "varying") == case.belt.varies
        if case.motion == "constant":
            assert 0.05 <= case.belt.speed_mps[0] <= 0.30


def windows(case):
    """When each part can be taken: its last and first moment within reach, and its class."""
    times = np.arange(0.0, case.duration_s, 0.1)
    travel = case.belt.travel(times)
    for a in case.arrivals:
        entered = int(np.argmax(a.start_y_m - travel <= ENTRY_Y_M))
        y = a.start_y_m - travel + [roll_distance(a, max(t - times[entered], 0.0)) for t in times]
        inside = np.flatnonzero((y > CELL.reach_y_m[0] + 0.02) & (y < CELL.reach_y_m[1]))
        if a.part.class_id >= 0 and len(inside) and times[inside[0]] <= case.duration_s - CYCLE_S:
            yield times[inside[-1]], times[inside[0]], a.part.class_id


def can_have_all(chances, left, free_s):
    """Whether some choice among parts, in the order in which they leave, gives all that are left to be picked."""
    if not any(left):
        return True
    for i, (last, first, class_id) in enumerate(chances):
        grip = max(free_s + 2.0, first + 0.5)  # on its way, down and closed: the rest of the cycle carries and opens
        if left[class_id] > 0 and grip <= last:
            fewer = tuple(n - (c == class_id) for c, n in enumerate(left))
            if can_have_all(chances[i + 1 :], fewer, grip + CYCLE_S - 2.0):
                return True
    return False


def test_a_picker_with_a_cycle_of_six_seconds_can_have_everything_that_is_ordered(cases):
    for case in cases:
        assert can_have_all(sorted(windows(case)), case.orders[-1].total, 0.0), (case.seed, case.events)


def test_parts_lie_on_the_belt_and_only_pairs_are_close(cases):
    for case in cases:
        for a in case.arrivals:
            assert CELL.belt_x_m[0] < a.x_m - 0.5 * a.part.size_m[1]
            assert a.x_m + 0.5 * a.part.size_m[1] < CELL.belt_x_m[1]
        for i, a in enumerate(case.arrivals):
            for b in case.arrivals[i + 1 :]:
                apart = np.hypot(a.x_m - b.x_m, a.start_y_m - b.start_y_m)
                pair = {"touching", "occluded"} & {a.kind, b.kind}
                reach = 0.5 * (min(a.part.size_m[:2]) + min(b.part.size_m[:2]))
                assert apart > (reach if pair else 0.1299), (case.seed, a, b)


def test_neighbours_of_touching_pairs_leave_the_sides_for_the_fingers_free(cases):
    seen = 0
    for case in cases:
        for a in case.arrivals:
            if a.kind != "touching":
                continue
            along = np.array([np.cos(a.yaw_rad), np.sin(a.yaw_rad)])
            for b in case.arrivals:
                offset = np.array([b.x_m - a.x_m, b.start_y_m - a.start_y_m])
                if b is a or np.linalg.norm(offset) > 0.125:
                    continue
                gap = abs(offset @ along) - 0.5 * (a.part.size_m[0] + b.part.size_m[0])
                assert 0.0 < gap < 0.0021
                assert abs(offset[0] * along[1] - offset[1] * along[0]) < 1e-6
                seen += 1
    assert seen > 20


def test_a_cell_is_never_full(cases):
    length = ENTRY_Y_M - CELL.belt_y_m[0]
    for case in cases:
        places = np.array([a.start_y_m for a in case.arrivals])
        assert (np.abs(places[:, None] - places[None]) < length).sum(axis=1).max() <= PARTS_MAX


def test_cancelled_orders_and_bins(cases):
    changed = [case for case in cases if len(case.orders) == 2]
    for case in changed:
        first, second = (np.array(order.total) for order in case.orders)
        assert ((first > 0) & (second == 0)).sum() == 1
        assert 0.0 < case.orders[1].time_s < case.duration_s - CYCLE_S
    for case in cases:
        assert set(case.bin_index) == {0, 1}


@pytest.mark.parametrize("suite", ["pick-static-v1", "pick-reach-v1"])
def test_quick_start_suites_hold_only_what_is_ordered(suite):
    for seed in range(20):
        case = cell_case(suite, "train", seed)
        assert case.motion == "static"
        assert len(case.arrivals) == sum(case.orders[0].total) <= 2
        assert all(CATALOGUE[a.part.kind].class_id >= 0 for a in case.arrivals)
