"""The perception error model of picking: marginals against its parameters, hiding, headings, streams, files."""

from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

pytest.importorskip("pybullet")

from visuomotor.messages.camera import load_camera
from visuomotor.messages.tasks import TASKS
from visuomotor.sim.cell.error_model import PartErrorParameters, PartErrors, load_part_errors, true_parts
from visuomotor.sim.cell.visibility import Rods
from visuomotor.sim.error_parameters import save_errors

PROFILE = Path(__file__).parents[3] / "launch" / "profiles" / "pick"
CAMERA = load_camera(PROFILE / "camera_top.yaml")
CUBE, CYLINDER, BLOCK, BALL, DUCK, BRICK = range(6)
CLEAN = PartErrorParameters(
    detection_max=(1.0,) * 6,
    visible_slope=40.0,
    birth_hits=1,
    position_floor_m=0.0,
    position_per_m=0.0,
    hidden_noise=0.0,
    velocity_noise_mps=0.0,
    velocity_at_birth=1.0,
    heading_noise_rad=(0.0,) * 6,
    size_noise=0.0,
    identity_switches_per_s=0.0,
    class_confusion=(0.0,) * 6,
    distractor_confusion=0.0,
    false_alarms_per_s=0.0,
    track_spread=0.0,
)


def worlds(count=64, slots=4, place=(0.5, 0.3), speed=0.0, class_id=CUBE, yaw=0.0):
    """One part in each cell, in slot 0."""
    shape = (count, slots)
    present = np.zeros(shape, bool)
    present[:, 0] = True
    return SimpleNamespace(
        part_present=present,
        part_id=np.where(present, 0, -1),
        part_class=np.full(shape, class_id),
        part_position_m=np.tile(np.array([*place, 0.02]), (*shape, 1)),
        part_velocity_mps=np.tile(np.array([0.0, -speed, 0.0]), (*shape, 1)),
        part_yaw_rad=np.full(shape, yaw),
        part_size_m=np.tile(np.array([0.04, 0.04, 0.04]), (*shape, 1)),
    )


def rods(count, over=None):
    """Something that covers a place, or nothing near."""
    x, y = over or (-2.0, -2.0)
    top, low = np.tile([x, y, 0.06], (count, 1, 1)), np.tile([x, y, 0.0], (count, 1, 1))
    return Rods(start_m=top, end_m=low, radius_m=np.full((count, 1), 0.12))


def errors(parameters=CLEAN, count=64, slots=4):
    model = PartErrors(count, slots, CAMERA, parameters)
    for index in range(count):
        model.reset(index, [index, 5])
    return model


def observe(model, cells, over=None, ticks=1):
    for _ in range(ticks):
        tracks = model.observe(cells, rods(len(cells.part_present), over))
        cells.part_position_m[..., :2] += 0.1 * cells.part_velocity_mps[..., :2]
    return tracks


def test_without_errors_the_tracks_are_the_truth():
    tracks = observe(errors(), cells := worlds(speed=0.2, class_id=BLOCK, yaw=0.4))
    np.testing.assert_array_equal(tracks.present, cells.part_present)
    np.testing.assert_allclose(tracks.position_m[:, 0], [[0.5, 0.3]] * 64, atol=1e-12)
    np.testing.assert_allclose(tracks.velocity_mps[:, 0], [[0.0, -0.2]] * 64, atol=1e-12)
    np.testing.assert_allclose(tracks.heading_rad[:, 0], 0.4)
    assert (tracks.class_id[:, 0] == BLOCK).all()


def test_position_noise_grows_from_the_middle_of_the_picture():
    noisy = msgspec.structs.replace(CLEAN, position_floor_m=0.002, position_per_m=0.01, position_correlation_s=0.01)
    model = errors(noisy, 600)
    middle = model.view.middle_m
    spread = []
    for off in (0.0, 0.5):
        place = (middle[0], middle[1] + off)
        tracks = observe(errors(noisy, 600), worlds(600, place=place), ticks=2)
        spread.append(float((tracks.position_m[:, 0] - place).std()))
    np.testing.assert_allclose(spread, [0.002, 0.007], rtol=0.12)


def test_detection_has_its_rate():
    parameters = msgspec.structs.replace(CLEAN, detection_max=(0.8,) * 6, detection_correlation_s=0.01)
    model, cells = errors(parameters, 200), worlds(200)
    seen = [float((observe(model, cells).unseen_s[:, 0] == 0.0).mean()) for _ in range(40)]
    assert abs(np.mean(seen[5:]) - 0.8) < 0.02


