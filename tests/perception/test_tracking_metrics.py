from pathlib import Path

import numpy as np
import pytest

from visuomotor.perception.train.sort_baseline import Sort
from visuomotor.perception.train.tracking_metrics import (
    FrameObjects,
    TrackingScore,
    bootstrap,
    box_overlap,
    count_sequence,
    pool,
    score_sequence,
)

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "mot_tracking"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is not there")

Boxes = tuple[np.ndarray, np.ndarray, np.ndarray]


def read(path: Path) -> Boxes:
    rows = np.loadtxt(path, delimiter=",")
    box = rows[:, 2:6].copy()
    box[:, 2:] += box[:, :2]
    return rows[:, 0].astype(int), rows[:, 1].astype(int), box


def evaluate(truth: Boxes, tracks: Boxes) -> TrackingScore:
    frames = []
    for frame in range(1, max(truth[0].max(), tracks[0].max()) + 1):
        here, there = truth[0] == frame, tracks[0] == frame
        distance = 1 - box_overlap(truth[2][here], tracks[2][there])
        distance[distance > 0.5] = np.nan
        frames.append(FrameObjects(truth[1][here], tracks[1][there], distance))
    return score_sequence(frames)


@needs_data
@pytest.mark.parametrize(("name", "mota", "idf1"), [("TUD-Campus", 52.6, 55.8), ("TUD-Stadtmitte", 56.4, 64.5)])
def test_scores_equal_the_published_tool(name: str, mota: float, idf1: float) -> None:
    score = evaluate(read(DATA / name / "gt.txt"), read(DATA / name / "test.txt"))
    assert round(100 * score.mota, 1) == mota
    assert round(100 * score.idf1, 1) == idf1
    assert score.switches == 7


@needs_data
def test_sort_equals_its_published_figures() -> None:
    truth, found = read(DATA / "TUD-Campus" / "gt.txt"), read(DATA / "TUD-Campus" / "det.txt")
    sort = Sort()
    frames, ids, boxes = [], [], []
    for frame in range(1, truth[0].max() + 1):
        number, box = sort.update(found[2][found[0] == frame])
        sure = number >= 0
        frames.append(np.full(sure.sum(), frame))
        ids.append(number[sure])
        boxes.append(box[sure])
    score = evaluate(truth, (np.concatenate(frames), np.concatenate(ids), np.concatenate(boxes)))
    assert round(100 * score.mota, 1) == 62.7
    assert round(100 * score.recall, 1) == 68.5
    assert round(100 * score.precision, 1) == 94.3
    assert score.switches == 6


def frame(truth: list[int], tracks: list[int], pairs: dict[tuple[int, int], float]) -> FrameObjects:
    distance = np.full((len(truth), len(tracks)), np.nan)
    for (t, h), value in pairs.items():
        distance[truth.index(t), tracks.index(h)] = value
    return FrameObjects(np.array(truth, int), np.array(tracks, int), distance)


def test_a_swap_costs_two_switches_and_half_the_identity() -> None:
    same = {(1, 10): 0.1, (2, 20): 0.1}
    swapped = {(1, 20): 0.1, (2, 10): 0.1}
    score = score_sequence([frame([1, 2], [10, 20], pairs) for pairs in [same] * 2 + [swapped] * 2])
    assert score.switches == 2
    assert score.mota == pytest.approx(1 - 2 / 8)
    assert score.idf1 == pytest.approx(0.5)
    assert (score.recall, score.precision) == (1.0, 1.0)


def test_an_old_match_is_kept_while_it_is_allowed() -> None:
    near = frame([1], [10, 20], {(1, 10): 0.1})
    tempting = frame([1], [10, 20], {(1, 10): 0.4, (1, 20): 0.05})
    score = score_sequence([near, tempting])
    assert score.switches == 0
    assert score.motp == pytest.approx(0.25)


def test_misses_and_false_tracks_are_counted() -> None:
    score = score_sequence([frame([1, 2], [], {}), frame([], [5], {}), frame([1], [6], {(1, 6): 0.0})])
    assert (score.misses, score.false_positives, score.truths) == (2, 1, 3)
    assert score.mota == pytest.approx(1 - 3 / 3)


def test_two_truths_never_share_one_track() -> None:
    first = frame([1], [10], {(1, 10): 0.1})
    other = frame([2], [10], {(2, 10): 0.1})
    both = frame([1, 2], [10], {(1, 10): 0.1, (2, 10): 0.1})
    counts = count_sequence([first, other, both])
    assert counts.matches == 3


def test_pooling_adds_up_and_intervals_hold_the_mean() -> None:
    good = count_sequence([frame([1], [10], {(1, 10): 0.1})] * 10)
    bad = count_sequence([frame([1], [], {})] * 10)
    assert pool([good, bad]).mota == pytest.approx(0.5)
    low, high = bootstrap([good, bad] * 10, lambda s: s.mota)
    assert 0.0 < low < 0.5 < high < 1.0


def test_no_frames_score_nothing() -> None:
    score = score_sequence([])
    assert (score.truths, score.idf1) == (0, 0.0)


def test_sort_follows_a_moving_box_and_names_it_once() -> None:
    sort = Sort()
    names = [int(sort.update(np.array([[10.0 + 3 * k, 10, 40 + 3 * k, 60]]))[0][0]) for k in range(12)]
    assert len(set(names)) == 1
    assert names[0] == 1
    assert sort.update(np.zeros((0, 4)))[0].shape == (0,)
