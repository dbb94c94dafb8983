import msgspec
import numpy as np
import pytest

pytest.importorskip("pybullet")

from visuomotor.sim.cell.ground import STEP_M, paint_plate
from visuomotor.sim.cell.looks import RANGES, arm_palette, bin_palette, cell_looks, clutter_palette, part_palette
from visuomotor.sim.cell.parts import CATALOGUE, draw_part
from visuomotor.sim.cell.shapes import CLUTTER_KINDS, arm_meshes, bin_mesh, clutter_mesh, part_mesh
from visuomotor.sim.mesh import Part
from visuomotor.sim.wavefront import cluster, read_wavefront


def test_training_and_evaluation_never_share_belt_hues_light_or_plates():
    train, evaluation = RANGES["train"], RANGES["evaluation"]
    for low, high in evaluation.belt_hue:
        assert all(high <= a or low >= b for a, b in train.belt_hue)
    for low, high in evaluation.bin_hue:
        assert all(high <= a or low >= b for a, b in train.bin_hue)
    for field in ("light_azimuth_rad", "plate_hue"):
        (a, b), (c, d) = getattr(train, field), getattr(evaluation, field)
        assert b <= c or d <= a
    assert set(evaluation.belt_patterns) - set(train.belt_patterns) == {"diamonds", "dots"}
    assert set(evaluation.clutter) - set(train.clutter) == {"cover", "box_open", "cone"}
    assert set(evaluation.clutter) | set(train.clutter) <= set(CLUTTER_KINDS)


def test_looks_depend_on_split_and_seed_only():
    assert cell_looks("train", 5) == cell_looks("train", 5)
    assert cell_looks("train", 5) != cell_looks("train", 6)
    assert cell_looks("train", 5).belt_bgr != cell_looks("tune", 5).belt_bgr
    assert np.array_equal(clutter_palette("train", 5, 2), clutter_palette("train", 5, 2))
    assert not np.array_equal(clutter_palette("train", 5, 2), clutter_palette("train", 5, 3))
    for palette in (bin_palette("tune", 1, 0), arm_palette("evaluation", 1), part_palette((10.0, 200.0, 30.0))):
        assert palette.shape == (len(Part), 3)
        assert palette.dtype == np.uint8
    with pytest.raises(ValueError, match=r"split: expected one of .*, got 'test'"):
        cell_looks("test", 0)


@pytest.mark.parametrize("pattern", ["plain", "brushed", "holes", "tiles"])
def test_plates_are_painted_at_one_scale(pattern):
    look = msgspec.structs.replace(cell_looks("train", 1), plate_pattern=pattern)
    plate = paint_plate(look, np.random.default_rng(0))
    assert plate.shape == (round(1.8 / STEP_M), round(3.4 / STEP_M), 3)
    assert plate.std() > 1


@pytest.mark.parametrize("kind", range(len(CATALOGUE)))
def test_meshes_of_parts_fill_their_size(kind):
    spec = draw_part(kind, "train", np.random.default_rng(kind))
    vertices, normals, columns, triangles = part_mesh(spec).arrays()
    assert np.ptp(vertices, axis=0) == pytest.approx(spec.size_m, rel=0.12)
    assert (vertices.min(axis=0) + vertices.max(axis=0)) / 2 == pytest.approx(np.zeros(3), abs=0.003)
    assert np.allclose(np.linalg.norm(normals, axis=1), 1.0, atol=1e-6)
    assert triangles.max() < len(vertices)
    assert columns.max() < len(Part)
    if CATALOGUE[kind].name == "duck":
        assert {Part.PAINT, Part.ACCENT, Part.TYRE} <= set(columns.tolist())  # a beak and eyes


def test_meshes_of_the_arm_are_light_and_of_two_colours():
    meshes = arm_meshes()
    assert len(meshes) == 11
    assert sum(len(mesh.arrays()[3]) for mesh in meshes.values()) < 8000
    assert {Part.WHITE, Part.BUMPER} == {part for mesh in meshes.values() for part in mesh.arrays()[2].tolist()}
    hand = meshes["panda_hand"].arrays()[0]
    assert np.ptp(hand, axis=0) == pytest.approx([0.063, 0.205, 0.092], abs=0.012)


def test_every_piece_of_clutter_stands_on_the_plate():
    for kind in CLUTTER_KINDS:
        assert clutter_mesh(kind, 1.0).arrays()[0][:, 2].min() == pytest.approx(0.0, abs=0.01)
    vertices = bin_mesh((0.2, 0.3, 0.1)).arrays()[0]
    assert vertices[:, 2].max() == pytest.approx(0.1)
    assert np.ptp(vertices[:, :2], axis=0) == pytest.approx([0.212, 0.312])


def test_reducing_a_mesh_keeps_its_outline_and_its_colours():
    turn, height = np.meshgrid(np.linspace(0, 2 * np.pi, 60, endpoint=False), np.linspace(0, 1, 30), indexing="ij")
    vertices = np.stack([np.cos(turn), np.sin(turn), height], axis=-1).reshape(-1, 3)
    rows, columns = np.meshgrid(np.arange(60), np.arange(29), indexing="ij")
    a, b = rows * 30 + columns, (rows + 1) % 60 * 30 + columns
    triangles = np.concatenate(
        [np.stack([a, b, b + 1], -1).reshape(-1, 3), np.stack([a, b + 1, a + 1], -1).reshape(-1, 3)]
    )
    part = (vertices[triangles].mean(axis=1)[:, 2] > 0.5).astype(int)
    position, normal, column, reduced = cluster(vertices, triangles, part, 0.2)
    assert len(reduced) < len(triangles) / 4
    assert np.ptp(position, axis=0) == pytest.approx([2.0, 2.0, 1.0], abs=0.2)
    outward = position * (1, 1, 0) / np.linalg.norm(position[:, :2], axis=1, keepdims=True)
    assert ((normal * outward).sum(axis=1) > 0.9).all()
    assert set(column.tolist()) == {0, 1}
    for corner in reduced:
        assert len(set(column[corner].tolist())) == 1


def test_wavefront_polygons_materials_and_an_empty_file(tmp_path):
    path = tmp_path / "square.obj"
    path.write_text(
        "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 1 1\n"
        "usemtl red\nf 1/1 2/2 3/3 4/1\nusemtl blue\nf 1 2 3\n"
    )
    found = read_wavefront(path)
    assert found.triangles.tolist() == [[0, 1, 2], [0, 2, 3], [0, 1, 2]]
    assert [found.materials[i] for i in found.material] == ["red", "red", "blue"]
    assert found.uv[0] == pytest.approx([2 / 3, 1 / 3])
    assert np.isnan(found.uv[2]).all()
    path.write_text("v 0 0 0\n")
    with pytest.raises(ValueError, match="expected a mesh with faces, got none"):
        read_wavefront(path)