def test_a_hidden_part_coasts_along_the_belt_and_dies_after_its_time():
    model, cells = errors(), worlds(speed=0.1)
    observe(model, cells, ticks=3)
    place = float(cells.part_position_m[0, 0, 1])
    hidden = observe(model, cells, over=(0.5, place), ticks=3)
    assert hidden.present[:, 0].all()
    np.testing.assert_allclose(hidden.unseen_s[:, 0], 0.3)
    np.testing.assert_allclose(hidden.position_m[:, 0, 1], cells.part_position_m[:, 0, 1] + 0.01, atol=1e-9)
    cells.part_velocity_mps[:] = 0.0  # gripped: its ghost goes on
    cells.part_position_m[:, 0, 1] = place
    gone = observe(model, cells, over=(0.5, place), ticks=29)
    assert not gone.present.any()


def test_a_part_that_comes_out_far_from_its_track_leaves_it_as_a_ghost_and_gets_a_new_one():
    model, cells = errors(), worlds(speed=0.2)
    first = observe(model, cells, ticks=3).track_id[:, 0].copy()
    place = float(cells.part_position_m[0, 0, 1])
    cells.part_velocity_mps[:] = 0.0
    observe(model, cells, over=(0.5, place), ticks=5)
    out = observe(model, cells, ticks=2)
    assert (out.track_id[:, 0] != first).all()
    np.testing.assert_allclose(out.position_m[:, 0, 1], place, atol=1e-9)
    assert (out.age_s[:, 0] < 0.2).all()
    assert (out.track_id[:, 3] == first).all()  # goes on along the belt, until it should have been seen for long
    np.testing.assert_allclose(out.position_m[:, 3, 1], place - 6 * 0.02, atol=1e-9)
    np.testing.assert_allclose(out.unseen_s[:, 3], 0.7)
    assert out.present.sum(axis=1).tolist() == [2] * 64
    assert observe(model, cells, ticks=6).present.sum(axis=1).tolist() == [1] * 64


def test_the_track_of_a_part_that_has_gone_outlives_it():
    model, cells = errors(), worlds(speed=0.1)
    track = observe(model, cells, ticks=3).track_id[0, 0]
    cells.part_present[:] = False
    ghost = observe(model, cells, ticks=4)
    assert ghost.present[:, 0].all()
    assert ghost.track_id[0, 0] == track
    np.testing.assert_allclose(ghost.position_m[:, 0, 1], 0.3 - 0.02 - 4 * 0.01, atol=1e-9)
    assert not observe(model, cells, ticks=2).present.any()


def test_another_part_in_the_slot_does_not_take_over_the_ghost():
    model, cells = errors(), worlds()
    observe(model, cells, ticks=2)
    cells.part_id[:, 0] = 9
    cells.part_position_m[:, 0, 1] = 0.1
    tracks = observe(model, cells)
    np.testing.assert_allclose(tracks.position_m[:, 0, 1], 0.1)
    np.testing.assert_allclose(tracks.position_m[:, 3, 1], 0.3)


def test_a_lifted_part_is_seen_behind_where_it_is():
    model, cells = errors(), worlds()
    cells.part_position_m[..., 2] = 0.02 + 0.16
    eye = np.array(CAMERA.ego_position_m)
    seen = observe(model, cells).position_m[:, 0]
    shown = eye[:2] + (np.array([0.5, 0.3]) - eye[:2]) * eye[2] / (eye[2] - 0.16)
    np.testing.assert_allclose(seen, [shown] * 64, atol=1e-9)
    assert np.linalg.norm(shown - [0.5, 0.3]) > 0.1


def test_noise_grows_with_what_is_hidden():
    noisy = msgspec.structs.replace(
        CLEAN, position_floor_m=0.002, position_correlation_s=0.01, hidden_noise=9.0, visible50=0.05
    )
    model, cells = errors(noisy, 500), worlds(500)
    half = rods(500, (0.37, 0.3))
    share = model.view.shares(cells.part_position_m, cells.part_size_m, cells.part_present, half)[0, 0]
    assert 0.2 < share < 0.9
    off = model.observe(cells, half).position_m[:, 0] - (0.5, 0.3)
    assert off.std() == pytest.approx(0.002 * (1.0 + 9.0 * (1.0 - share)), rel=0.1)


def test_some_tracks_keep_a_wrong_heading():
    model, cells = (
        errors(msgspec.structs.replace(CLEAN, heading_wrong=(0.0, 0.0, 0.5, 0.0, 0.0, 0.0)), 400),
        worlds(400, class_id=BLOCK),
    )
    first = observe(model, cells).heading_rad[:, 0].copy()
    assert abs((np.abs(first) > 1e-9).mean() - 0.5) < 0.08
    assert np.abs(first).max() > 1.3
    np.testing.assert_allclose(observe(model, cells, ticks=5).heading_rad[:, 0], first)


