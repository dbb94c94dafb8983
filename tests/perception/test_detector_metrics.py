"""Hand-made cases of AP, matching, thresholds, position errors and the covariance table."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("faster_coco_eval")

from visuomotor.messages.camera import CameraModel
from visuomotor.perception.train.detector_data import LabelledImage, Objects
from visuomotor.perception.train.detector_metrics import (
    Found,
    bootstrap,
    choose_thresholds,
    compute_ap,
    fit_position_sigma,
    match,
    measure_positions,
    rate_matches,
    summarise_positions,
)
from visuomotor.perception.train.detector_tasks import get_detector_task

ROAD = get_detector_task("drive")
CAMERA = CameraModel(name="camera_front", width=384, height=224, fx=230.0, fy=230.0, cx=192.0, cy=112.0)
Box = tuple[float, float, float, float]


def label(*boxes: Box, class_id: int = 0, visible: float = 1.0, position: tuple[float, float] = (10.0, 0.0)) -> Objects:
    n = len(boxes)
    return Objects(
        class_id=np.full(n, class_id),
        box_px=np.array(boxes, np.float32).reshape(-1, 4),
        ground_px=np.zeros((n, 2), np.float32),
        angle_rad=np.zeros(n, np.float32),
        size_m=np.tile(np.array([[4.4, 1.8]], np.float32), (n, 1)),
        scale_px=np.full(n, 20.0, np.float32),
        wanted=np.ones(n, bool),
        grounded=np.ones(n, bool),
        distance_m=np.full(n, np.hypot(*position), np.float32),
        visible_share=np.full(n, visible, np.float32),
        ego_position_m=np.tile(np.array([position], np.float32), (n, 1)),
    )


def detect(
    *boxes: Box, scores: tuple[float, ...], class_id: int = 0, ground: tuple[float, float] = (0.0, 0.0)
) -> Found:
    n = len(boxes)
    return Found(
        box_px=np.array(boxes, np.float32).reshape(-1, 4),
        score=np.array(scores, np.float32),
        class_id=np.full(n, class_id),
        ground_px=np.tile(np.array([ground], np.float32), (n, 1)),
        heading=np.tile(np.array([[0.0, 1.0]], np.float32), (n, 1)),
        size_m=np.tile(np.array([[4.4, 1.8]], np.float32), (n, 1)),
    )


A: Box = (10.0, 10.0, 40.0, 40.0)
B: Box = (100.0, 100.0, 140.0, 130.0)
SMALL: Box = (200.0, 100.0, 208.0, 108.0)  # 8 px high: below the bar


def test_perfect_detections_score_one_and_none_score_zero() -> None:
    ap = compute_ap([label(A, B)], [detect(A, B, scores=(0.9, 0.8))], ROAD)
    assert ap["ap50"] == pytest.approx(1.0)
    assert ap["ap50_95"] == pytest.approx(1.0)
    assert compute_ap([label(A)], [detect(scores=())], ROAD)["ap50"] == 0.0
    assert compute_ap([], [], ROAD) == {"ap50": 0.0, "ap50_95": 0.0, "by_class": {}}


def test_a_box_off_by_a_third_counts_at_50_but_not_at_every_threshold() -> None:
    shifted = (15.0, 10.0, 45.0, 40.0)  # IoU 25 / 35 = 0.71: right at 0.50 to 0.70, five of ten thresholds
    ap = compute_ap([label(A)], [detect(shifted, scores=(0.9,))], ROAD)
    assert ap["ap50"] == pytest.approx(1.0)
    assert ap["ap50_95"] == pytest.approx(0.5)


def test_a_false_alarm_above_the_right_one_halves_precision() -> None:
    ap = compute_ap([label(A)], [detect(B, A, scores=(0.9, 0.8))], ROAD)
    assert ap["ap50"] == pytest.approx(0.5)


def test_small_and_hidden_objects_are_neither_missed_nor_false() -> None:
    truth = [label(A), label(SMALL), label(B, visible=0.2)]
    found = [detect(A, scores=(0.5,)), detect(SMALL, scores=(0.9,)), detect(B, scores=(0.95,))]
    assert compute_ap(truth, found, ROAD)["ap50"] == pytest.approx(1.0)
    m = match(truth, found, ROAD)
    assert m.right.tolist() == [True]
    assert m.truth_class_id.tolist() == [0]
    silent = [found[0], detect(scores=()), detect(scores=())]
    assert compute_ap(truth, silent, ROAD)["ap50"] == pytest.approx(1.0)


def test_the_mean_over_classes_is_macro() -> None:
    truth = [label(A, B), label(A, class_id=4)]
    ap = compute_ap(truth, [detect(A, B, scores=(0.9, 0.8)), detect(scores=())], ROAD)
    assert ap["by_class"]["car"]["ap50"] == pytest.approx(1.0)
    assert ap["by_class"]["cone"]["ap50"] == 0.0
    assert ap["ap50"] == pytest.approx(0.5)


def test_wrong_class_is_a_miss_and_a_false_alarm() -> None:
    m = match([label(A)], [detect(A, scores=(0.9,), class_id=1)], ROAD)
    assert m.right.tolist() == [False]
    assert m.pair.tolist() == [-1]


def test_each_label_is_found_once() -> None:
    m = match([label(A)], [detect(A, A, scores=(0.6, 0.9))], ROAD)
    assert m.score.tolist() == pytest.approx([0.9, 0.6])
    assert m.right.tolist() == [True, False]
    assert m.pair.tolist() == [1]


def test_rates_follow_the_threshold() -> None:
    m = match([label(A, B)], [detect(A, B, SMALL, scores=(0.9, 0.4, 0.35))], ROAD)
    low, high = rate_matches(m, [0.3] * 5, 1, ROAD), rate_matches(m, [0.5] * 5, 1, ROAD)
    assert (low["recall"], high["recall"]) == (1.0, 0.5)
    assert low["precision"] == pytest.approx(2 / 3)
    assert high["precision"] == 1.0
    assert low["by_class"]["car"]["false_positives_per_image"] == 1.0
    assert low["recall_by_range"] == [{"from_m": 10.0, "to_m": 15.0, "objects": 2, "recall": 1.0}]


def test_threshold_lies_between_right_and_wrong() -> None:
    truth, found = [label(A)] * 20, [detect(A, B, scores=(0.5, 0.3))] * 20
    threshold = choose_thresholds(match(truth, found, ROAD), ROAD)
    assert 0.3 < threshold[0] <= 0.5
    assert threshold[1:] == [0.3] * 4  # classes that never occur


def image_at(position: tuple[float, float], pitch_rad: float) -> LabelledImage:
    return LabelledImage(
        image_id=0,
        file_name="0.png",
        camera="camera_front",
        episode=0,
        roll_rad=0.0,
        pitch_rad=pitch_rad,
        image=np.zeros((224, 384, 3), np.uint8),
        objects=label(A, position=position),
    )


@pytest.mark.parametrize("pitch_rad", [0.0, 0.02])
def test_position_errors_along_and_across_the_ray(pitch_rad: float) -> None:
    image = image_at((12.0, 5.0), pitch_rad)
    exact = CAMERA.project(np.array([[12.0, 5.0, 0.0]]), 0.0, pitch_rad)[0][0]
    farther = CAMERA.project(np.array([[24.0, 10.0, 0.0]]), 0.0, pitch_rad)[0][0]
    beside = CAMERA.project(np.array([[12.0, 5.5, 0.0]]), 0.0, pitch_rad)[0][0]
    rows = []
    for px in (exact, farther, beside):
        found = [detect(A, scores=(0.9,), ground=tuple(px))]
        e = measure_positions(
            [image], found, match([image.objects], found, ROAD), {"camera_front": CAMERA}, [0.3] * 5, ROAD
        )
        rows.append((e.range_m[0], e.lateral_m[0]))
    assert rows[0] == pytest.approx((0.0, 0.0), abs=1e-3)
    assert rows[1] == pytest.approx((13.0, 0.0), abs=1e-2)
    assert rows[2][1] == pytest.approx(0.5 * 12.0 / 13.0, abs=0.02)


def test_a_ground_point_above_the_horizon_counts_as_infinite_error() -> None:
    image = image_at((12.0, 0.0), 0.0)
    found = [detect(A, scores=(0.9,), ground=(192.0, 20.0))]
    e = measure_positions(
        [image], found, match([image.objects], found, ROAD), {"camera_front": CAMERA}, [0.3] * 5, ROAD
    )
    assert np.isinf(e.range_m).all()
    summary = summarise_positions(e, ROAD)
    assert summary["within_30_m"]["range_median_m"] == float("inf")
    assert fit_position_sigma(e, ROAD)["range_m"] == [0.0, 100.0]  # nothing to fit: the wide default


def test_sigma_table_recovers_known_noise() -> None:
    rng = np.random.default_rng(0)
    images, found = [], []
    for _ in range(400):
        x = rng.uniform(8.5, 11.5)
        images.append(image_at((x, 0.0), 0.0))
        guess = np.array([[x + rng.normal(0.0, 0.4), rng.normal(0.0, 0.1), 0.0]])
        found.append(detect(A, scores=(0.9,), ground=tuple(CAMERA.project(guess)[0][0])))
    matches = match([i.objects for i in images], found, ROAD)
    e = measure_positions(images, found, matches, {"camera_front": CAMERA}, [0.3] * 5, ROAD)
    table = fit_position_sigma(e, ROAD)
    middle = int(np.argmin(np.abs(np.array(table["range_m"]) - 10.0)))
    assert table["along_m"][middle] == pytest.approx(0.4, rel=0.2)
    assert table["across_m"][middle] == pytest.approx(0.1, rel=0.2)


def test_bootstrap_interval_holds_the_mean() -> None:
    values = np.random.default_rng(1).normal(3.0, 1.0, 200)
    result = bootstrap(lambda index: float(values[index].mean()), 200)
    assert result["low"] < result["mean"] < result["high"]
    assert result["high"] - result["low"] == pytest.approx(4 * 1.0 / np.sqrt(200), rel=0.3)
    assert result["n"] == 200
