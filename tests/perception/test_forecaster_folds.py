import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from visuomotor.launch.cli import run_app  # noqa: E402
from visuomotor.perception.train import forecaster_tasks  # noqa: E402
from visuomotor.perception.train.forecaster_data import SceneSet  # noqa: E402
from visuomotor.perception.train.forecaster_folds import (  # noqa: E402
    RESULTS,
    cross_validate,
    fold_sets,
    split_groups,
    summary,
    table,
)
from visuomotor.perception.train.forecaster_metrics import METRICS  # noqa: E402
from visuomotor.perception.train.forecaster_model import ForecasterConfig, ForecasterNetwork  # noqa: E402
from visuomotor.perception.train.forecaster_train import (  # noqa: E402
    CHECKPOINT,
    TrainingSettings,
    load_network,
    soften,
    train,
    zero_share,
)

torch.set_num_threads(1)
TINY = ForecasterConfig(hidden=8, heads=2, dropout=0.0)
ONE_EPOCH = TrainingSettings(epochs=1, agents_per_batch=40, warm_up_steps=2)


def runners(groups: int, seed: int, config: ForecasterConfig = TINY) -> SceneSet:
    """Four straight runners in each of two scenes of every group."""
    rng = np.random.default_rng(seed)
    count = 8 * groups
    t = (np.arange(config.history_samples + config.horizon_steps) - config.history_samples + 1) * config.step_s
    path = rng.normal(0, 20, (count, 1, 2)) + rng.normal(0, 4, (count, 1, 2)) * t[:, None]
    history, future = np.split(path.astype(np.float32), [config.history_samples], axis=1)
    return SceneSet(
        history, np.ones(history.shape[:2], bool), np.zeros(count, np.int64), future, np.ones(future.shape[:2], bool),
        np.zeros(count, np.int64), np.arange(count) // 4, np.arange(count) // 8, np.ones(count, bool),
    )  # fmt: skip


def quiet(text: str) -> None:
    pass


@pytest.mark.parametrize("folds", [2, 3, 7])
def test_folds_are_disjoint_by_group_and_cover_all(folds: int) -> None:
    data = runners(7, 0)
    parts = split_groups(data.group, folds, seed=3)
    assert sorted(np.concatenate(parts).tolist()) == list(range(7))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for part in parts:
        rest, held_out = fold_sets(data, part)
        assert not set(rest.group) & set(held_out.group)
        assert len(rest) + len(held_out) == len(data)
        assert set(held_out.group) == set(part)
    assert not np.array_equal(parts[0], split_groups(data.group, folds, seed=4)[0]) or folds == 7


def test_too_few_folds_or_groups_are_named() -> None:
    with pytest.raises(ValueError, match="folds: expected 2 or more, got 1"):
        split_groups(np.arange(5), 1)
    with pytest.raises(ValueError, match=r"folds: expected at most one for each of the 3 groups \(episodes\), got 4"):
        split_groups(np.array([0, 0, 1, 5]), 4)