@pytest.mark.parametrize(("class_id", "order"), list(enumerate(TASKS["pick"].symmetry)))
def test_headings_are_told_up_to_symmetry_and_do_not_jump(class_id, order):
    yaw = 2.8
    model, cells = errors(), worlds(class_id=class_id, yaw=yaw)
    seen = float(observe(model, cells).heading_rad[0, 0])
    if order == 0:
        assert seen == 0.0
        return
    part = 2 * np.pi / order
    assert -part / 2 - 1e-9 <= seen <= part / 2 + 1e-9
    assert abs((yaw - seen) / part - round((yaw - seen) / part)) < 1e-9
    for turn in np.linspace(0.0, 3.0, 31):  # a part that turns: its track follows without jumping back
        cells.part_yaw_rad[:] = (yaw + turn + np.pi) % (2 * np.pi) - np.pi
        now = float(observe(model, cells).heading_rad[0, 0])
        assert abs(now - seen) < 0.11
        seen = now


def test_distractors_are_mostly_not_seen():
    model = errors(msgspec.structs.replace(CLEAN, distractor_confusion=0.2), 500)
    tracks = observe(model, worlds(500, class_id=-1), ticks=3)
    share = tracks.present[:, 0].mean()
    assert abs(share - 0.2) < 0.06
    assert len(set(tracks.class_id[tracks.present])) == 6
    assert not observe(errors(), worlds(class_id=-1), ticks=3).present.any()


def test_false_alarms_lie_on_the_belt_and_have_their_rate():
    model = errors(msgspec.structs.replace(CLEAN, false_alarms_per_s=0.5, false_alarm_life_s=0.3), 200)
    cells = worlds(200)
    born = 0
    for _ in range(50):
        before = model.tracks.track_id.max(axis=1)
        tracks = observe(model, cells)
        born += int((tracks.track_id.max(axis=1) > before).sum())
    assert abs(born / (200 * 5.0) - 0.5) < 0.25
    invented = tracks.present & ~cells.part_present
    assert invented.any()
    assert np.isfinite(tracks.position_m[invented]).all()


def test_rows_do_not_depend_on_each_other_and_a_reset_repeats_a_stream():
    noisy = PartErrorParameters()
    both, alone = errors(noisy, 2), PartErrors(1, 4, CAMERA, noisy)
    alone.reset(0, [1, 5])
    for _ in range(20):
        pair = observe(both, worlds(2))
        one = observe(alone, worlds(1))
        np.testing.assert_array_equal(pair.position_m[1], one.position_m[0])
    last = one.position_m.copy()
    alone.reset(0, [1, 5])
    again = [observe(alone, worlds(1)).position_m.copy() for _ in range(20)]
    np.testing.assert_array_equal(again[-1], last)


def test_rows_outside_the_mask_stand_still():
    model, cells = errors(PartErrorParameters()), worlds()
    before = {name: value.copy() for name, value in vars(observe(model, cells, ticks=5)).items()}
    fresh = np.zeros(64, bool)
    fresh[3] = True
    after = model.observe(cells, rods(64), fresh)
    for name, value in before.items():
        np.testing.assert_array_equal(np.delete(getattr(after, name), 3, axis=0), np.delete(value, 3, axis=0))


def test_perfect_tracks_hold_every_part_of_a_class():
    cells = worlds(2)
    cells.part_class[1, 0] = -1
    tracks = true_parts(cells)
    assert tracks.present.tolist() == [[True] + [False] * 3, [False] * 4]


def test_the_shipped_parameters_are_readable_and_files_round_trip(tmp_path):
    shipped = load_part_errors(PROFILE / "errors.json")
    save_errors(shipped, tmp_path / "errors.json")
    assert load_part_errors(tmp_path / "errors.json") == shipped


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("detection_max", (1.2,) * 6, "detection_max must be probabilities"),
        ("distractor_confusion", -0.1, "distractor_confusion must be probabilities"),
        ("jump_m", 0.0, "jump_m must be greater than 0"),
        ("position_floor_m", float("nan"), "position_floor_m must be finite"),
        ("false_alarm_class", (0.5,) * 6, "false_alarm_class must sum to 1"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(field, value, words):
    with pytest.raises(ValueError, match=words):
        msgspec.structs.replace(PartErrorParameters(), **{field: value}).__post_init__()


def test_a_file_of_the_other_task_is_refused_by_name(tmp_path):
    path = PROFILE.parent / "drive" / "errors.json"
    with pytest.raises(ValueError, match=r"drive/errors.json: "):
        load_part_errors(path)
    with pytest.raises(ValueError, match="cannot be read"):
        load_part_errors(tmp_path / "none.json")
