"""Detectors of somebody else become bundles that say what their own pipeline would say, in the frame's pixels."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("onnx")

import foreign_models as foreign
import onnx
from onnx import TensorProto, helper

from visuomotor.deploy.export.foreign_detector import ForeignSettings, import_detector
from visuomotor.deploy.export.foreign_layouts import Layout
from visuomotor.deploy.export.revision import find_revision
from visuomotor.deploy.runtime.bundle import Bundle, load_bundle
from visuomotor.deploy.runtime.session import make_session
from visuomotor.launch.cli import run_app
from visuomotor.messages.camera import CameraModel
from visuomotor.messages.schema import CAR, CLASS_NAMES, PEDESTRIAN, TRUCK
from visuomotor.perception.detector_contract import OUTPUTS, output_specs

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
NANO, COCO = DATA / "models_onnx" / "yolox_nano.onnx", DATA / "models_onnx" / "coco.names"
STILLS = DATA / "driving_video" / "test_images"
needs_data = pytest.mark.skipif(not (NANO.is_file() and STILLS.is_dir()), reason=f"{DATA} has no detector and stills")

LABELS = ("person", "car", "bench", "bus")
MEANING = {0: PEDESTRIAN, 1: CAR, 3: TRUCK}


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.txt"
    path.write_text("\n".join(LABELS) + "\n")
    return path


def bundle_of(file: Path, layout: str, labels: Path, size: tuple[int, int], **options: float) -> Bundle:
    """Bundle beside the file for frames of (width, height)."""
    width, height = size
    settings = ForeignSettings(layout=Layout(layout), labels=labels, width=width, height=height, **options)
    return import_detector(file, file.with_name(f"{file.stem}-{width}x{height}"), settings)


def table_model(path: Path, image: tuple[int | str, ...], table: np.ndarray) -> Path:
    """A network that answers with the same table to whatever it sees."""
    nodes = [
        helper.make_node("ReduceMin", ["images"], ["least"], keepdims=0),
        helper.make_node("Mul", ["least", "zero"], ["nothing"]),
        helper.make_node("Add", ["table", "nothing"], ["output"]),
    ]
    return foreign.save_model(path, nodes, {"zero": np.array(0.0, np.float32), "table": table}, image, table.shape)


def find(bundle: Bundle, image: np.ndarray) -> dict[str, np.ndarray]:
    """What the bundle finds, cut to its count; what lies past the count must be zero."""
    found = make_session(bundle, device="cpu").run({"frame": image[None]})
    count = int(found.pop("count"))
    assert all(not value[count:].any() for value in found.values())
    return {name: value[:count] for name, value in found.items()}


def check_against(
    found: dict[str, np.ndarray],
    expected: list[tuple[int, float, np.ndarray]],
    size: tuple[int, int],
    score_margin: float,
) -> None:
    """The same objects: classes equal, boxes within a pixel, scores within the margin."""
    assert len(found["score"]) == len(expected)
    assert (np.diff(found["score"]) <= 0).all()
    left = list(range(len(expected)))
    for class_id, score, box in zip(found["class_id"], found["score"], found["box_px"], strict=True):
        best = min(left, key=lambda i: float(np.abs(np.clip(expected[i][2], 0, size * 2) - box).max()))
        left.remove(best)
        assert class_id == expected[best][0]
        assert score == pytest.approx(expected[best][1], abs=score_margin)
        assert np.abs(np.clip(expected[best][2], 0, size * 2) - box).max() < 1.0


# ------------------------------------------------------------------------------------------------------------- YOLOX


@pytest.mark.parametrize("opset", [11, 13, 17])
@pytest.mark.parametrize("size", [(384, 224), (517, 333), (150, 400)])
def test_yolox_in_the_graph_equals_the_pipeline_around_it(
    tmp_path: Path, labels: Path, size: tuple[int, int], opset: int
) -> None:
    file = foreign.make_yolox(tmp_path / "tiny.onnx", 64, 96, len(LABELS), opset=opset)
    bundle = bundle_of(file, "yolox", labels, size, score_threshold=0.2)
    rng = np.random.default_rng(5)
    total = 0
    for _ in range(6):
        image = cv2.resize(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8), size, interpolation=cv2.INTER_CUBIC)
        expected = foreign.run_reference(file, image, MEANING, 0.2, 0.45, foreign.resize_exactly)
        expected = [e for e in expected if is_in(e[2], size)][:OUTPUTS]
        check_against(find(bundle, image), expected, size, score_margin=1e-4)
        total += len(expected)
    assert total > 60


def is_in(box: np.ndarray, size: tuple[int, int]) -> bool:
    low, high = np.maximum(box[:2], 0), np.minimum(box[2:], size)
    return bool((high - low > 1.0).all())


@needs_data
@pytest.mark.parametrize("size", [(960, 540), (384, 224), (300, 400)])
def test_yolox_nano_on_real_images(tmp_path: Path, size: tuple[int, int]) -> None:
    settings = ForeignSettings(layout=Layout.yolox, labels=COCO, width=size[0], height=size[1])
    bundle = import_detector(NANO, tmp_path / "nano", settings)
    names = COCO.read_text().split("\n")
    meant = {"person": "pedestrian", "bicycle": "cyclist", "motorbike": "cyclist", "car": "car"}
    meant |= {"bus": "truck", "truck": "truck"}
    class_of = {names.index(name): CLASS_NAMES.index(target) for name, target in meant.items()}
    total = 0
    for path in sorted(STILLS.glob("*.jpg")):
        image = cv2.resize(cv2.imread(str(path)), size, interpolation=cv2.INTER_AREA)
        expected = foreign.run_reference(NANO, image, class_of, 0.3, 0.45)
        check_against(find(bundle, image), expected, size, score_margin=0.03)  # OpenCV rounds the scaled image
        total += len(expected)
    assert total >= 8


# --------------------------------------------------------------------------------- Ultralytics' layout and end to end

SIZES = [(384, 224), (960, 540), (517, 333), (200, 640), (320, 320)]


def red_on_blue(size: tuple[int, int], box: tuple[int, int, int, int]) -> np.ndarray:
    """BGR frame: blue, with one red rectangle."""
    image = np.zeros((size[1], size[0], 3), np.uint8)
    image[:, :, 0] = 200
    image[box[1] : box[3], box[0] : box[2]] = (0, 0, 255)
    return image


@pytest.mark.parametrize("network", [(320, 320), (256, 416)])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("layout", ["ultralytics", "end2end"])
@pytest.mark.parametrize("total", [6, 300])
def test_boxes_come_back_into_the_frame(
    tmp_path: Path, labels: Path, layout: str, size: tuple[int, int], network: tuple[int, int], total: int
) -> None:
    rows = [(0.0, 1, 0.9), (1.0, 1, 0.8), (0.0, 2, 0.95), (40.0, 0, 0.5), (80.0, 3, 0.1)]
    file = foreign.make_red_finder(tmp_path / "red.onnx", layout, *network, rows, len(LABELS), total)
    bundle = bundle_of(file, layout, labels, size)
    w, h = size
    true = (round(0.25 * w), round(0.4 * h), round(0.6 * w), round(0.7 * h))
    found = find(bundle, red_on_blue(size, true))
    scale = min(network[0] / h, network[1] / w)
    # the same again and the bench are gone, the weak bus too
    assert found["class_id"].tolist() == [CAR, PEDESTRIAN]
    assert found["score"] == pytest.approx([0.9, 0.5])
    assert found["box_px"][0] == pytest.approx(true, abs=1.0 / scale + 0.01)
    moved = np.clip(np.array(true) + np.array([40, 0, 40, 0]) / scale, 0, [w, h] * 2)
    assert found["box_px"][1] == pytest.approx(moved, abs=1.0 / scale + 0.01)
    box = found["box_px"]
    assert found["ground_px"] == pytest.approx(np.stack([(box[:, 0] + box[:, 2]) / 2, box[:, 3]], 1) - 0.5)
    assert not found["heading"].any()
    assert found["size_m"][0] == pytest.approx([4.4, 1.8])


def test_a_class_beyond_the_labels_and_what_is_no_number_are_no_detections(tmp_path: Path, labels: Path) -> None:
    scores = np.array([1.2, 0.8, np.nan, 0.6, 0.7], np.float32)
    classes = np.array([1, 9, 1, np.nan, -1], np.float32)
    boxes = np.array([[50, 60, 90, 100], [5, 5, 50, 50], [1, 1, 9, 9], [5, 5, 50, 50], [9, 9, 60, 60]], np.float32)
    rows = np.concatenate([boxes, scores[:, None], classes[:, None]], 1)[None]
    rows = np.concatenate([rows, [[[200, 0, np.nan, 20, 0.8, 1], [400, 0, 450, 20, 0.8, 1], [9, 9, 9, 9, 0.8, 1]]]], 1)
    # right while the importer looks on (a letterbox of noise), wrong from 0.9 of red on
    fine = np.tile(np.array([0, 0, 10, 10, 0.1, 0], np.float32), (1, 8, 1))
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
        helper.make_node("Greater", ["mean", "limit"], ["is_bright"]),
        helper.make_node("Where", ["is_bright", "bad", "fine"], ["output"]),
    ]
    constants = {"limit": np.array(0.9, np.float32), "bad": rows.astype(np.float32), "fine": fine}
    file = foreign.save_model(tmp_path / "odd.onnx", nodes, constants, (1, 3, 320, 320), (1, 8, 6))
    found = find(bundle_of(file, "end2end", labels, (320, 320)), np.full((320, 320, 3), 255, np.uint8))
    assert found["class_id"].tolist() == [CAR]
    assert found["score"].tolist() == [1.0]
    assert found["box_px"][0] == pytest.approx([50, 60, 90, 100])


def test_in_a_long_chain_of_overlaps_every_second_box_stays(tmp_path: Path, labels: Path) -> None:
    """A convoy: each box overlaps the next, and goes only if the one before it stays."""
    left = 15.0 * np.arange(16)
    score = np.linspace(0.9, 0.4, 16)
    table = np.stack([left, 0 * left, left + 30, 0 * left + 30, score, 0 * left + 1], 1)[None].astype(np.float32)
    file = table_model(tmp_path / "convoy.onnx", (1, 3, 320, 320), table)
    bundle = bundle_of(file, "end2end", labels, (320, 320), nms_iou=0.3)
    found = find(bundle, np.zeros((320, 320, 3), np.uint8))
    assert found["box_px"][:, 0] == pytest.approx(left[::2])


def test_more_objects_than_outputs_leave_the_strongest(tmp_path: Path, labels: Path) -> None:
    rng = np.random.default_rng(0)
    at = np.stack(np.meshgrid(np.arange(10) * 30, np.arange(10) * 30), -1).reshape(-1, 2)
    score = rng.uniform(0.3, 0.9, 100)
    table = np.concatenate([at, at + 20, score[:, None], np.ones((100, 1))], 1)[None].astype(np.float32)
    file = table_model(tmp_path / "many.onnx", (1, 3, 320, 320), table)
    found = find(bundle_of(file, "end2end", labels, (320, 320)), np.zeros((320, 320, 3), np.uint8))
    assert found["score"] == pytest.approx(np.sort(score)[::-1][:OUTPUTS])


def test_half_precision_in_and_out(tmp_path: Path, labels: Path) -> None:
    half = TensorProto.FLOAT16
    nodes = [
        helper.make_node("Cast", ["images"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["wide"], ["peak"], keepdims=0),
        helper.make_node("Mul", ["table", "peak"], ["scaled"]),
        helper.make_node("Cast", ["scaled"], ["output"], to=half),
    ]
    table = np.array([[[20, 30, 80, 90, 0.5, 1]]], np.float32)
    file = foreign.save_model(tmp_path / "half.onnx", nodes, {"table": table}, (1, 3, 320, 320), (1, 1, 6), dtype=half)
    found = find(bundle_of(file, "end2end", labels, (320, 320)), np.full((320, 320, 3), 255, np.uint8))
    assert found["box_px"] == pytest.approx(np.array([[20, 30, 80, 90]]), abs=0.1)


# ------------------------------------------------------------------------------------------------ the bundle, labels


def test_the_bundle_has_the_contract_of_our_own_and_says_where_it_comes_from(tmp_path: Path, labels: Path) -> None:
    file = foreign.make_yolox(tmp_path / "tiny.onnx", 64, 96, len(LABELS))
    made = bundle_of(file, "yolox", labels, (384, 224), score_threshold=0.4, nms_iou=0.5)
    meta = load_bundle(made.path, "detector").meta
    own = load_bundle("drive-detector-front").meta
    assert [(s.name, s.dtype, s.shape) for s in meta.outputs] == [(s.name, s.dtype, s.shape) for s in own.outputs]
    assert meta.inputs == own.inputs
    assert meta.outputs == output_specs(5)
    assert meta.class_names == CLASS_NAMES
    assert meta.training["labels"] == {"person": "pedestrian", "car": "car", "bus": "truck"}
    assert set(meta.extra["score_threshold"].values()) == {0.4}
    assert meta.training["nms_iou"] == 0.5
    assert meta.code_revision == find_revision()
    assert "tiny.onnx" in (made.path / "report.md").read_text()


def test_a_map_changes_adds_and_removes(tmp_path: Path, labels: Path) -> None:
    rows = [(0.0, 1, 0.9), (90.0, 2, 0.8), (180.0, 0, 0.7)]
    file = foreign.make_red_finder(tmp_path / "red.onnx", "end2end", 320, 320, rows, len(LABELS), 3)
    (tmp_path / "map.yaml").write_text("bench: cone\nperson: null\n")
    settings = ForeignSettings(
        layout=Layout.end2end, labels=labels, width=320, height=320, map_file=tmp_path / "map.yaml"
    )
    bundle = import_detector(file, tmp_path / "bundle", settings)
    found = find(bundle, red_on_blue((320, 320), (20, 20, 90, 90)))
    assert [CLASS_NAMES[i] for i in found["class_id"]] == ["car", "cone"]
    assert bundle.meta.training["labels"] == {"car": "car", "bench": "cone", "bus": "truck"}


def test_evaluation_judges_the_centre_that_run_time_finds_behind_the_foot(tmp_path: Path, labels: Path) -> None:
    pytest.importorskip("faster_coco_eval")
    from visuomotor.perception.train.detector_eval import eval_detector

    camera = CameraModel(name="camera_front", width=384, height=224, fx=300.0, fy=300.0, cx=192.0, cy=100.0)
    (tmp_path / "data" / "test" / "images").mkdir(parents=True)
    camera.save(tmp_path / "data" / "camera_front.yaml")
    images, annotations = [], []
    for i, (x, y) in enumerate(((10.0, 0.0), (15.0, 3.0), (22.0, -4.0), (13.0, -1.0))):
        corners = np.array([(x + dx, y + dy, z) for dx in (-2.2, 2.2) for dy in (-0.9, 0.9) for z in (0.0, 1.5)])
        px, _ = camera.project(corners)
        low, high = np.floor(px.min(0) + 0.5).astype(int), np.floor(px.max(0) + 0.5).astype(int)
        cv2.imwrite(str(tmp_path / "data" / "test" / "images" / f"{i}.png"), red_on_blue((384, 224), (*low, *high)))
        size = {"width": 384, "height": 224, "camera": "camera_front", "roll_rad": 0.0, "pitch_rad": 0.0}
        images.append({"id": i, "file_name": f"{i}.png", **size})
        place = {"ego_position_m": [x, y], "distance_m": float(np.hypot(x, y)), "heading_rad": 0.0}
        shape = {"bbox": [int(v) for v in (*low, *(high - low))], "area": 1, "iscrowd": 0, "size_m": [4.4, 1.8, 1.5]}
        ground = camera.project(np.array([[x, y, 0.0]]))[0][0].tolist()
        known = {"id": i, "image_id": i, "category_id": 1 + CAR, "ground_px": ground, "visible_share": 1.0}
        annotations.append({**known, **place, **shape})
    text = json.dumps({"images": images, "annotations": annotations})
    (tmp_path / "data" / "test" / "annotations.json").write_text(text)
    file = foreign.make_red_finder(tmp_path / "red.onnx", "end2end", 320, 384, [(0.0, 1, 0.9)], len(LABELS), 1)
    bundle = bundle_of(file, "end2end", labels, (384, 224))
    scores = eval_detector(bundle, tmp_path / "data", "test", device="cpu")
    assert scores["all"]["ap"]["by_class"]["car"]["ap50_95"] > 0.9
    near = scores["all"]["positions"]["within_30_m"]
    assert near["objects"] == 4
    assert near["range_median_m"] < 0.3  # and not half a car
    assert near["lateral_median_m"] < 0.2
    assert near["heading_median_rad"] is None


# --------------------------------------------------------------------------------------------------------- bad input


def constant_output(path: Path, image: tuple[int | str, ...], output: tuple[int, ...], fill: float = 0.1) -> Path:
    """A network that answers with one number everywhere."""
    return table_model(path, image, np.full(output, fill, np.float32))


IMAGE = (1, 3, 64, 96)
CELLS = 8 * 12 + 4 * 6 + 2 * 3


@pytest.mark.parametrize(
    ("layout", "image", "output", "message"),
    [
        ("yolox", IMAGE, (1, 8, CELLS), "output output: layout yolox: expected the shape (1, 126, 9), 5 and one for"),
        ("yolox", IMAGE, (1, CELLS, 11), "for each of 4 labels; got (1, 126, 11)"),
        ("yolox", (1, 3, 60, 96), (1, CELLS, 9), "expected sides that are multiples of 32, got 96x60"),
        ("ultralytics", IMAGE, (1, CELLS, 9), "layout ultralytics: expected the shape (1, 8, N), 4 and one for each"),
        ("ultralytics", IMAGE, (1, 84, CELLS), "for each of 4 labels; got (1, 84, 126)"),
        ("end2end", IMAGE, (1, 8, CELLS), "layout end2end: expected the shape (1, N, 6); got (1, 8, 126)"),
        ("end2end", IMAGE, (5, 6), "expected the shape (1, N, 6); got (5, 6)"),
        ("end2end", ("batch", 3, 64, 96), (1, 5, 6), "expected a batch fixed to 1, got a dynamic one ('batch')"),
        ("end2end", (8, 3, 64, 96), (1, 5, 6), "expected the shape (1, 3, height, width) in numbers, got (8, 3, 64"),
        ("end2end", (1, 64, 96, 3), (1, 5, 6), "expected the shape (1, 3, height, width) in numbers, got (1, 64"),
        ("end2end", (1, 3, "h", "w"), (1, 5, 6), "expected the shape (1, 3, height, width) in numbers, got (1, 3, 'h'"),
    ],
)
def test_a_file_of_another_layout_is_refused(
    tmp_path: Path,
    labels: Path,
    layout: str,
    image: tuple[int | str, ...],
    output: tuple[int, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = constant_output(tmp_path / "net.onnx", image, output)
    refuse(["--onnx", str(file), "--layout", layout, "--labels", str(labels)], f"{file}", message, tmp_path, capsys)


def refuse(options: list[str], name: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, one line that names the file and says what is wrong, and no bundle."""
    out = folder / "bundle"
    assert run_app(["export", "detector", "--out", str(out), *options]) == 2
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) == 1
    assert name in said
    assert message in said
    assert not out.exists()


