"""From a short training run to bundles: parity with torch, thresholds, evaluation through ONNX Runtime, explanation."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from visuomotor.deploy.export.detector import check_export, export_detector  # noqa: E402
from visuomotor.deploy.export.parity import ParityError  # noqa: E402
from visuomotor.deploy.runtime.bundle import Bundle, BundleError, load_bundle  # noqa: E402
from visuomotor.deploy.runtime.session import make_session  # noqa: E402
from visuomotor.messages.camera import CameraModel  # noqa: E402
from visuomotor.messages.schema import CLASS_NAMES  # noqa: E402
from visuomotor.perception.detector import Detector  # noqa: E402
from visuomotor.perception.train.detector_augment import AugmentConfig  # noqa: E402
from visuomotor.perception.train.detector_data import read_split  # noqa: E402
from visuomotor.perception.train.detector_eval import eval_detector  # noqa: E402
from visuomotor.perception.train.detector_explain import attention_map, explain_detector  # noqa: E402
from visuomotor.perception.train.detector_infer import find_objects  # noqa: E402
from visuomotor.perception.train.detector_model import DetectorConfig, DetectorModel  # noqa: E402
from visuomotor.perception.train.detector_train import TrainConfig, train_detector  # noqa: E402

SMALL = DetectorConfig(widths=(16, 16, 32, 32), blocks=(0, 1, 1, 1), pyramid=32, head=32, dropout=0.0)
CAMERA = CameraModel(name="camera_front", width=96, height=64, fx=60.0, fy=60.0, cx=48.0, cy=20.0)
SIZE_M = (4.4, 1.8, 1.5)


def write_data(folder: Path) -> Path:
    """Red and blue boxes standing on the ground, 6 to 12 m ahead; every split the same eight images."""
    rng = np.random.default_rng(0)
    pictures, annotations = [], []
    for i in range(8):
        image = np.full((64, 96, 3), 110, np.uint8)
        position = np.array([rng.uniform(6.0, 12.0), rng.uniform(-2.0, 2.0)])
        ground = CAMERA.project(np.array([[*position, 0.0]]))[0][0]
        height = round(1.5 * 60.0 / position[0])
        x, y = round(ground[0] - height * 0.7), round(ground[1] - height + 1)
        box = [max(x, 0), max(y, 0), min(x + round(1.4 * height), 96), min(y + height, 64)]
        image[box[1] : box[3], box[0] : box[2]] = ((30, 30, 220), (220, 60, 30))[i % 2]
        pictures.append(image)
        annotations.append(
            {
                "id": i,
                "image_id": i,
                "category_id": 1 + i % 2,
                "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                "area": 1,
                "iscrowd": 0,
                "ground_px": ground.tolist(),
                "ego_position_m": position.tolist(),
                "distance_m": float(np.hypot(*position)),
                "heading_rad": 0.0,
                "size_m": SIZE_M,
                "visible_share": 1.0,
                "agent_id": 1,
            }
        )
    rows = [
        {"id": i, "file_name": f"{i}.png", "width": 96, "height": 64, "camera": "camera_front", "episode": 0, "tick": i}
        for i in range(8)
    ]
    for split in ("train", "val", "test"):
        (folder / split / "images").mkdir(parents=True)
        for i, image in enumerate(pictures):
            cv2.imwrite(str(folder / split / "images" / f"{i}.png"), image)
        images = [{**row, "roll_rad": 0.0, "pitch_rad": 0.0} for row in rows]
        (folder / split / "annotations.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    CAMERA.save(folder / "camera_front.yaml")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("boxes"))


@pytest.fixture(scope="module")
def bundle(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("out")
    still = AugmentConfig(flip=0.0, geometry=0.0, erase=0.0, colour=0.0, noise=0.0, blur=0.0)
    config = TrainConfig(
        epochs=150,
        batch=8,
        threads=1,
        model=SMALL,
        augment=still,
        warm_up_steps=5,
        learning_rate=5e-3,
        ema_decay=0.9,
        evaluate_minutes=60.0,
    )
    run = train_detector(data, out, config=config)
    (made,) = export_detector(run, data, out / "models")
    return made


def test_bundle_holds_what_the_network_needs(bundle: Bundle) -> None:
    assert bundle.name == "drive-detector-front"
    again = load_bundle(bundle.path, "detector")
    assert again.meta.class_names == CLASS_NAMES
    assert again.meta.parity["passed"]
    assert again.meta.parity["cases"] >= 8
    assert again.weights_path is not None
    assert {"val", "test"} <= set(again.meta.metrics)
    assert again.meta.metrics["test"]["summary"]["ap50"]["n"] == 8
    report = (bundle.path / "report.md").read_text()
    assert "AP50:95" in report
    assert "## Scores on test" in report


def test_evaluation_runs_the_shipped_graph(bundle: Bundle, data: Path) -> None:
    scores = eval_detector(bundle, data, "test", device="cpu")
    own = scores["drive-detector-front"]
    assert own["provider"] == "CPUExecutionProvider"
    assert own["latency_ms"]["p50"] > 0.0
    assert own["images"] == 8
    assert scores["summary"]["ap50"]["mean"] == pytest.approx(own["ap"]["ap50"])
    assert own["ap"]["ap50"] > 0.8
    near = own["positions"]["within_30_m"]
    assert near["lateral_median_m"] < 0.5
    assert near["range_median_m"] < 1.5
    json.dumps(scores, allow_nan=False)


def test_positions_of_the_run_time_are_those_of_the_labels(bundle: Bundle, data: Path) -> None:
    detector = Detector(bundle, CAMERA, "cpu")
    errors = []
    for image in read_split(data, "test"):
        found = detector.detect(image.image)
        if len(found):
            errors.append(np.hypot(*(found.ego_position_m[0] - image.objects.ego_position_m[0])))
    assert len(errors) >= 6
    assert np.median(errors) < 1.5


def test_evaluation_names_a_size_that_no_bundle_takes(bundle: Bundle, data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "test" / "images").mkdir(parents=True)
    cv2.imwrite(str(other / "test" / "images" / "0.png"), np.zeros((32, 48, 3), np.uint8))
    row = {"id": 0, "file_name": "0.png", "width": 48, "height": 32, "camera": "camera_front"}
    text = json.dumps({"images": [{**row, "roll_rad": 0.0, "pitch_rad": 0.0}], "annotations": []})
    (other / "test" / "annotations.json").write_text(text)
    with pytest.raises(ValueError, match="no image of a size that the bundles take"):
        eval_detector(bundle, other, "test")
    with pytest.raises(BundleError, match="no such bundle"):
        eval_detector(tmp_path / "nothing", data, "test")


def test_parity_notices_other_weights(bundle: Bundle, data: Path) -> None:
    """A graph exported before the last change of the weights must not pass."""
    torch.manual_seed(0)
    model = DetectorModel(SMALL).eval()
    with torch.no_grad():
        for out in model.outs:
            out.bias[:5] = 1.0  # finds something everywhere
    images = [i.image for i in read_split(data, "val")]
    with pytest.raises(ParityError, match="export differs"):
        check_export(model, bundle.model_path.read_bytes(), images, 64, 96).raise_if_failed()


def test_a_batch_in_torch_equals_single_frames_in_onnx(bundle: Bundle, data: Path) -> None:
    from visuomotor.perception.train.detector_checkpoint import load_weights

    model = DetectorModel(SMALL)
    assert bundle.weights_path is not None
    load_weights(model, bundle.weights_path)
    images = [i.image for i in read_split(data, "val")]
    detector = Detector(bundle, CAMERA, "cpu")
    for image, expected in zip(images, find_objects(model, images), strict=True):
        found = detector.infer(image)
        assert len(found["score"]) == len(expected.score)
        assert found["score"] == pytest.approx(expected.score, abs=1e-4)
        assert found["box_px"] == pytest.approx(expected.box_px, abs=1e-2)


def test_the_network_looks_at_the_object(bundle: Bundle, data: Path, tmp_path: Path) -> None:
    from visuomotor.perception.train.detector_checkpoint import load_weights

    model = DetectorModel(SMALL)
    assert bundle.weights_path is not None
    load_weights(model, bundle.weights_path)
    images = read_split(data, "val")
    inside, outside = [], []
    for image in images:
        heat = attention_map(model, image.image)
        assert heat.shape == (64, 96)
        assert 0.0 <= heat.min() <= heat.max() <= 1.0
        x0, y0, x1, y1 = image.objects.box_px[0].astype(int)
        box = np.zeros((64, 96), bool)
        box[max(y0 - 6, 0) : y1 + 6, max(x0 - 6, 0) : x1 + 6] = True
        inside.append(heat[box].mean())
        outside.append(heat[~box].mean())
    assert np.mean(inside) > 1.3 * np.mean(outside)  # over all: the small net misses some, others on other CPUs
    paths = explain_detector(model, images[:2], find_objects(model, [i.image for i in images[:2]]), tmp_path)
    assert [path.name for path in paths] == ["0.png", "1.png"]
    picture = cv2.imread(str(paths[0]))
    assert picture is not None
    assert picture.shape == (128, 384, 3)


def test_exported_graph_has_static_shapes_and_its_own_preprocessing(bundle: Bundle) -> None:
    session = make_session(bundle, device="cpu")
    assert session.input_shapes == {"frame": (1, 64, 96, 3)}
    assert session.input_dtypes == {"frame": "uint8"}
    outputs = session.run({"frame": np.zeros((1, 64, 96, 3), np.uint8)})
    assert {name: value.shape for name, value in outputs.items()} == {
        "box_px": (48, 4),
        "score": (48,),
        "class_id": (48,),
        "ground_px": (48, 2),
        "heading": (48, 2),
        "size_m": (48, 2),
        "count": (),
    }
    assert not outputs["box_px"][int(outputs["count"]) :].any()
