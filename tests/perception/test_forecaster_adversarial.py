import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn.functional import softplus  # noqa: E402

from visuomotor.perception.train.forecaster_adversarial import (  # noqa: E402
    AdversarialSettings,
    Adversary,
    own_moves,
)
from visuomotor.perception.train.forecaster_data import SceneSet, as_tensors  # noqa: E402
from visuomotor.perception.train.forecaster_loss import LossWeights, forecast_loss  # noqa: E402
from visuomotor.perception.train.forecaster_model import ForecasterConfig, ForecasterNetwork  # noqa: E402
from visuomotor.perception.train.forecaster_train import CHECKPOINT, TrainingSettings, train  # noqa: E402

torch.set_num_threads(1)
TINY = ForecasterConfig(history_samples=6, horizon_steps=10, futures=2, hidden=16, heads=2, dropout=0.0)
QUICK = AdversarialSettings(weight=0.3, warm_up_steps=0, learning_rate=4e-3, hidden=16)


def runners(count: int, seed: int, wiggle_m: float = 0.0, noise_m: float = 0.0) -> SceneSet:
    """Straight runners whose futures may sway from side to side; histories with noise and gaps, futures without."""
    rng = np.random.default_rng(seed)
    heading, speed = rng.uniform(-np.pi, np.pi, count), rng.uniform(2, 10, count)
    t = (np.arange(TINY.history_samples + TINY.horizon_steps) - TINY.history_samples + 1) * TINY.step_s
    ahead = np.stack([np.cos(heading), np.sin(heading)], 1)[:, None]
    left = np.stack([-np.sin(heading), np.cos(heading)], 1)[:, None]
    sway = wiggle_m * np.sin(2 * np.pi * t / 0.8 + rng.uniform(0, 6, (count, 1))) * (t > 0)
    path = ((speed[:, None] * t)[..., None] * ahead + sway[..., None] * left).astype(np.float32)
    history = path[:, : TINY.history_samples] + rng.normal(0, noise_m, (count, TINY.history_samples, 2))
    present = rng.random((count, TINY.history_samples)) < (0.7 if noise_m else 1.0)
    present[:, -1] = True
    return SceneSet(
        history_m=history.astype(np.float32),
        present=present,
        class_id=np.zeros(count, np.int64),
        future_m=path[:, TINY.history_samples :],
        future_present=np.ones((count, TINY.horizon_steps), bool),
        manoeuvre=np.zeros(count, np.int64),
        scene=np.arange(count) // 4,
        group=np.arange(count) // 8,
        scored=np.ones(count, bool),
    )


def as_outputs(future_m: np.ndarray) -> tuple[Any, Any, Any]:
    """Futures [N, T, 2] as a network with one future per agent would give them."""
    return torch.from_numpy(future_m)[:, None], torch.zeros(0), torch.zeros(len(future_m), 1)


def learn(adversary: Adversary, predicted: dict[str, float], steps: int) -> dict[str, float]:
    """Mean figures of the last ten steps against the futures of ``runners(**predicted)``."""
    figures = []
    for step in range(steps):
        false = runners(64, 2 * step + 1, **predicted).future_m
        figures.append(adversary(runners(64, 2 * step), as_outputs(false))[1])
    return {name: float(np.mean([f[name] for f in figures[-10:]])) for name in figures[-1]}


def curvature(position: Any) -> float:
    """Mean length of the second difference of futures [..., T, 2]."""
    return float(position.detach().diff(n=2, dim=-2).norm(dim=-1).mean())


def test_the_discriminator_tells_wiggles_from_straight_lines() -> None:
    found = learn(Adversary(TINY, QUICK), {"wiggle_m": 0.3}, 90)
    assert found["accuracy_true"] > 0.9
    assert found["accuracy_predicted"] > 0.9
    assert found["discriminator"] < 0.4


def test_its_gradient_straightens_the_futures_of_a_network() -> None:
    adversary = Adversary(TINY, QUICK, seed=1)
    torch.manual_seed(0)
    network = ForecasterNetwork(TINY)
    with torch.no_grad():
        network.emit.bias.normal_(std=0.1)  # five steps a cell: a bias for each sways like a wiggle
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    bends = []
    for step in range(120):
        batch = runners(48, step)
        outputs = network(**as_tensors(batch))
        term, figures = adversary(batch, outputs)
        bends.append(curvature(outputs[0]))
        optimizer.zero_grad()
        if step >= 30:  # the discriminator first
            term.backward()
            optimizer.step()
    assert figures.keys() == {"discriminator", "accuracy_true", "accuracy_predicted", "generator"}
    assert bends[-1] < 0.5 * bends[0]


def test_noise_and_gaps_of_the_history_tell_nothing() -> None:
    adversary = Adversary(TINY, QUICK)
    accuracy = []
    for step in range(60):
        batch = runners(64, step, noise_m=0.5)
        rng = np.random.default_rng(step)
        seen_m = batch.future_m[:, :1] + rng.normal(0, 0.5, (64, 1, 2))  # where and how fast the tracker saw it
        seen_mps = (batch.future_m[:, 1:2] - batch.future_m[:, :1]) / TINY.step_s + rng.normal(0, 0.5, (64, 1, 2))
        line = seen_m + seen_mps * TINY.step_s * np.arange(TINY.horizon_steps)[:, None]
        figures = adversary(batch, as_outputs(line.astype(np.float32)))[1]
        accuracy.append(0.5 * (figures["accuracy_true"] + figures["accuracy_predicted"]))
    assert abs(np.mean(accuracy[-30:]) - 0.5) < 0.06


