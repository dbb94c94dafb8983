from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from visuomotor.deploy.export.forecaster import export_forecaster, parity_cases, prove_parity, to_onnx  # noqa: E402
from visuomotor.perception.forecaster import load_forecaster  # noqa: E402
from visuomotor.perception.train.forecaster_data import (  # noqa: E402
    Augmentation,
    SceneSet,
    as_tensors,
    augment,
    batches,
)
from visuomotor.perception.train.forecaster_loss import LossWeights, forecast_loss, gaussian_nll  # noqa: E402
from visuomotor.perception.train.forecaster_metrics import (  # noqa: E402
    by_manoeuvre,
    interval,
    score_agents,
)
from visuomotor.perception.train.forecaster_model import ForecasterConfig, ForecasterNetwork  # noqa: E402
from visuomotor.perception.train.forecaster_rows import get_forecaster_row  # noqa: E402
from visuomotor.perception.train.forecaster_train import (  # noqa: E402
    BEST,
    CHECKPOINT,
    TrainingSettings,
    load_network,
    manoeuvre_weights,
    predict_batches,
    train,
)

torch.set_num_threads(1)
MANOEUVRES = get_forecaster_row("drive").manoeuvres
TINY = ForecasterConfig(
    history_samples=6, horizon_steps=4, steps_per_cell=2, futures=3, hidden=16, heads=2, dropout=0.0
)


