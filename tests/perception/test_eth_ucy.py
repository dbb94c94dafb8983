from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from visuomotor.messages.schema import PEDESTRIAN
from visuomotor.perception.train.eth_ucy import CONFIG, constant_velocity, mean_scores, score_scene
from visuomotor.perception.train.eth_ucy_data import (
    OBSERVED,
    PREDICTED,
    SCENES,
    files_of,
    load_split,
    load_windows,
)
from visuomotor.perception.train.forecaster_model import ForecasterNetwork

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "eth_ucy"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is not there")
# pedestrian-windows of the test sets under both counting rules, as the literature's loaders give them
WINDOWS = {
    "eth": (181, 364),
    "hotel": (1053, 1197),
    "univ": (24334, 24334),
    "zara1": (2253, 2356),
    "zara2": (5833, 5910),
}


def write_recording(path: Path, frames: int = 25) -> Path:
    rows = []
    for k in range(frames):
        rows.append((10 * k, 1, 0.5 * k, 0.0))
        if k >= 3:
            rows.append((10 * k, 2, 5.0, 0.4 * k))
        if 6 <= k <= 9:
            rows.append((10 * k, 3, 1.0, 1.0))
    path.write_text("\n".join("\t".join(str(v) for v in row) for row in rows))
    return path


def test_windows_hold_who_is_there_and_count_who_stays(tmp_path: Path) -> None:
    one = load_windows(write_recording(tmp_path / "a.txt"), min_complete=1)
    assert one.history_m.shape[1:] == (OBSERVED, 2)
    assert one.future_m.shape[1:] == (PREDICTED, 2)
    assert len(np.unique(one.scene)) == 6  # 25 frames, windows of 20
    assert one.scored.sum() == 6 + 3  # the second pedestrian comes at frame 3
    assert (one.class_id == PEDESTRIAN).all()
    first = one.take(one.scene == 0)
    assert first.scored.tolist() == [True, False, False]
    assert first.present[1].tolist() == [False] * 3 + [True] * 5
    two = load_windows(tmp_path / "a.txt", min_complete=2)
    assert len(np.unique(two.scene)) == 3
    assert two.scored.sum() == 6


def test_bad_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_text("a b c")
    with pytest.raises(ValueError, match=r"bad\.txt: expected rows"):
        load_windows(tmp_path / "bad.txt")
    with pytest.raises(ValueError, match="no window"):
        load_windows(write_recording(tmp_path / "short.txt", frames=12))
    with pytest.raises(ValueError, match=r"expected a folder with raw/train"):
        files_of(tmp_path, "eth", "train")
    with pytest.raises(ValueError, match="scene: expected one of eth, hotel"):
        files_of(tmp_path, "moon", "train")


@needs_data
def test_the_window_counts_are_those_of_the_literature() -> None:
    for scene, counts in WINDOWS.items():
        for least, count in zip((2, 1), counts, strict=True):
            assert load_split(DATA, scene, "test", least).scored.sum() == count, (scene, least)


@needs_data
def test_constant_velocity_has_its_known_mean_error() -> None:
    for least, ade, fde in ((2, 0.52, 1.14), (1, 0.53, 1.15)):
        errors = []
        for scene in SCENES:
            data = load_split(DATA, scene, "test", least)
            data = data.take(data.scored)
            error = np.linalg.norm(constant_velocity(data.history_m, PREDICTED) - data.future_m, axis=-1)
            errors.append((error.mean(), error[:, -1].mean()))
        assert np.mean(errors, 0).round(2) == pytest.approx([ade, fde], abs=0.011)


@needs_data
def test_no_recording_is_in_both_training_and_test() -> None:
    for scene, names in SCENES.items():
        for part in ("train", "val"):
            files = files_of(DATA, scene, part)
            assert not {f"{name}_{part}.txt" for name in names} & {file.name for file in files}
            assert len(files) == 8 - len(names)


@needs_data
def test_a_scene_is_scored_beside_constant_velocity() -> None:
    data = load_split(DATA, "eth", "test")
    scores = score_scene(ForecasterNetwork(CONFIG), data)
    assert scores["cv_ade_m"]["mean"] == pytest.approx(0.995, abs=0.01)
    assert scores["ade_m"]["n"] == 181
    assert 0.8 < scores["ade_m"]["mean"] < 1.6  # untrained: a smoothed constant velocity
    mean = mean_scores({"eth": {"rule": scores}, "hotel": {"rule": scores}}, "rule")
    assert mean["ade_m"] == pytest.approx(scores["ade_m"]["mean"])
