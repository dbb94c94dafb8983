from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from visuomotor.launch.process_table import create_node, make_table
from visuomotor.launch.profile import ProfileError, load_profile
from visuomotor.messages.camera import load_camera
from visuomotor.perception.node import create


@pytest.mark.parametrize(("name", "latched"), [("drive", False), ("vehicle-video", True), ("sim-can", True)])
def test_a_guard_in_place_of_one_that_died_is_latched_where_a_person_sits_in_the_car(name: str, latched: bool):
    (spec,) = (spec for spec in make_table(load_profile(name)) if spec.name == "guard")
    first, again = create_node(spec), create_node(spec.after_restart())
    assert (first.guard.latched, again.guard.latched) == (False, latched)
    assert again.guard.settings.enabled
    assert spec.config == {"enabled": True}, "the table itself stays as it is"


def test_a_camera_that_nobody_looks_into_is_published_and_goes_to_no_network():
    profile = load_profile("pick-wrist")
    world, perception, *_ = make_table(profile)
    assert [name for name in world.outputs if name.startswith("camera_")] == ["camera_top", "camera_wrist"]
    assert perception.inputs == ("camera_top", "arm_state")
    assert perception.config["detector"] == {"camera_top": "pick-detector"}
    assert [Path(file).stem for file in perception.config["cameras"]] == ["camera_top"]
    assert profile.override(detector="other").perception.detector == {"camera_top": "other", "camera_wrist": "none"}
    with pytest.raises(ProfileError, match="expected one that looks, got 'none' for every camera"):
        profile.override(detector="camera_top=none")


def test_a_camera_on_the_hand_says_so_and_is_not_looked_into(tmp_path: Path):
    _, file = load_profile("pick-wrist").camera_files
    camera = load_camera(Path(file))
    assert camera.on_hand
    camera.save(tmp_path / "saved.yaml")
    assert load_camera(tmp_path / "saved.yaml") == camera
    fixed = msgspec.structs.replace(camera, on_hand=False)
    fixed.save(tmp_path / "fixed.yaml")
    assert load_camera(tmp_path / "fixed.yaml") == fixed
    (tmp_path / "wrong.yaml").write_text(Path(file).read_text().replace("on_hand: true", "on_hand: 1"))
    with pytest.raises(ValueError, match=r"wrong.yaml: mounting.on_hand: expected true or false, got 1"):
        load_camera(tmp_path / "wrong.yaml")
    with pytest.raises(ValueError, match=r"detector.camera_wrist: expected 'none': the camera is on the hand"):
        create({"task": "pick", "cameras": [camera], "detector": {camera.name: "pick-detector"}, "device": "cpu"})
