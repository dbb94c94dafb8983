import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("pybullet")

from visuomotor.sim import dataset
from visuomotor.sim.dataset import drive_cameras, render_drive
from visuomotor.sim.drive import DriveWorlds
from visuomotor.sim.lane_follower import LaneFollower
from visuomotor.sim.scenario import drive_case

FRAMES = 24


def fingerprint(folder: Path) -> dict[str, str]:
    found = {}
    for part in ("train", "val", "test"):
        data = json.loads((folder / part / "annotations.json").read_text())
        found[part] = hashlib.sha256(json.dumps(data).encode()).hexdigest()
        for image in data["images"]:
            path = folder / part / "images" / image["file_name"]
            found[f"{part}/{path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    calls = []
    out = tmp_path_factory.mktemp("drive")
    summary = render_drive(out, FRAMES, 4, progress=lambda *args: calls.append(args))
    return out, summary, calls


def test_folders_counts_and_progress(made):
    out, summary, calls = made
    assert {name: part["images"] for name, part in summary.items()} == {"train": 21, "val": 3, "test": 3}
    assert json.loads((out / "summary.json").read_text()) == summary
    assert calls[-1] == ("test", 3, 3)
    assert all(done <= wanted for _, done, wanted in calls)
    for part in summary.values():
        assert len(set(part["cameras"].values())) == 1  # whole ticks


def test_images_and_annotations_agree(made):
    out, _, _ = made
    data = json.loads((out / "train" / "annotations.json").read_text())
    sizes = {camera.name: (camera.height, camera.width, 3) for camera in drive_cameras()}
    images = {image["id"]: image for image in data["images"]}
    for image in images.values():
        pixels = cv2.imread(str(out / "train" / "images" / image["file_name"]))
        assert pixels.shape == sizes[image["camera"]] == (image["height"], image["width"], 3)
        assert pixels.std() > 5
    assert len(data["annotations"]) > 20
    for a in data["annotations"]:
        x, y, w, h = a["bbox"]
        image = images[a["image_id"]]
        assert 0 <= x < x + w <= image["width"]
        assert 0 <= y < y + h <= image["height"]
        assert 0 < a["visible_share"] <= 1
        assert 0 < a["area"] <= w * h
        assert a["distance_m"] == pytest.approx(np.hypot(*a["ego_position_m"]), abs=1e-3)


def test_the_evaluation_library_loads_it(made):
    coco = pytest.importorskip("faster_coco_eval").COCO(str(made[0] / "train" / "annotations.json"))
    assert len(coco.imgs) == 21
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == ["car", "truck", "cyclist", "pedestrian", "cone"]


def test_a_stopped_run_goes_on_to_the_same_bytes(made, tmp_path):
    class Stopped(Exception):
        pass

    def stop_after_first(folder, done, wanted):
        raise Stopped

    with pytest.raises(Stopped):
        render_drive(tmp_path, FRAMES, 4, progress=stop_after_first)
    assert not (tmp_path / "train" / "annotations.json").exists()
    render_drive(tmp_path, FRAMES, 4)
    assert fingerprint(tmp_path) == fingerprint(made[0])


@pytest.mark.slow
def test_two_jobs_make_the_same_bytes(made, tmp_path):
    render_drive(tmp_path, FRAMES, 4, jobs=2)
    assert fingerprint(tmp_path) == fingerprint(made[0])


def test_another_seed_is_refused_in_the_same_folder(made):
    with pytest.raises(ValueError, match="made with other settings"):
        render_drive(made[0], FRAMES, 5)
    with pytest.raises(ValueError, match="frames, seed, jobs: expected"):
        render_drive(made[0], 0, 5)


def test_splits_use_their_own_cases(made):
    seeds = {}
    for part, (split, _) in dataset.FOLDERS.items():
        data = json.loads((made[0] / part / "annotations.json").read_text())
        seeds[part] = {image["case_seed"] for image in data["images"]}
        for seed in seeds[part]:
            assert seed >= 4 * dataset.SEED_STRIDE
            assert drive_case("drive-v1", split, seed).split == split
    assert dataset.FOLDERS["test"][0] == "evaluation"


def test_the_collecting_driver_keeps_to_the_road():
    worlds = DriveWorlds(1)
    travelled, ends = [], []
    for seed in range(3):
        worlds.reset(0, drive_case("drive-v1", "train", 500 + seed))
        driver = LaneFollower(np.random.default_rng(seed))
        for _ in range(250):
            acceleration, steering = driver.act(worlds)
            worlds.step(np.array([acceleration]), np.array([steering]))
        travelled.append(float(worlds.ego_s_m[0]))
        ends.append(int(worlds.end[0]))
    worlds.close()
    assert 3 not in ends  # offroad
    assert np.mean(travelled) > 80.0


def test_one_folder_of_one_camera_with_people_afar(tmp_path):
    front = [camera for camera in drive_cameras() if camera.name == "camera_front"]
    summary = render_drive(tmp_path, 8, 4, cameras=front, crowd="people-afar", folders=["test"])
    assert list(summary) == ["test"]
    assert summary["test"]["cameras"] == {"camera_front": 8}
    counts = summary["test"]["classes"]["camera_front"]
    assert counts["pedestrian"] > counts["truck"]
    with pytest.raises(ValueError, match="crowd: expected around or people-afar"):
        render_drive(tmp_path, 8, 4, crowd="nobody")
    with pytest.raises(ValueError, match="folders: expected some of train, val, test, got tset"):
        render_drive(tmp_path, 8, 4, folders=["tset"])