@pytest.mark.parametrize("layout", ["ultralytics", "end2end", "yolox"])
def test_scores_that_are_none_are_refused(
    tmp_path: Path, labels: Path, layout: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = {"ultralytics": (1, 8, 50), "end2end": (1, 5, 6), "yolox": (1, CELLS, 9)}[layout]
    file = constant_output(tmp_path / "logits.onnx", IMAGE, output, fill=2.5)
    options = ["--onnx", str(file), "--layout", layout, "--labels", str(labels)]
    refuse(options, str(file), "expected scores from 0 to 1, got 2.5 to 2.5", tmp_path, capsys)


def test_more_classes_than_labels_in_an_end_to_end_file(
    tmp_path: Path, labels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = foreign.make_red_finder(tmp_path / "red.onnx", "end2end", 64, 96, [(0.0, 7, 0.9)], 8, 1)
    options = ["--onnx", str(file), "--layout", "end2end", "--labels", str(labels)]
    refuse(options, str(file), "classes up to 7: expected as many labels, got 4", tmp_path, capsys)


def test_boxes_that_are_decoded_already_are_refused(
    tmp_path: Path, labels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = foreign.make_yolox(tmp_path / "decoded.onnx", 64, 96, len(LABELS), decoded=True)
    options = ["--onnx", str(file), "--layout", "yolox", "--labels", str(labels)]
    refuse(options, str(file), "export without --decode_in_inference", tmp_path, capsys)


@pytest.mark.parametrize("content", [b"", b"this is no network", b"\x08\x07", bytes(range(256)) * 8])
def test_a_file_that_is_no_onnx(
    tmp_path: Path, labels: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "net.onnx"
    file.write_bytes(content)
    options = ["--onnx", str(file), "--layout", "yolox", "--labels", str(labels)]
    refuse(options, str(file), "expected an ONNX file", tmp_path, capsys)


def test_a_cut_file_and_an_operator_that_nobody_knows(
    tmp_path: Path, labels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = foreign.make_yolox(tmp_path / "net.onnx", 64, 96, len(LABELS))
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    options = ["--onnx", str(file), "--layout", "yolox", "--labels", str(labels)]
    refuse(options, str(file), "expected an ONNX file", tmp_path, capsys)
    model = onnx.load_model_from_string(whole)
    model.graph.node[0].op_type = "Konv"
    onnx.save(model, file)
    refuse(options, str(file), "does not run: ", tmp_path, capsys)


def test_two_outputs_and_an_old_opset(tmp_path: Path, labels: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = foreign.make_yolox(tmp_path / "net.onnx", 64, 96, len(LABELS))
    model = onnx.load(file)
    model.graph.output.append(helper.make_tensor_value_info("scores", TensorProto.FLOAT, (1, CELLS, 5)))
    onnx.save(model, file)
    options = ["--onnx", str(file), "--layout", "yolox", "--labels", str(labels)]
    refuse(options, str(file), "outputs: expected one, got 2 (output, scores)", tmp_path, capsys)
    del model.graph.output[1]
    model.opset_import[0].version = 9
    onnx.save(model, file)
    refuse(options, str(file), "opset: expected 11 or newer, got 9", tmp_path, capsys)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--onnx", "nowhere.onnx"], "nowhere.onnx: cannot be read (No such file or directory)"),
        (["--labels", "nowhere.names"], "nowhere.names: cannot be read"),
        (["--labels", "empty.names"], "empty.names: expected the names of the network's classes"),
        (["--labels", "twice.names"], "twice.names: line 3: expected each name once, got 'car' again"),
        (["--labels", "birds.names"], "birds.names: no label means a class of the task"),
        (["--labels", "binary.names"], "binary.names: expected text"),
        (["--map", "unknown.yaml"], "unknown.yaml: zebra: no such label; expected labels of"),
        (["--map", "class.yaml"], "class.yaml: car: expected one of car, truck, cyclist, pedestrian, cone or null"),
        (["--map", "list.yaml"], "list.yaml: expected a mapping of label to class"),
        (["--map", "broken.yaml"], "broken.yaml: not valid YAML"),
        (["--camera", "rear"], "--camera: expected WIDTHxHEIGHT or one of front, left, right, got 'rear'"),
        (["--camera", "0x224"], "--camera: expected WIDTHxHEIGHT"),
        (["--camera", "99999x224"], "camera: expected sides from 1 to 8192 px, got 99999x224"),
        (["--score-threshold", "1.5"], "score threshold: expected a number above 0 and up to 1, got 1.5"),
        (["--out", "empty.names"], "--out: empty.names: exists and is no bundle"),
        (["--nms-iou", "0"], "NMS IoU: expected a number above 0 and up to 1, got 0"),
    ],
)
def test_wrong_options(
    tmp_path: Path,
    labels: Path,
    extra: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    foreign.make_yolox(tmp_path / "net.onnx", 64, 96, len(LABELS))
    texts = {
        "empty.names": "\n",
        "twice.names": "car\nbus\ncar\ntruck\n",
        "birds.names": "robin\nwren\nheron\nowl\n",
        "unknown.yaml": "zebra: car\n",
        "class.yaml": "car: boat\n",
        "list.yaml": "- car\n",
        "broken.yaml": "car: [\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "binary.names").write_bytes(b"\xff\xfe\x00\xd8")
    given = {"--onnx": "net.onnx", "--layout": "yolox", "--labels": str(labels)} | dict([tuple(extra)])
    refuse([word for pair in given.items() for word in pair], "", message, tmp_path, capsys)


def test_the_command_writes_a_bundle_for_a_camera_of_the_profile(
    tmp_path: Path, labels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = foreign.make_yolox(tmp_path / "net.onnx", 64, 96, len(LABELS))
    out = tmp_path / "mine"
    options = ["--onnx", str(file), "--layout", "yolox", "--labels", str(labels), "--out", str(out)]
    assert run_app(["export", "detector", *options, "--camera", "left"]) == 0
    said = capsys.readouterr().out
    assert "person -> pedestrian, car -> car, bus -> truck" in said
    shape = json.loads((out / "bundle.json").read_text())["inputs"][0]["shape"]
    assert shape == list(load_bundle("drive-detector-side").meta.inputs[0].shape)
