import hashlib
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("pybullet")

from visuomotor.messages.camera import load_camera
from visuomotor.sim.cell import dataset
from visuomotor.sim.cell.dataset import pick_cameras, render_pick
from visuomotor.sim.cell.labels import CATEGORIES
from visuomotor.sim.shards import SEED_STRIDE

FRAMES = 12


def fingerprint(folder: Path) -> dict[str, str]:
    """Of what the annotations name: several jobs may have drawn stills for a larger set."""
    found = {}
    for path in sorted(folder.rglob("annotations.json")):
        found[path.parent.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        for image in json.loads(path.read_text())["images"]:
            pixels = (path.parent / "images" / image["file_name"]).read_bytes()
            found[f"{path.parent.name}/{image['file_name']}"] = hashlib.sha256(pixels).hexdigest()
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    calls = []
    out = tmp_path_factory.mktemp("pick")
    summary = render_pick(out, FRAMES, 4, progress=lambda *args: calls.append(args))
    return out, summary, calls


def test_folders_counts_progress_and_calibration(made):
    out, summary, calls = made
    assert {name: part["images"] for name, part in summary.items()} == {"train": 10, "val": 1, "test": 1}
    assert json.loads((out / "summary.json").read_text()) == summary
    assert calls[-1] == ("test", 1, 1)
    assert load_camera(out / "cameras" / "camera_top.yaml") == pick_cameras()[0]


def test_images_and_annotations_agree(made):
    out, _, _ = made
    data = json.loads((out / "train" / "annotations.json").read_text())
    assert data["categories"] == CATEGORIES
    assert data["info"]["description"] == "visuomotor pick"
    (camera,) = pick_cameras()
    images = {image["id"]: image for image in data["images"]}
    for image in images.values():
        pixels = cv2.imread(str(out / "train" / "images" / image["file_name"]))
        assert pixels.shape == (camera.height, camera.width, 3) == (image["height"], image["width"], 3)
        assert pixels.std() > 5
        assert image["case_seed"] // SEED_STRIDE == 4
    assert len(data["annotations"]) > 20
    for a in data["annotations"]:
        x, y, w, h = a["bbox"]
        assert 0 <= x < x + w <= camera.width
        assert 0 <= y < y + h <= camera.height
        assert 0 < a["visible_share"] <= 1
        assert 0 < a["area"] <= w * h
        assert -0.001 < a["height_m"] < 0.5
        assert camera.ground(np.array([a["ground_px"]]))[0] == pytest.approx(a["ego_position_m"], abs=1e-3)


def test_the_page_names_every_key_of_a_label(made):
    page = (Path(__file__).parents[3] / "docs" / "cell_images.md").read_text()
    named = set(re.findall(r"^\| `(\w+)` \|", page, re.M))
    data = json.loads((made[0] / "train" / "annotations.json").read_text())
    of_coco = {"id", "image_id", "category_id", "bbox", "area", "iscrowd"}
    assert named == set(data["annotations"][0]) - of_coco


def test_the_evaluation_library_loads_it(made):
    coco = pytest.importorskip("faster_coco_eval").COCO(str(made[0] / "train" / "annotations.json"))
    assert len(coco.imgs) == 10
    assert len(coco.getCatIds()) == 6


def test_a_stopped_run_goes_on_to_the_same_bytes(made, tmp_path):
    class Stopped(Exception):
        pass

    def stop_after_first(folder, done, wanted):
        raise Stopped

    with pytest.raises(Stopped):
        render_pick(tmp_path, FRAMES, 4, progress=stop_after_first)
    assert not (tmp_path / "train" / "annotations.json").exists()
    render_pick(tmp_path, FRAMES, 4)
    assert fingerprint(tmp_path) == fingerprint(made[0])


@pytest.mark.slow
def test_two_jobs_make_the_same_bytes(made, tmp_path):
    render_pick(tmp_path, FRAMES, 4, jobs=2)
    assert fingerprint(tmp_path) == fingerprint(made[0])


def test_other_settings_and_bad_requests_are_refused(made):
    with pytest.raises(ValueError, match="made with other settings"):
        render_pick(made[0], FRAMES, 5)
    with pytest.raises(ValueError, match="frames, seed, jobs: expected"):
        render_pick(made[0], 0, 4)
    with pytest.raises(ValueError, match="folders: expected some of train, val, test, got tset"):
        render_pick(made[0], FRAMES, 4, folders=["tset"])


def test_looks_of_the_test_set_are_those_of_evaluation():
    assert {folder: split for folder, (split, _) in dataset.FOLDERS.items()} == {
        "train": "train",
        "val": "tune",
        "test": "evaluation",
    }