def scenes(count: int = 120, agents: int = 3, seed: int = 0, config: ForecasterConfig = TINY) -> SceneSet:
    """Agents that brake steadily to a stop or go on, told apart by how they move already."""
    rng = np.random.default_rng(seed)
    total = count * agents
    heading, speed = rng.uniform(-np.pi, np.pi, total), rng.uniform(3, 9, total)
    brakes = rng.random(total) < 0.5
    t = (np.arange(config.history_samples + config.horizon_steps) - config.history_samples + 1) * config.step_s
    slow = np.where(brakes, 3.0, 0.0)
    way = speed[:, None] * t - 0.5 * slow[:, None] * t**2
    path = way[..., None] * np.stack([np.cos(heading), np.sin(heading)], 1)[:, None] + rng.normal(0, 20, (total, 1, 2))
    path = path.astype(np.float32)
    return SceneSet(
        history_m=path[:, : config.history_samples],
        present=np.ones((total, config.history_samples), bool),
        class_id=np.zeros(total, np.int64),
        future_m=path[:, config.history_samples :],
        future_present=np.ones((total, config.horizon_steps), bool),
        manoeuvre=np.where(brakes, MANOEUVRES.index("brake"), 0),
        scene=np.repeat(np.arange(count), agents),
        group=np.repeat(np.arange(count) // 10, agents),
        scored=np.ones(total, bool),
    )


def test_an_untrained_network_predicts_constant_velocity() -> None:
    network = ForecasterNetwork(TINY).eval()
    data = scenes(20)
    data = data.take(data.manoeuvre == 0)
    position, spread, probability, scored = predict_batches(network, data)
    assert np.abs(position - scored.future_m[:, None]).max() < 0.6
    assert (spread[..., :2] > 0).all()
    assert probability.sum(1) == pytest.approx(np.ones(len(scored)), abs=1e-5)


def test_training_beats_constant_velocity_and_resumes(tmp_path: Path) -> None:
    said: list[str] = []
    settings = TrainingSettings(
        epochs=6, agents_per_batch=40, learning_rate=5e-3, warm_up_steps=10, ema_decay=0.9,
        augmentation=Augmentation(noise_m=0.0, drop_share=0.0, gap_share=0.0, late_share=0.0),
    )  # fmt: skip
    first = train(scenes(200), scenes(40, seed=1), TINY, settings, tmp_path, report=said.append)
    assert first.epochs == 6
    assert (tmp_path / CHECKPOINT).is_file()
    assert list((tmp_path / "events").iterdir())
    further = TrainingSettings(**{**vars(settings), "epochs": 12})
    second = train(scenes(200), scenes(40, seed=1), TINY, further, tmp_path, resume=True, report=said.append)
    assert second.epochs == 12
    assert sum(text.startswith("epoch ") for text in said) == 12
    assert second.best_score <= first.best_score
    test = scenes(40, seed=2)
    position, _, probability, scored = predict_batches(second.network, test)
    learned = score_agents(position, np.ones((*position.shape[:3], 3)) * (1, 1, 0), probability, scored.future_m,
                           scored.future_present)  # fmt: skip
    velocity = (scored.history_m[:, -1] - scored.history_m[:, -2])[:, None]
    line = scored.history_m[:, -1:] + velocity * np.arange(1, 5)[:, None]
    straight = np.linalg.norm(line - scored.future_m, axis=-1).mean()
    assert learned["min_ade_m"].mean() < 0.7 * straight
    same = load_network(tmp_path / BEST)
    assert np.array_equal(predict_batches(same, test)[0], position)


def test_early_stopping_waits_no_longer_than_asked(tmp_path: Path) -> None:
    settings = TrainingSettings(epochs=50, agents_per_batch=60, learning_rate=0.0, patience=2, warm_up_steps=1)
    result = train(scenes(20), scenes(10, seed=1), TINY, settings, tmp_path, report=lambda text: None)
    assert result.epochs == 3
    assert result.best_epoch == 1


def test_resuming_nothing_or_another_network_is_refused(tmp_path: Path) -> None:
    settings = TrainingSettings(epochs=1, agents_per_batch=60)
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        train(scenes(5), scenes(5), TINY, settings, tmp_path, resume=True, report=lambda text: None)
    train(scenes(5), scenes(5), TINY, settings, tmp_path, report=lambda text: None)
    other = ForecasterConfig(**{**TINY.to_dict(), "hidden": 8})
    with pytest.raises(ValueError, match="was made with"):
        train(scenes(5), scenes(5), other, settings, tmp_path, resume=True, report=lambda text: None)


def test_rare_manoeuvres_weigh_more() -> None:
    data = scenes(40)
    data.manoeuvre[:] = 0
    data.manoeuvre[:4] = MANOEUVRES.index("crossing")
    weight = manoeuvre_weights(data)
    assert weight[0] == 1.0
    assert weight[MANOEUVRES.index("crossing")] == 5.0
    assert len(weight) == MANOEUVRES.index("crossing") + 2


def test_the_exported_graph_equals_the_network(tmp_path: Path) -> None:
    torch.manual_seed(3)
    network = ForecasterNetwork(TINY).eval()
    with torch.no_grad():
        network.emit.weight.normal_(std=0.3)
    parity = prove_parity(network, to_onnx(network))
    assert parity.passed
    assert parity.cases == len(parity_cases(TINY))
    bundle = export_forecaster(
        network, tmp_path / "tiny", task="drive", training={"seed": 3}, metrics={"ade_m": 1.0}, report="# Tiny"
    )
    assert bundle.meta.parity["passed"]
    assert bundle.weights_path is not None
    runtime = load_forecaster(tmp_path / "tiny", device="cpu")
    assert runtime is not None
    assert (runtime.history_samples, runtime.horizon_steps, runtime.futures) == (6, 4, 3)
    data = scenes(3)
    futures = runtime.predict(data.history_m, data.present, data.class_id, data.scene)
    with torch.no_grad():
        position, spread, log_probability = network(**as_tensors(data))
    assert futures.position_m == pytest.approx(position.numpy(), abs=1e-3)
    assert futures.spread_m == pytest.approx(spread.numpy(), abs=1e-3)
    assert futures.probability == pytest.approx(log_probability.exp().numpy(), abs=1e-4)
    assert (
        runtime.predict(data.history_m[:0], data.present[:0], data.class_id[:0], data.scene[:0]).probability.size == 0
    )


def test_neighbours_have_influence_and_strangers_none() -> None:
    torch.manual_seed(0)
    network = ForecasterNetwork(TINY).eval()
    with torch.no_grad():
        network.emit.weight.normal_(std=0.5)
    data = scenes(1, 2)
    data.history_m[1] = data.history_m[0] + (2.0, 1.0)
    together, apart = as_tensors(data), as_tensors(data)
    apart["scene"] = torch.tensor([0, 1])
    alone = {name: value[:1] for name, value in together.items()}
    with torch.no_grad():
        a, b, c = network(**together)[0][0], network(**apart)[0][0], network(**alone)[0][0]
    assert torch.allclose(b, c, atol=1e-5)
    assert (a - b).abs().max() > 1e-3


def test_gaussian_likelihood_equals_the_formula() -> None:
    covariance = np.array([[0.5, 0.3], [0.3, 0.9]])
    sigma = np.sqrt(np.diag(covariance))
    rho = covariance[0, 1] / sigma.prod()
    delta = np.array([0.4, -0.7])
    expected = 0.5 * delta @ np.linalg.inv(covariance) @ delta + 0.5 * np.log(
        (2 * np.pi) ** 2 * np.linalg.det(covariance)
    )
    found = gaussian_nll(torch.zeros(2), torch.tensor([*sigma, rho]), torch.from_numpy(delta))
    assert float(found) == pytest.approx(expected, rel=1e-5)
    scores = score_agents(
        np.zeros((1, 1, 1, 2)), np.array([[[[*sigma, rho]]]]), np.ones((1, 1)), delta[None, None], np.ones((1, 1), bool)
    )
    assert scores["nll"][0] == pytest.approx(expected, rel=1e-5)


def test_spread_is_turned_with_the_agent() -> None:
    network = ForecasterNetwork(TINY).eval()
    raw = torch.tensor([[[[1.0, -1.0, 0.0]]]]).expand(2, 1, TINY.horizon_steps, 3)
    c, s = np.cos(0.5), np.sin(0.5)
    turn = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[c, s], [-s, c]]], dtype=torch.float32)
    spread = network._spread(raw, torch.ones(2), turn).detach().numpy()[:, 0, -1]
    ahead, left = spread[0, :2]
    rotation = np.array([[c, -s], [s, c]])
    expected = rotation @ np.diag([ahead**2, left**2]) @ rotation.T
    assert spread[1, 0] ** 2 == pytest.approx(expected[0, 0], rel=1e-4)
    assert spread[1, 1] ** 2 == pytest.approx(expected[1, 1], rel=1e-4)
    assert spread[1, 2] * spread[1, 0] * spread[1, 1] == pytest.approx(expected[0, 1], rel=1e-3)


