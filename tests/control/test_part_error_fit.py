"""Fitting the error model of parts: a known model is found again; ghosts, lifted parts, logs; one real run."""

import msgspec
import numpy as np
import pytest

pytest.importorskip("pybullet")

from visuomotor.control.arm.config import REST_RAD
from visuomotor.control.train.part_error_fit import fit_parts
from visuomotor.control.train.part_error_pairs import SPARE, Shift, collect, real_tracks, simulate
from visuomotor.control.train.part_error_plots import marginals, plot_marginals
from visuomotor.control.train.part_error_runs import SERVICES, log_shifts, match_replay
from visuomotor.control.train.run_logs import load_log
from visuomotor.messages.camera import load_camera
from visuomotor.sim.cell.env import PROFILE
from visuomotor.sim.cell.error_model import PartErrorParameters
from visuomotor.sim.track_errors import PerceivedTracks

CAMERA = load_camera(PROFILE / "camera_top.yaml")
KNOWN = PartErrorParameters(
    detection_max=(0.97,) * 6,
    detection_correlation_s=0.15,
    birth_hits=4,
    position_floor_m=0.003,
    position_per_m=0.0,
    position_correlation_s=0.8,
    hidden_noise=0.0,
    track_spread=0.2,
    velocity_noise_mps=0.008,
    velocity_lag_s=0.3,
    velocity_at_birth=0.5,
    heading_noise_rad=(0.08, 0.0, 0.05, 0.0, 0.1, 0.1),
    heading_wrong=(0.0, 0.0, 0.0, 0.0, 0.4, 0.0),
    identity_switches_per_s=0.02,
    class_confusion=(0.0, 0.0, 0.0, 0.3, 0.0, 0.0),
    size_noise=0.1,
    distractor_confusion=0.0,
    false_alarms_per_s=0.2,
    false_alarm_near_share=0.0,
)


def shift(seed, ticks=300, parts=28):
    """Parts of all classes, and two of none, on a belt that starts and stops; the arm rests."""
    rng = np.random.default_rng(seed)
    time_s = 0.1 * np.arange(ticks)
    speed = 0.12 + 0.05 * np.sign(np.sin(0.7 * time_s + rng.uniform(0.0, 6.0)))
    shape = (ticks, parts + SPARE)
    start_y = rng.permutation(np.linspace(0.6, 4.0, parts))
    y = start_y - np.cumsum(speed)[:, None] * 0.1
    found = Shift(
        part_present=np.zeros(shape, bool),
        part_id=np.full(shape, -1),
        part_class=np.full(shape, -1),
        part_position_m=np.zeros((*shape, 3)),
        part_velocity_mps=np.zeros((*shape, 3)),
        part_yaw_rad=np.zeros(shape),
        part_size_m=np.full((*shape, 3), 0.045),
        part_held=np.zeros(shape, bool),
        joint_position_rad=np.tile(REST_RAD, (ticks, 1)),
        belt_speed_mps=speed,
        wanted=np.ones((ticks, 6), np.int64),
    )
    found.part_present[:, :parts] = (y < 1.1) & (y > -0.8)
    found.part_id[:, :parts] = np.arange(parts)
    found.part_class[:, :parts] = np.where(np.arange(parts) < 2, -1, np.arange(parts) % 6)
    found.part_position_m[:, :parts, 0] = np.where(np.arange(parts) % 2, 0.42, 0.56)
    found.part_position_m[:, :parts, 1] = y
    found.part_position_m[:, :parts, 2] = 0.0225
    found.part_velocity_mps[:, :parts, 1] = -speed[:, None]
    return found


@pytest.fixture(scope="module")
def shifts():
    return [shift(seed) for seed in range(12)]


@pytest.fixture(scope="module")
def pairs(shifts):
    return collect(zip(shifts, simulate(shifts, CAMERA, KNOWN), strict=True), CAMERA)