def test_moves_are_the_same_wherever_the_future_lies_and_hide_what_is_unknown() -> None:
    future = torch.from_numpy(runners(5, 0, wiggle_m=0.2).future_m)
    known = torch.ones(5, 10, dtype=torch.bool)
    known[0, 6:] = False
    moves, both = own_moves(future, known, TINY)
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]])
    again, _ = own_moves(future @ turn.T + torch.tensor([30.0, -7.0]), known, TINY)
    assert torch.allclose(moves, again, atol=1e-3)
    assert both[0].tolist() == [1.0] * 5 + [0.0] * 4
    discriminator = Adversary(TINY, QUICK).discriminator.eval()
    changed = future.clone()
    changed[0, 6:] += 50.0
    kind = torch.zeros(5, dtype=torch.int64)
    assert torch.allclose(discriminator(future, known, kind), discriminator(changed, known, kind))


def test_every_matrix_of_the_discriminator_keeps_spectral_norm_1() -> None:
    adversary = Adversary(TINY, QUICK)
    learn(adversary, {"wiggle_m": 0.15}, 20)
    discriminator = adversary.discriminator.eval()
    for matrix in (
        discriminator.step_in[0].weight,
        discriminator.reader.weight_ih_l0,
        discriminator.reader.weight_hh_l0,
        discriminator.judge.weight,
    ):
        assert float(torch.linalg.matrix_norm(matrix.detach(), 2)) == pytest.approx(1.0, abs=0.3)


def test_the_network_is_left_alone_in_the_warm_up() -> None:
    adversary = Adversary(TINY, AdversarialSettings(weight=0.1, warm_up_steps=2, hidden=8))
    batch = runners(8, 0)
    position = torch.from_numpy(batch.future_m)[:, None].requires_grad_()
    outputs = (position, torch.zeros(0), torch.zeros(8, 1))
    for _ in range(2):
        term, figures = adversary(batch, outputs)
        assert float(term.detach()) == 0.0
        assert not term.requires_grad
        assert "generator" not in figures
    term, figures = adversary(batch, outputs)
    term.backward()
    assert float(term.detach()) == pytest.approx(0.1 * figures["generator"])
    assert position.grad is not None
    assert all(p.requires_grad for p in adversary.discriminator.parameters())


def test_a_resumed_discriminator_goes_on_as_if_never_stopped() -> None:
    first = Adversary(TINY, QUICK)
    learn(first, {"wiggle_m": 0.1}, 5)
    second = Adversary(TINY, QUICK, seed=7)
    second.load_state_dict(copy.deepcopy(first.state_dict()))  # as from disk: nothing is shared
    assert second.steps == 5
    assert learn(first, {"wiggle_m": 0.1}, 3) == learn(second, {"wiggle_m": 0.1}, 3)


def test_training_checkpoints_the_discriminator_and_shows_its_figures(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = TrainingSettings(epochs=1, agents_per_batch=32, warm_up_steps=2)
    data, tune = runners(96, 0, noise_m=0.1), runners(16, 1)
    first = Adversary(TINY, QUICK)
    train(data, tune, TINY, settings, tmp_path, report=lambda text: None, extra_loss=first)
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    shown = {f"train/{name}" for name in ("discriminator", "accuracy_true", "accuracy_predicted", "generator")}
    assert shown <= set(events.Tags()["scalars"])
    stored = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert stored["extra_loss"]["steps"] == 3

    further = TrainingSettings(**{**vars(settings), "epochs": 2})
    second = Adversary(TINY, QUICK, seed=9)
    train(data, tune, TINY, further, tmp_path, resume=True, report=lambda text: None, extra_loss=second)
    assert second.steps == 6
    with pytest.raises(ValueError, match=r"checkpoint\.pt: was trained with an extra .* resumed without one"):
        train(data, tune, TINY, further, tmp_path, resume=True, report=lambda text: None)


def test_the_term_adds_to_the_loss_and_not_to_the_random_numbers() -> None:
    batch = runners(16, 0)
    outputs = ForecasterNetwork(TINY)(**as_tensors(batch))
    known = torch.ones(16, 10, dtype=torch.bool)
    truth = torch.from_numpy(batch.future_m)
    loss, _ = forecast_loss(*outputs, truth, known, LossWeights())
    before = torch.random.get_rng_state()
    term, _ = Adversary(TINY, QUICK)(batch, outputs)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert float((loss + term).detach()) > float(loss.detach())
    assert float(term.detach()) == pytest.approx(0.3 * float(softplus(torch.tensor(0.0))), abs=0.15)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"weight": -0.1}, "adversarial weight: expected 0 or more, got -0.1"),
        ({"weight": float("nan")}, "adversarial weight: expected 0 or more, got nan"),
        ({"warm_up_steps": -1}, "adversarial warm_up_steps: expected 0 or more, got -1"),
        ({"hidden": 0}, "adversarial hidden: expected more than 0, got 0"),
    ],
)
def test_wrong_settings_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdversarialSettings(**values)