def test_only_known_steps_and_the_best_future_count() -> None:
    truth = torch.zeros(1, 4, 2)
    known = torch.tensor([[True, True, False, False]])
    position = torch.zeros(1, 2, 4, 2)
    position[0, 0, 2:] = 50.0  # wrong only where nothing is known
    position[0, 1] = 3.0
    spread = torch.ones(1, 2, 4, 3) * torch.tensor([1.0, 1.0, 0.0])
    weights = LossWeights(best=1.0, central=0.0, others=0.0, likelihood=0.0, choice=0.0)
    loss, parts = forecast_loss(position, spread, torch.log(torch.tensor([[0.5, 0.5]])), truth, known, weights)
    assert float(loss) == pytest.approx(0.0, abs=2e-3)
    assert parts["choice"] == pytest.approx(np.log(2), abs=1e-5)


def test_augmentation_keeps_shapes_and_the_present() -> None:
    batch = next(batches(scenes(30), 60, None))
    changed = augment(batch, Augmentation(noise_m=0.0, drop_share=0.3, gap_share=0.5), np.random.default_rng(0))
    assert changed.present[:, -1].all()
    assert changed.present.sum() < 0.8 * batch.present.sum()
    before = np.linalg.norm(batch.future_m[:, -1] - batch.history_m[:, 0], axis=1)
    after = np.linalg.norm(changed.future_m[:, -1] - changed.history_m[:, 0], axis=1)
    assert after == pytest.approx(before, abs=1e-3)
    assert np.abs(changed.future_m - batch.future_m).max() > 1.0