def test_a_finished_fold_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, tune = runners(4, 0), runners(2, 1)
    trained: list[str] = []

    def stop_at_the_second(*arguments: Any, **options: Any) -> Any:
        trained.append(arguments[4].name)
        if trained == ["fold-1", "fold-2"]:
            raise KeyboardInterrupt
        return train(*arguments, **options)

    monkeypatch.setattr("visuomotor.perception.train.forecaster_folds.train", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        cross_validate(data, tune, TINY, ONE_EPOCH, 2, tmp_path, report=quiet)
    before = json.loads((tmp_path / RESULTS).read_text())
    assert len(before["finished"]) == 1
    said: list[str] = []
    found = cross_validate(
        data, tune, TINY, replace(ONE_EPOCH, time_limit_s=60.0), 2, tmp_path, resume=True, report=said.append
    )
    assert trained == ["fold-1", "fold-2", "fold-2"]
    assert found["finished"][0] == before["finished"][0]
    assert sorted(group for fold in found["finished"] for group in fold["groups"]) == [0, 1, 2, 3]
    assert found == json.loads((tmp_path / RESULTS).read_text())
    errors = [fold["scores"]["lstm"]["ade_m"] for fold in found["finished"]]
    assert found["summary"]["lstm"]["ade_m"]["mean"] == pytest.approx(np.mean(errors))
    assert found["summary"]["lstm"]["ade_m"]["std"] == pytest.approx(np.std(errors, ddof=1))
    assert found["summary"]["cv"]["ade_m"]["mean"] < 0.01  # they run straight
    assert [line.split(" | ")[0] for line in said[-3:]] == ["| 1", "| 2", "| mean ± std"]
    with pytest.raises(ValueError, match=r"folds\.json: was made with folds 2, expected 3"):
        cross_validate(data, tune, TINY, ONE_EPOCH, 3, tmp_path, resume=True, report=quiet)


def test_the_table_has_mean_and_standard_deviation() -> None:
    scores = [{name: dict.fromkeys(METRICS, value) for name in ("lstm", "cv")} for value in (1.0, 3.0)]
    assert summary(scores)["cv"]["nll"] == {"mean": 2.0, "std": pytest.approx(2**0.5)}
    assert table(scores)[-1].startswith("| mean ± std | 2.000 ± 1.414 / 2.000 ± 1.414 |")


def test_l1_makes_exact_zeros_in_matrices_only() -> None:
    network = ForecasterNetwork(TINY)
    with torch.no_grad():
        network.query.weight.copy_(torch.linspace(-1, 1, 64).reshape(8, 8))
        network.query.bias.fill_(0.01)
    before = network.query.weight.detach().clone()
    soften(network, 0.25)
    after = network.query.weight.detach()
    assert ((after == 0) == (before.abs() <= 0.25)).all()
    assert torch.allclose(after, before.sign() * (before.abs() - 0.25).clamp(min=0))
    assert (network.query.bias == 0.01).all()


def test_training_with_l1_reports_zeros_and_resumes(tmp_path: Path) -> None:
    settings = replace(ONE_EPOCH, epochs=2, learning_rate=5e-3, l1=2.0, ema_decay=0.9)
    data, tune = runners(10, 0), runners(2, 1)
    said: list[str] = []
    first = train(data, tune, TINY, settings, tmp_path, report=said.append)
    assert first.zero_share > 0.05
    assert first.zero_share == zero_share(load_network(tmp_path / "best.pt"))
    assert said[-1] == f"L1 2: {100 * first.zero_share:.1f} % of the matrices' weights are zero"
    train(data, tune, TINY, replace(settings, epochs=4), tmp_path, resume=True, report=quiet)
    stored = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    network, average = ForecasterNetwork(TINY), ForecasterNetwork(TINY)
    network.load_state_dict(stored["network"])
    average.load_state_dict(stored["average"])
    assert zero_share(average) >= zero_share(network) > first.zero_share
    plain = train(data, tune, TINY, ONE_EPOCH, tmp_path / "plain", report=quiet)
    assert plain.zero_share == 0.0


@pytest.mark.parametrize("name", ["l1", "weight_decay"])
def test_negative_penalties_are_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected 0 or more, got -1"):
        TrainingSettings(**{name: -1.0})


@pytest.fixture
def tracks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Track samples of a few runners, and a smaller network for the drive task."""
    folder = tmp_path / "tracks"
    for seed, split in enumerate(("train", "tune", "evaluation")):
        runners(4, seed).save(folder / f"{split}.npz")
        (folder / f"{split}.json").write_text('{"episodes": 4}')
    row = replace(forecaster_tasks.FORECASTERS["drive"], config=TINY)
    monkeypatch.setitem(forecaster_tasks.FORECASTERS, "drive", row)
    return folder


def test_the_command_line_cross_validates(tracks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    command = ["train", "forecaster", "--task", "drive", "--data", str(tracks), "--runs", str(runs), "--epochs", "1"]
    options = ["--folds", "2", "--adversarial", "0.1", "--l1", "0.01"]
    assert run_app([*command, *options]) == 0
    assert "| mean ± std |" in capsys.readouterr().out
    found = json.loads((runs / RESULTS).read_text())
    assert found["plan"]["adversarial"] == 0.1
    assert found["plan"]["settings"]["l1"] == 0.01
    stored = torch.load(runs / "fold-2" / CHECKPOINT, weights_only=True)
    assert stored["extra_loss"]["steps"] == 1
    assert run_app([*command, "--folds", "5"]) == 2
    assert "folds: expected at most one for each of the 4 groups (episodes), got 5" in capsys.readouterr().err
    assert run_app([*command, "--folds", "1"]) == 2
    assert "--folds" in capsys.readouterr().err


def test_the_task_passes_its_options_on(tracks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class StopHere(Exception):
        pass

    seen: dict[str, Any] = {}

    def spy(*arguments: Any, **options: Any) -> Any:
        seen.update(options, settings=arguments[3])
        raise StopHere

    monkeypatch.setattr(forecaster_tasks, "train", spy)
    with pytest.raises(StopHere):
        forecaster_tasks.train_forecaster("drive", tmp_path / "out", data=tracks)
    assert seen["extra_loss"] is None
    assert seen["settings"] == forecaster_tasks.FORECASTERS["drive"].settings
    with pytest.raises(StopHere):
        forecaster_tasks.train_forecaster("drive", tmp_path / "out", data=tracks, adversarial=0.2, l1=0.03)
    assert seen["extra_loss"].settings.weight == 0.2
    assert seen["settings"].l1 == 0.03


def test_what_the_task_refuses() -> None:
    with pytest.raises(ValueError, match="adversarial weight: expected 0 or more, got -1"):
        forecaster_tasks.train_forecaster("drive", data="nowhere", adversarial=-1.0)
    with pytest.raises(ValueError, match="l1: expected 0 or more, got -2"):
        forecaster_tasks.train_forecaster("drive", data="nowhere", l1=-2.0)
    with pytest.raises(ValueError, match="folds: expected 2 or more, got 1"):
        forecaster_tasks.cross_validate_forecaster("drive", folds=1, data="nowhere")
    with pytest.raises(ValueError, match="folds: eth-ucy leaves one scene out"):
        forecaster_tasks.cross_validate_forecaster("eth-ucy", folds=3)
