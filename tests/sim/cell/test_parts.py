"""The catalogue: what can be gripped, what is drawn, what touches."""

import numpy as np
import pytest

pytest.importorskip("pybullet")

from visuomotor.control.arm.config import CLASS_NAMES
from visuomotor.sim.cell.parts import (
    CATALOGUE,
    DISTRACTOR,
    DISTRACTORS,
    HULL_MARGIN_M,
    VISUAL_MESH,
    draw_part,
    kind_of_class,
    touch_vertices,
    unit_mesh,
)

MESH_KINDS = [i for i, row in enumerate(CATALOGUE) if row.shape == "mesh"]


def draws(kind, split="train", count=200):
    rng = np.random.default_rng(kind)
    return [draw_part(kind, split, rng) for _ in range(count)]


def test_every_class_has_one_row_and_distractors_have_none():
    assert [CATALOGUE[kind_of_class(i)].name for i in range(len(CLASS_NAMES))] == list(CLASS_NAMES)
    assert all(CATALOGUE[i].class_id == DISTRACTOR for i in DISTRACTORS)
    assert len(DISTRACTORS) + len(CLASS_NAMES) == len(CATALOGUE)


@pytest.mark.parametrize("class_id", range(len(CLASS_NAMES)))
def test_every_class_fits_between_the_fingers(class_id):
    length, width, height = np.array([spec.size_m for spec in draws(kind_of_class(class_id))]).T
    assert width.min() >= 0.030
    assert width.max() <= 0.060
    assert height.min() >= 0.028
    assert height.max() <= 0.060
    assert (length >= width - 1e-9).all()


@pytest.mark.parametrize("kind", range(len(CATALOGUE)))
def test_evaluation_colours_are_never_drawn_in_training(kind):
    trained = np.array([spec.colour_bgr for spec in draws(kind)])
    held_out = np.array([spec.colour_bgr for spec in draws(kind, "evaluation")])
    assert trained.min() >= 0.0
    assert trained.max() <= 255.0
    row = CATALOGUE[kind]
    if row.class_id == DISTRACTOR:
        return  # greys: told apart by shape, not by colour
    for low, high in row.evaluation.hue:
        assert all(high <= a or b <= low for a, b in row.train.hue)
    distance = np.linalg.norm(trained[:, None] - held_out[None], axis=2)
    assert distance.min() > 0.0


def test_tuning_has_the_colours_of_training():
    assert draws(0, "tune") == draws(0, "train")


@pytest.mark.parametrize("kind", MESH_KINDS)
def test_hulls_are_as_large_as_the_part_and_stand_on_a_flat_base(kind):
    spec = draws(kind, count=1)[0]
    hull = touch_vertices(spec)
    assert len(hull) <= 64
    np.testing.assert_allclose(np.ptp(hull, axis=0) + 2 * HULL_MARGIN_M, spec.size_m, atol=1e-6)
    np.testing.assert_allclose(hull.min(axis=0) + hull.max(axis=0), 0.0, atol=1e-9)
    base = hull[hull[:, 2] < hull[:, 2].min() + 0.002]
    assert len(base) >= 3
    assert (np.ptp(base[:, :2], axis=0) > 0.3 * np.array(spec.size_m[:2])).all()


@pytest.mark.parametrize("kind", MESH_KINDS)
def test_what_is_seen_and_what_touches_have_the_same_box(kind):
    vertices, faces = unit_mesh(VISUAL_MESH[CATALOGUE[kind].mesh])
    np.testing.assert_allclose(np.abs(vertices).max(axis=0), 0.5)
    assert faces.min() >= 0
    assert faces.max() < len(vertices)