@pytest.fixture(scope="module")
def fitted(pairs):
    return fit_parts(pairs, PartErrorParameters(), "a known model")


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("birth_hits", 0.26),
        ("position_floor_m", 0.25),
        ("position_correlation_s", 0.5),
        ("velocity_noise_mps", 0.5),
        ("velocity_lag_s", 0.4),
        ("velocity_at_birth", 0.25),
        ("identity_switches_per_s", 0.6),
        ("size_noise", 0.2),
        ("false_alarms_per_s", 0.5),
        ("coast_s", 1e-6),
    ],
)
def test_known_parameters_are_found(fitted, name, tolerance):
    assert getattr(fitted, name) == pytest.approx(getattr(KNOWN, name), rel=tolerance)


def test_known_classes_are_found(fitted):
    np.testing.assert_allclose(fitted.detection_max, 0.97, atol=0.03)
    np.testing.assert_allclose(fitted.heading_noise_rad, KNOWN.heading_noise_rad, atol=0.03)
    assert fitted.heading_wrong[4] == pytest.approx(0.4, abs=0.2)
    assert max(fitted.heading_wrong[:4]) < 0.05
    assert fitted.class_confusion[3] == pytest.approx(0.3, abs=0.2)
    assert fitted.class_confusion[0] == 0.0
    assert fitted.distractor_confusion < 0.1
    assert fitted.source == "a known model"
    fitted.__post_init__()  # what was found makes sense


def test_replay_corrects_what_was_changed(pairs, shifts, fitted):
    few = shifts[:2]

    def modelled(parameters):
        return collect(zip(few, simulate(few, CAMERA, parameters), strict=True), CAMERA)

    corrected = match_replay(fitted, pairs, modelled)
    assert corrected.hidden_noise >= fitted.hidden_noise
    assert corrected.detection_correlation_s <= fitted.detection_correlation_s
    assert corrected.position_floor_m == fitted.position_floor_m


def test_picture_of_two_sets(pairs, tmp_path):
    figures = plot_marginals({"real": pairs, "model": pairs}, tmp_path / "marginals.png")
    assert figures["real"] == marginals(pairs) or figures["real"].keys() == marginals(pairs).keys()
    assert figures["real"]["tracked"][-1] > 0.9
    assert (tmp_path / "marginals.png").stat().st_size > 30_000


def tracks(places, ids):
    found = PerceivedTracks.empty(1, len(ids))
    found.present[:] = True
    found.track_id[0] = ids
    found.position_m[0] = places
    return found


def test_tracks_keep_their_parts_and_what_is_left_is_a_ghost():
    one = shift(0, ticks=2, parts=3)
    one.part_present[:, :3] = [False, False, True]
    one.part_position_m[:, 2] = [0.5, 0.2, 0.0225]
    first = tracks([[0.5, 0.21], [0.3, 0.9]], [5, 6])
    second = tracks([[0.505, 0.2], [0.5, 0.215]], [7, 5])  # nearer, but its track is still there
    found = collect([(one, [first, second])], CAMERA)
    assert found.track.tolist() == [5, 5]
    np.testing.assert_allclose(found.error_m[1], [0.0, 0.015], atol=1e-9)
    assert found.false_ticks[:, 0].tolist() == [6.0, 7.0]
    assert found.false_ticks[:, 2].tolist() == [0.0, 1.0]  # beside a part
    assert found.false_ticks[:, 6].tolist() == [0.0, 0.0]  # nobody's before
    assert found.distractors == 0


def test_no_shift_and_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        collect([], CAMERA)
    with pytest.raises(ValueError, match="2 ticks of truth, 1 of tracks"):
        collect([(shift(0, ticks=2), [PerceivedTracks.empty(1, 1)])], CAMERA)
    with pytest.raises(ValueError, match="at least one tick"):
        Shift.of([])


@pytest.mark.slow
def test_a_real_run_is_logged_and_read_again(tmp_path):
    (played,) = log_shifts([200], ticks_max=6, forecaster="cv", keep=tmp_path)
    (kept,) = tmp_path.iterdir()
    assert len(played) == len(load_log(kept, SERVICES)) == 6
    one = Shift.of(played)
    found = collect([(one, real_tracks(played))], CAMERA)
    assert found.ticks == 6
    assert found.tracked[found.on_belt & (found.share > 0.98) & (found.tick >= 2)].mean() > 0.8
    assert msgspec.msgpack.decode(kept.read_bytes())
