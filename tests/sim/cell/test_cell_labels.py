from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("pybullet")

from visuomotor.messages.camera import load_camera
from visuomotor.messages.tasks import TASKS
from visuomotor.sim.cell.labels import CATEGORIES, annotate
from visuomotor.sim.cell.parts import CATALOGUE, draw_part
from visuomotor.sim.cell.renderer import CellRenderer
from visuomotor.sim.cell.stills import Placed, Still

TOP = load_camera(Path(__file__).parents[3] / "launch" / "profiles" / "pick" / "camera_top.yaml")
ASIDE = (1.2, -0.6, 0.0, -2.3, 0.0, 1.8, 0.8)  # the arm turned away from the belt
NAMES = [kind.name for kind in CATALOGUE]


@pytest.fixture(scope="module")
def renderer():
    made = CellRenderer([TOP])
    made.reset(SimpleNamespace(split="train", look_seed=9))
    yield made
    made.close()


def lay(name, x, y, yaw=0.0, lift=0.0):
    spec = draw_part(NAMES.index(name), "train", np.random.default_rng(5))
    turned = np.array([0.0, 0.0, np.sin(yaw / 2), np.cos(yaw / 2)])
    return Placed(spec, np.array([x, y, lift + spec.size_m[2] / 2]), turned, np.zeros((0, 2)))


def label(renderer, parts):
    cell = Still(
        tick=np.array([0]),
        joint_position_rad=np.array([ASIDE]),
        gripper_width_m=np.array([0.08]),
        belt_travel_m=np.array([0.0]),
        parts=parts,
    )
    _, masks = renderer.draw_labelled(cell)
    return {a["agent_id"]: a for a in annotate(renderer, cell, 0, TOP, masks[0])}, masks[0]


def test_a_part_that_lies_alone_has_the_right_numbers(renderer):
    part = lay("green block", 0.52, 0.30, yaw=2.5)
    labels, mask = label(renderer, [part])
    assert set(labels) == {0}
    found = labels[0]
    assert found["category_id"] == TASKS["pick"].class_names.index("green block") + 1
    assert found["ego_position_m"] == pytest.approx([0.52, 0.30])
    assert found["distance_m"] == pytest.approx(np.hypot(0.52, 0.30), abs=1e-3)
    assert found["heading_rad"] == pytest.approx(2.5, abs=1e-4)
    assert found["height_m"] == pytest.approx(0.0, abs=1e-4)
    assert found["size_m"] == pytest.approx(part.spec.size_m, abs=1e-4)
    assert found["visible_share"] > 0.93
    rows, columns = np.nonzero(mask == 0)
    x, y, w, h = found["bbox"]
    assert (x, y, x + w, y + h) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert found["area"] == len(rows)
    assert TOP.ground(np.array([found["ground_px"]]))[0] == pytest.approx([0.52, 0.30], abs=1e-4)


def test_a_lifted_part_keeps_the_point_under_its_middle(renderer):
    on_belt, _ = label(renderer, [lay("red cube", 0.45, 0.15)])
    lifted, _ = label(renderer, [lay("red cube", 0.45, 0.15, lift=0.2)])
    assert lifted[0]["height_m"] == pytest.approx(0.2, abs=1e-4)
    assert lifted[0]["ground_px"] == on_belt[0]["ground_px"]
    assert lifted[0]["area"] > 1.2 * on_belt[0]["area"]  # it is nearer to the camera


def test_visible_share_behind_a_post_and_at_the_border(renderer):
    # The camera stands beyond the belt: a post at 0.555 hides what is behind it
    alone, _ = label(renderer, [lay("red cube", 0.50, 0.22)])
    behind, _ = label(renderer, [lay("red cube", 0.50, 0.22), lay("post", 0.555, 0.20)])
    assert set(behind) == {0}  # the post is nobody's part
    expected = behind[0]["area"] / alone[0]["area"]
    assert 0.1 < expected < 0.9
    assert behind[0]["visible_share"] == pytest.approx(expected, abs=0.07)
    border = TOP.ground(np.array([[TOP.width - 1.0, TOP.height / 2]]))[0]
    cut, _ = label(renderer, [lay("brick", *border.tolist())])
    assert 0.2 < cut[0]["visible_share"] < 0.9


def test_what_is_out_of_view_has_no_label(renderer):
    assert label(renderer, [lay("duck", 0.5, 1.1), lay("slab", 0.5, 0.2)])[0] == {}


def test_categories_are_the_tasks_with_their_symmetry():
    assert [c["name"] for c in CATEGORIES] == list(TASKS["pick"].class_names)
    assert [c["id"] for c in CATEGORIES] == list(range(1, 7))
    assert [c["symmetry"] for c in CATEGORIES] == list(TASKS["pick"].symmetry)