def test_batches_hold_whole_scenes_each_once() -> None:
    data = scenes(50)
    data.scored[:3] = False  # nobody in the first scene counts
    seen = [batch for batch in batches(data, 40, np.random.default_rng(1))]
    assert sum(len(batch) for batch in seen) == len(data) - 3
    assert all((np.bincount(batch.scene) == 3).all() for batch in seen)
    first = seen[0]
    assert np.abs(first.history_m[first.scene == 0, -1].mean(0)).max() < 1e-3


def test_samples_survive_the_disk_and_refuse_nonsense(tmp_path: Path) -> None:
    data = scenes(4)
    data.save(tmp_path / "a.npz")
    back = SceneSet.load(tmp_path / "a.npz")
    assert np.array_equal(back.future_m, data.future_m)
    both = SceneSet.concatenate([data, back])
    assert len(np.unique(both.scene)) == 8
    (tmp_path / "b.npz").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"b\.npz: expected a file of forecaster samples"):
        SceneSet.load(tmp_path / "b.npz")
    with pytest.raises(ValueError, match="non-decreasing"):
        data.take(np.arange(len(data))[::-1])


def test_scores_of_a_known_case() -> None:
    truth = np.zeros((1, 2, 2))
    position = np.array([[[[0, 1], [0, 3]], [[0, 2], [0, 2]]]], float)
    spread = np.ones((1, 2, 2, 3)) * (1, 1, 0)
    scores = score_agents(position, spread, np.array([[0.4, 0.6]]), truth, np.ones((1, 2), bool))
    assert {k: float(v[0]) for k, v in scores.items() if k != "nll"} == {
        "ade_m": 2.0, "fde_m": 2.0, "min_ade_m": 2.0, "min_fde_m": 2.0, "miss_rate": 0.0,
    }  # fmt: skip
    cut = score_agents(position, spread, np.array([[0.4, 0.6]]), truth, np.array([[True, False]]))
    assert float(cut["min_fde_m"][0]) == 1.0


def test_intervals_resample_groups_and_manoeuvres_are_split() -> None:
    rng = np.random.default_rng(0)
    values, group = rng.normal(1.0, 0.1, 400), np.repeat(np.arange(40), 10)
    one = interval(values, group)
    assert one["low"] < 1.0 < one["high"]
    assert one["high"] - one["low"] < 0.06
    out = by_manoeuvre({"ade_m": values}, np.where(np.arange(400) < 100, 1, 0), group, MANOEUVRES)
    assert set(out) == {"all", "straight", "lane_change"}
    assert out["lane_change"]["ade_m"]["n"] == 100
    assert np.isnan(interval(np.zeros(0), np.zeros(0))["mean"])


def test_a_network_reckons_in_the_unit_of_its_task() -> None:
    torch.manual_seed(5)
    road = ForecasterNetwork(TINY).eval()
    belt = ForecasterNetwork(replace(TINY, unit_m=0.05)).eval()
    belt.load_state_dict(road.state_dict())
    large = as_tensors(scenes(3))
    small = {**large, "history_m": large["history_m"] * 0.05}
    with torch.no_grad():
        (wide, spread, share), (narrow, near_spread, same) = road(**large), belt(**small)
    assert torch.allclose(narrow, 0.05 * wide, atol=1e-4)
    assert torch.allclose(near_spread, spread * torch.tensor([0.05, 0.05, 1.0]), atol=1e-4)
    assert torch.allclose(same, share, atol=1e-4)
