"""The network learns, resumes and starts from other weights; labels and augmentation keep their meaning."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from visuomotor.messages.camera import CameraModel  # noqa: E402
from visuomotor.messages.schema import CAR, CLASS_NAMES, CONE, PEDESTRIAN  # noqa: E402
from visuomotor.perception.train.detector_augment import AugmentConfig, augment, flip, rescale  # noqa: E402
from visuomotor.perception.train.detector_checkpoint import load_weights  # noqa: E402
from visuomotor.perception.train.detector_data import (  # noqa: E402
    Objects,
    epoch_order,
    group_by_size,
    make_batch,
    read_objects,
    read_split,
    read_task,
)
from visuomotor.perception.train.detector_graph import DetectorGraph, box_iou, suppress  # noqa: E402
from visuomotor.perception.train.detector_infer import find_objects  # noqa: E402
from visuomotor.perception.train.detector_loss import LossConfig, assign, detector_loss, make_targets  # noqa: E402
from visuomotor.perception.train.detector_metrics import compute_ap  # noqa: E402
from visuomotor.perception.train.detector_model import (  # noqa: E402
    STRIDES_PX,
    Channels,
    DetectorConfig,
    DetectorModel,
    decode,
    flatten,
    make_locations,
    recalibrate,
)
from visuomotor.perception.train.detector_tasks import get_detector_task  # noqa: E402
from visuomotor.perception.train.detector_train import TrainConfig, learning_rate, train_detector  # noqa: E402

ROAD = get_detector_task("drive")
CHANNELS = Channels.of(5)
SMALL = DetectorConfig(widths=(16, 32, 32, 32), blocks=(1, 1, 1, 1), pyramid=32, head=32, dropout=0.0)
COLOURS = ((0, 0, 255), (255, 0, 0), (0, 255, 0), (255, 255, 0), (0, 140, 255))
SHAPES_PX = ((22, 16), (34, 26), (10, 16), (6, 18), (8, 10))
CAMERA = CameraModel(name="camera_front", width=96, height=64, fx=60.0, fy=60.0, cx=48.0, cy=32.0)


def draw(rng: np.random.Generator, width: int = 96, height: int = 64) -> tuple[np.ndarray, list[dict[str, object]]]:
    """An image with one to three coloured rectangles, and their annotations."""
    image = np.full((height, width, 3), 100, np.uint8)
    annotations: list[dict[str, object]] = []
    taken = np.zeros((height, width), bool)
    wanted = int(rng.integers(1, 4))
    while len(annotations) < wanted:
        class_id = int(rng.integers(0, 5))
        w, h = SHAPES_PX[class_id]
        x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
        if taken[y : y + h, x : x + w].any():
            continue
        taken[y : y + h, x : x + w] = True
        image[y : y + h, x : x + w] = COLOURS[class_id]
        annotations.append(
            {
                "category_id": class_id + 1,
                "bbox": [x, y, w, h],
                "area": w * h,
                "iscrowd": 0,
                "ground_px": [x + w / 2 - 0.5, y + h - 2.5],
                "ego_position_m": [10.0, -2.0],
                "distance_m": 10.2,
                "heading_rad": 0.3,
                "size_m": [4.0, 1.7, 1.5],
                "visible_share": 1.0,
                "agent_id": len(annotations),
            }
        )
    return image, annotations


def write_data(folder: Path, count: int = 8, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for split in ("train", "val"):
        (folder / split / "images").mkdir(parents=True)
        images, annotations = [], []
        for i in range(count):
            image, found = draw(rng)
            cv2.imwrite(str(folder / split / "images" / f"{i}.png"), image)
            images.append(
                {
                    "id": i,
                    "file_name": f"{i}.png",
                    "width": 96,
                    "height": 64,
                    "camera": "camera_front",
                    "episode": 0,
                    "tick": i,
                    "roll_rad": 0.0,
                    "pitch_rad": 0.0,
                }
            )
            annotations += [{**a, "image_id": i, "id": len(annotations) + j} for j, a in enumerate(found)]
        (folder / split / "annotations.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    CAMERA.save(folder / "camera_front.yaml")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("rectangles"))


def one_object(box: tuple[float, float, float, float], class_id: int = 0) -> Objects:
    return Objects(
        class_id=np.array([class_id]),
        box_px=np.array([box], np.float32),
        ground_px=np.array([[(box[0] + box[2]) / 2, box[3]]], np.float32),
        angle_rad=np.array([0.4], np.float32),
        size_m=np.array([[4.4, 1.8]], np.float32),
        scale_px=np.array([20.0], np.float32),
        wanted=np.array([True]),
        grounded=np.array([True]),
        distance_m=np.array([10.0], np.float32),
        visible_share=np.array([1.0], np.float32),
        ego_position_m=np.array([[10.0, 0.0]], np.float32),
    )


def test_raw_maps_have_a_location_every_stride() -> None:
    model = DetectorModel(SMALL).eval()
    for height, width in ((64, 96), (96, 320)):
        with torch.no_grad():
            raw = model(torch.zeros(2, 3, height, width))
        assert [tuple(m.shape) for m in raw] == [(2, CHANNELS.width, height // s, width // s) for s in STRIDES_PX]
        assert flatten(raw).shape == (2, len(make_locations(height, width)), CHANNELS.width)


def test_encoding_a_box_and_decoding_it_gives_the_box() -> None:
    box = torch.tensor([[30.0, 20.0, 71.0, 52.5]])
    location = torch.tensor([[50.0, 30.0, 8.0]])
    raw = torch.zeros(1, CHANNELS.width)
    raw[:, CHANNELS.box] = (torch.cat([location[:, :2] - box[:, :2], box[:, 2:] - location[:, :2]], 1) / 8.0).log()
    found = decode(raw, location, torch.tensor([[4.4, 1.8]]), CHANNELS)
    assert torch.allclose(found.box_px, box, atol=1e-4)
    assert torch.allclose(found.ground_px, torch.tensor([[50.5, 52.5]]), atol=1e-4)
    assert torch.allclose(found.size_m, torch.tensor([[4.4, 1.8]]))


def test_labels_are_read_with_the_angle_seen_from_the_camera() -> None:
    annotation = draw(np.random.default_rng(0))[1][0]
    annotation |= {"ego_position_m": [0.0, 10.0], "heading_rad": 2.0, "visible_share": 0.1, "ground_px": [3.0, 4.0]}
    objects = read_objects([annotation], CAMERA, ROAD)
    assert objects.angle_rad[0] == pytest.approx(2.0 - np.pi / 2, abs=1e-5)  # bearing from the camera: straight left
    assert objects.ground_px[0].tolist() == [3.5, 4.5]
    assert not objects.wanted[0]
    assert len(read_objects([], CAMERA, ROAD)) == 0


def test_flipping_twice_changes_nothing_and_once_mirrors_labels() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    before = one_object((10.0, 20.0, 31.0, 40.0))
    mirrored, once = flip(image, before.take(np.arange(1)))
    assert once.box_px[0].tolist() == [65.0, 20.0, 86.0, 40.0]
    assert once.ground_px[0].tolist() == [75.5, 40.0]
    assert once.angle_rad[0] == pytest.approx(-0.4)
    again, twice = flip(mirrored, once.take(np.arange(1)))
    assert np.array_equal(again, image)
    assert np.array_equal(twice.box_px, before.box_px)


def test_rescaled_boxes_stay_on_their_pixels() -> None:
    image = np.zeros((64, 96, 3), np.uint8)
    image[20:40, 30:60] = 255
    moved, objects = rescale(image, one_object((30.0, 20.0, 60.0, 40.0)), 1.2, np.array([5.0, -3.0]))
    rows, columns = np.nonzero(moved[:, :, 0] > 127)
    drawn = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert np.abs(objects.box_px[0] - drawn).max() <= 1.0


def test_objects_out_of_the_image_are_dropped_and_cut_ones_not_wanted() -> None:
    image = np.zeros((64, 96, 3), np.uint8)
    _, gone = rescale(image, one_object((80.0, 20.0, 95.0, 40.0)), 1.0, np.array([30.0, 0.0]))
    assert len(gone) == 0
    _, cut = rescale(image, one_object((70.0, 20.0, 90.0, 40.0)), 1.0, np.array([18.0, 0.0]))
    assert cut.box_px[0, 2] == 96.0
    assert not cut.wanted[0]


def test_augmentation_leaves_its_input_alone_and_repeats_with_the_seed() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    copy, objects = image.copy(), one_object((10.0, 20.0, 31.0, 40.0))
    for seed in range(20):
        pictures = [augment(image, objects, AugmentConfig(), np.random.default_rng(seed))[0] for _ in range(2)]
        assert np.array_equal(*pictures)
        assert pictures[0].shape == image.shape
        assert pictures[0].dtype == np.uint8
    assert np.array_equal(image, copy)
    assert objects.box_px[0].tolist() == [10.0, 20.0, 31.0, 40.0]


def test_epochs_draw_images_by_weight_in_batches_of_one_size(data: Path) -> None:
    groups = group_by_size(read_split(data, "train"))
    for group in groups:
        for image in group:
            image.objects.class_id[:] = PEDESTRIAN if image is group[0] else CAR
            image.objects.wanted[:] = image is not group[-1]
    rng = np.random.default_rng(0)
    drawn: dict[int, int] = {}
    for _ in range(200):
        epoch = list(epoch_order(groups, 4, rng))
        assert all(len({image.image.shape for image in batch}) == 1 for batch in epoch)
        assert sum(map(len, epoch)) == sum(map(len, groups))
        for batch in epoch:
            for image in batch:
                drawn[image.image_id] = drawn.get(image.image_id, 0) + 1
    for group in groups:
        weights = [2.0, *[1.0] * (len(group) - 2), 0.4]
        expected = 200 * len(group) * np.array(weights) / sum(weights)
        np.testing.assert_allclose([drawn[image.image_id] for image in group], expected, atol=15)
    parts = [read_split(data, "train", part=part, parts=2) for part in range(2)]
    assert sorted(i.image_id for part in parts for i in part) == list(range(8))


def test_reading_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"annotations\.json: cannot be read"):
        read_split(tmp_path, "train")
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "annotations.json").write_text('{"images": 3}')
    with pytest.raises(ValueError, match="images: expected a list, got int"):
        read_split(tmp_path, "train")


def test_each_object_gets_locations_inside_it_and_even_a_thin_one_gets_some() -> None:
    locations = make_locations(64, 96)
    objects = make_batch(
        [np.zeros((64, 96, 3), np.uint8)] * 2,
        [one_object((20.0, 20.0, 40.0, 40.0)), one_object((50.5, 30.0, 52.0, 41.0), 3)],
    )
    targets = make_targets(objects, ROAD.task.symmetry)
    box = torch.cat([locations[:, :2] - 8.0, locations[:, :2] + 8.0], 1).expand(2, -1, -1)
    owner, location, score = assign(torch.full((2, len(locations), 5), 0.1), box, locations, targets, LossConfig())
    assert set(owner.tolist()) == {0, 1}
    first = locations[location[owner == 0]][:, :2]
    assert ((first > 20.0) & (first < 40.0)).all()
    assert (score > 0.0).all()
    assert (score <= 1.0).all()
    targets.wanted[:] = False
    assert len(assign(torch.full((2, len(locations), 5), 0.1), box, locations, targets, LossConfig())[0]) == 0


def test_suppression_is_greedy_along_a_chain() -> None:
    """b overlaps a, c overlaps b but not a: a and c stay."""
    box = torch.tensor([[[0.0, 0, 10, 10], [2, 0, 12, 10], [4, 0, 14, 10], [50, 0, 60, 10]]])
    assert box_iou(box, box)[0, 0, 2] < 0.6 < box_iou(box, box)[0, 0, 1]
    assert suppress(box, torch.zeros(1, 4, dtype=torch.int64))[0].tolist() == [1.0, 0.0, 1.0, 1.0]
    assert suppress(box, torch.arange(4)[None])[0].tolist() == [1.0, 1.0, 1.0, 1.0]  # other classes may overlap more


def test_graph_of_an_untrained_model_finds_nothing_and_pads_with_zeros() -> None:
    graph = DetectorGraph(DetectorModel(SMALL).eval(), 64, 96)
    with torch.no_grad():
        outputs = graph(torch.zeros(2, 64, 96, 3, dtype=torch.uint8))
    assert outputs[-1].tolist() == [0, 0]
    assert all(float(o.abs().sum()) == 0.0 for o in outputs)
    with pytest.raises(ValueError, match="multiple of 32, got 90x64"):
        DetectorGraph(DetectorModel(SMALL), 64, 90)


def test_loss_of_images_without_objects_is_finite_and_has_gradients() -> None:
    model = DetectorModel(SMALL)
    empty = one_object((0.0, 0.0, 9.0, 9.0)).take(np.zeros(0, int))
    batch = make_batch([np.zeros((64, 96, 3), np.uint8)], [empty])
    raw = model(torch.zeros(1, 3, 64, 96))
    loss, terms = detector_loss(
        model, raw, make_locations(64, 96), make_targets(batch, ROAD.task.symmetry), LossConfig()
    )
    loss.backward()
    assert torch.isfinite(loss)
    assert terms["positives"] == 0.0
    assert all(p.grad is not None for p in model.parameters())


def test_it_learns_rectangles(data: Path) -> None:
    torch.manual_seed(0)
    images = read_split(data, "train")
    model = DetectorModel(SMALL)
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3)
    locations = make_locations(64, 96)
    batch = make_batch([i.image for i in images], [i.objects for i in images])
    x = torch.from_numpy(batch.images).permute(0, 3, 1, 2).float()
    for step in range(60):
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * min(1.0, (step + 1) / 5, (60 - step) / 25)
        loss, _ = detector_loss(model, model(x), locations, make_targets(batch, ROAD.task.symmetry), LossConfig())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    recalibrate(model, [x])
    found = find_objects(model, [i.image for i in images])
    ap = compute_ap([i.objects for i in images], found, ROAD)
    assert ap["ap50"] > 0.9
    assert ap["ap50_95"] > 0.5
    best = found[0]
    angle = np.arctan2(best.heading[0, 0], best.heading[0, 1])
    assert angle == pytest.approx(images[0].objects.angle_rad[0], abs=0.15)
    nearest = np.abs(images[0].objects.ground_px - 0.5 - best.ground_px[0]).sum(1).min()
    assert nearest < 3.0


def test_training_run_writes_resumes_and_transfers(data: Path, tmp_path: Path) -> None:
    config = TrainConfig(epochs=1, batch=4, threads=1, model=SMALL, evaluate_minutes=0.0, warm_up_steps=2)
    run = train_detector(data, tmp_path, config=config)
    names = {path.name for path in run.iterdir()}
    assert {"config.json", "metrics.jsonl", "best.safetensors", "last.pt"} <= names
    assert any(name.startswith("events.out") for name in names)
    longer = TrainConfig(epochs=2, batch=4, threads=1, model=SMALL, evaluate_minutes=0.0, warm_up_steps=2)
    train_detector(data, tmp_path, resume=True, config=longer)
    history = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in history] == [1, 2]
    assert [line["step"] for line in history] == [2, 4]
    other = DetectorModel(SMALL)
    load_weights(other, run / "best.safetensors")
    frozen = TrainConfig(epochs=1, batch=4, threads=1, model=SMALL, freeze_backbone=True, warm_up_steps=1)
    tuned = train_detector(data, tmp_path / "tuned", init=run / "best.safetensors", config=frozen)
    third = DetectorModel(SMALL)
    load_weights(third, tuned / "best.safetensors")
    assert torch.equal(third.backbone.stem[0].weight, other.backbone.stem[0].weight)
    assert not torch.equal(third.outs[0].bias, other.outs[0].bias)


def test_two_processes_train_one_model(data: Path, tmp_path: Path) -> None:
    config = TrainConfig(epochs=1, batch=8, threads=2, model=SMALL, evaluate_minutes=0.0, warm_up_steps=2)
    run = train_detector(data, tmp_path, config=config)
    (line,) = (run / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["step"] == 1  # eight images over two processes, four at a time


def test_training_refuses_what_does_not_fit(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to resume from"):
        train_detector(data, tmp_path, resume=True)
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        load_weights(DetectorModel(SMALL), tmp_path / "missing.safetensors")


def test_learning_rate_warms_up_and_ends_at_zero() -> None:
    config = TrainConfig(learning_rate=0.01, warm_up_steps=10)
    assert learning_rate(config, 0, 0.0) == pytest.approx(0.001)
    assert learning_rate(config, 9, 0.0) == pytest.approx(0.01)
    assert learning_rate(config, 500, 0.5) == pytest.approx(0.005)
    assert learning_rate(config, 999, 1.0) == pytest.approx(0.0, abs=1e-12)


def test_class_order_is_that_of_the_schema() -> None:
    assert CLASS_NAMES[CONE] == "cone"
    assert len(DetectorConfig().size_prior_m) == len(CLASS_NAMES)


BELT = get_detector_task("pick")
ABOVE = CameraModel(
    name="camera_top", width=96, height=64, fx=80.0, fy=80.0, cx=48.0, cy=32.0, ego_position_m=(0.5, 0.2, 1.0),
    ego_yaw_rad=0.5, ego_pitch_rad=np.pi / 2,
)  # fmt: skip


def test_the_categories_of_a_data_set_say_its_task(data: Path, tmp_path: Path) -> None:
    assert read_task(data) is ROAD  # one that was made before there were others names none
    coco = json.loads((data / "train" / "annotations.json").read_text())
    (tmp_path / "train").mkdir()
    for names, task in ((ROAD.task.class_names, ROAD), (BELT.task.class_names, BELT)):
        coco["categories"] = [{"id": i + 1, "name": name} for i, name in enumerate(names)][::-1]
        (tmp_path / "train" / "annotations.json").write_text(json.dumps(coco))
        assert read_task(tmp_path) is task
    coco["categories"] = [{"id": 1, "name": "bolt"}]
    (tmp_path / "train" / "annotations.json").write_text(json.dumps(coco))
    with pytest.raises(ValueError, match=r"categories: expected the classes of a task \(drive: car.*\), got bolt"):
        read_task(tmp_path)


def test_labels_of_a_camera_above_are_counted_from_its_picture() -> None:
    base = draw(np.random.default_rng(0))[1][0] | {
        "size_m": [0.08, 0.04, 0.04],
        "category_id": 3,
        "bbox": [40, 30, 9, 5],
    }
    held = {**base, "ego_position_m": [0.5, 0.2], "heading_rad": 2.0, "height_m": 0.2}
    lies = {**base, "ego_position_m": [0.7, -0.1], "heading_rad": -1.0}
    objects = read_objects([held, lies], ABOVE, BELT)
    assert objects.angle_rad == pytest.approx([1.5, -1.5], abs=1e-5)  # from the camera's own yaw
    assert objects.grounded.tolist() == [False, True]
    assert objects.scale_px == pytest.approx([BELT.reference_length_m * 80.0] * 2, rel=1e-4)
    assert objects.wanted.all()  # five pixels high: a road's object would be too small
    targets = make_targets(make_batch([np.zeros((64, 96, 3), np.uint8)], [objects]), BELT.task.symmetry)
    assert targets.heading[0].tolist() == pytest.approx([np.sin(3.0), np.cos(3.0)], abs=1e-5)  # a block, modulo half


def test_a_lifted_object_teaches_its_class_and_no_place() -> None:
    torch.manual_seed(0)
    model = DetectorModel(SMALL)
    lifted = one_object((20.0, 20.0, 40.0, 40.0))
    lifted.grounded[:] = False
    batch = make_batch([np.zeros((64, 96, 3), np.uint8)], [lifted])
    targets = make_targets(batch, ROAD.task.symmetry)
    loss, terms = detector_loss(model, model(torch.zeros(1, 3, 64, 96)), make_locations(64, 96), targets, LossConfig())
    assert torch.isfinite(loss)
    assert terms["ground"] == 0.0
    assert terms["positives"] > 0


def test_settings_left_open_are_those_of_the_task() -> None:
    settled = TrainConfig().settled(BELT)
    assert settled.model is not None
    assert len(settled.model.size_prior_m) == len(BELT.task.class_names)
    assert settled.loss.heading_weight == BELT.heading_weight
    assert settled.augment == BELT.augment
    assert TrainConfig(augment=AugmentConfig(flip=0.0)).settled(ROAD).augment == AugmentConfig(flip=0.0)
    with pytest.raises(ValueError, match="model: expected one for the 6 classes of pick, got 5"):
        TrainConfig(model=SMALL).settled(BELT)
