"""A tiny policy training from nothing: imitation, PPO, checkpoint with normaliser, resume, export with parity."""

import json

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("stable_baselines3")

from visuomotor.control.baselines import IdmMobilDriver  # noqa: E402
from visuomotor.control.observation import LAYOUT  # noqa: E402
from visuomotor.control.train.checkpoint import LearnedDriver, load_checkpoint  # noqa: E402
from visuomotor.control.train.episodes import play, success_rate  # noqa: E402
from visuomotor.control.train.imitation import Demonstrations  # noqa: E402
from visuomotor.control.train.normalizer import Normalizer, load_normalizer  # noqa: E402
from visuomotor.control.train.policy import PolicyTraining, make_forecaster, train_policy  # noqa: E402
from visuomotor.control.train.sb3_adapter import CasePool, WorldsVecEnv  # noqa: E402
from visuomotor.deploy.export.policy import export_policy  # noqa: E402
from visuomotor.deploy.runtime.bundle import load_bundle  # noqa: E402
from visuomotor.deploy.runtime.session import make_session  # noqa: E402
from visuomotor.launch.cli import run_app  # noqa: E402
from visuomotor.sim.env import DriveVectorEnv, EpisodeSummary  # noqa: E402

TINY = PolicyTraining(
    worlds=4,
    forecaster="cv,kalman",
    demonstration_steps=40,
    aggregation_rounds=1,
    aggregation_steps=20,
    demonstration_capacity=400,
    imitation_epochs=2,
    rollout_steps=32,
    batch_size=64,
    epochs=2,
    value_rollouts=1,
    width=32,
    evaluation_cases=2,
    evaluation_minutes=1000.0,
    evaluation_limit_s=4.0,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    said = []
    best = train_policy(out=out, settings=TINY, max_steps=256, report=said.append)
    return out, best, said


def test_training_says_its_settings_first_and_compares_with_the_baseline(run):
    _, _, said = run
    assert json.loads(said[0].removeprefix("settings: "))["seed"] == 0
    text = "\n".join(said)
    for part in ("demonstrations", "imitation round 1", "IDM + MOBIL, truth", "imitation, errors", "end, truth"):
        assert part in text


def test_best_checkpoint_holds_network_and_normaliser(run):
    _, best, _ = run
    model, normalizer, progress = load_checkpoint(best)
    assert normalizer.layout_hash == LAYOUT.hash
    assert progress.best_score == max(e["score"] for e in progress.evaluations)
    assert set(progress.settings) == set(TINY.__struct_fields__)
    action = LearnedDriver(model, normalizer).act_on(np.zeros((3, LAYOUT.size), np.float32))
    assert action.shape == (3, 2)
    assert np.abs(action).max() <= 1.0


def test_resume_goes_on_where_it_stopped(run):
    out, _, _ = run
    before = load_checkpoint(out / "last")[2]
    said = []
    train_policy(out=out, max_steps=128, resume=True, report=said.append)
    after = load_checkpoint(out / "last")[2]
    assert after.environment_steps == before.environment_steps + 128
    assert after.rollouts == before.rollouts + 1
    assert after.settings == before.settings
    assert after.minutes > before.minutes
    assert len(after.evaluations) == len(before.evaluations) + 1
    assert any("resumed" in line for line in said)


def test_export_equals_the_network_on_recorded_observations(run, tmp_path):
    out, best, _ = run
    with np.load(out / "demonstrations.npz") as data:
        recorded = data["observation"]
    bundle = export_policy(best, tmp_path / "bundle", recorded=recorded)
    assert bundle.meta.kind == "policy"
    assert bundle.meta.extra["observation_hash"] == LAYOUT.hash
    assert tuple(bundle.meta.extra["observation_names"]) == LAYOUT.names
    assert bundle.meta.parity["passed"]
    assert bundle.meta.training["settings"]["seed"] == 0
    assert "IDM + MOBIL" in (bundle.path / "report.md").read_text()
    model, normalizer, _ = load_checkpoint(best)
    session = make_session(bundle, "cpu", threads=1)
    for rows in (1, 5, len(recorded)):
        found = session.run({"observation": recorded[:rows]})["action_norm"]
        np.testing.assert_allclose(found, LearnedDriver(model, normalizer).act_on(recorded[:rows]), atol=1e-5)
    assert np.abs(session.run({"observation": 1e3 * recorded})["action_norm"]).max() <= 1.0


def test_the_export_command_takes_the_folder_as_it_is(run, tmp_path):
    _, best, _ = run
    assert run_app(["export", "policy", str(best), "--out", str(tmp_path / "bundle")]) == 0
    bundle = load_bundle(tmp_path / "bundle", "policy")
    assert bundle.meta.extra["observation_hash"] == LAYOUT.hash
    assert bundle.model_path.read_bytes() == export_policy(best, tmp_path / "again").model_path.read_bytes()


def test_checkpoint_of_another_layout_is_refused(run, tmp_path):
    _, best, _ = run
    normalizer = msgspec.structs.replace(load_normalizer(best / "normalizer.json"), layout_hash="0" * 16)
    normalizer.save(tmp_path / "normalizer.json")
    with pytest.raises(ValueError, match="observation layout 0000000000000000, expected"):
        load_normalizer(tmp_path / "normalizer.json")


def test_folder_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"found no ppo\.zip, normalizer\.json, progress\.json"):
        load_checkpoint(tmp_path)


def test_unknown_task_and_bad_settings_are_refused(tmp_path):
    with pytest.raises(ValueError, match="task: expected one of drive, pick, got 'fly'"):
        train_policy("fly", tmp_path)
    with pytest.raises(ValueError, match="gamma must lie in"):
        PolicyTraining(gamma=1.0)
    with pytest.raises(ValueError, match="worlds must be at least 1, got 0"):
        PolicyTraining(worlds=0)


def test_normaliser_standardises_and_limits_quiet_features():
    rng = np.random.default_rng(0)
    data = rng.uniform(LAYOUT.low, LAYOUT.high, (2000, LAYOUT.size)).astype(np.float32)
    data[:, 3] = LAYOUT.low[3]  # never varied
    normalizer = Normalizer.fit(data)
    out = normalizer.apply(data)
    np.testing.assert_allclose(np.delete(out.std(axis=0), 3), 1.0, atol=1e-3)
    assert not out[:, 3].any()
    assert np.abs(normalizer.apply(10.0 * LAYOUT.high[None])).max() <= normalizer.clip
    with pytest.raises(ValueError, match="expected shape"):
        Normalizer.fit(data[:, :5])


def test_demonstrations_forget_the_oldest_and_survive_saving(tmp_path):
    kept = Demonstrations(capacity=10)
    for start in range(0, 24, 4):
        kept.add(np.full((4, LAYOUT.size), start, np.float32), np.full((4, 2), start / 100, np.float32))
    assert len(kept) == 10
    assert sorted(set(kept.arrays()[0][:, 0])) == [12.0, 16.0, 20.0]
    kept.save(tmp_path / "d.npz")
    again = Demonstrations(capacity=10)
    again.load(tmp_path / "d.npz")
    np.testing.assert_array_equal(again.arrays()[0][-1], np.full(LAYOUT.size, 20.0))
    kept.normalizer = Normalizer.fit(np.random.default_rng(0).normal(size=(50, LAYOUT.size)))
    newest = kept.sample(200, newest=4)[1][:100, 0].numpy()
    np.testing.assert_allclose(newest, 0.2)


def test_labels_of_a_standing_car_weigh_less_and_those_before_a_failure_more(tmp_path):
    kept = Demonstrations(capacity=12)
    kept.normalizer = Normalizer.fit(np.random.default_rng(0).normal(size=(50, LAYOUT.size)))
    speed = LAYOUT.index("ego_speed")
    for tick in range(4):  # three worlds; the second one stands and brakes
        observation = np.full((3, LAYOUT.size), tick, np.float32)
        observation[:, speed] = (5.0, 0.0, 5.0)
        kept.add(observation, np.array([[-0.5, tick], [-0.5, tick], [0.5, tick]], np.float32))
    kept.stress(2, batch=3, batches=2, factor=3.0)
    kept.save(tmp_path / "d.npz")
    again = Demonstrations(capacity=12)
    again.load(tmp_path / "d.npz")
    again.normalizer = kept.normalizer
    for some in (kept, again):
        _, action, weight = (t.numpy() for t in some.sample(400, newest=12))
        assert set(weight[action[:, 0] > 0.0, 1].tolist()) == {1.0, 3.0}
        assert set(weight[weight[:, 0] == 3.0][:, 1].tolist()) == {3.0}
        assert set(action[weight[:, 0] == 3.0, 1].tolist()) == {2.0, 3.0}
        assert set(weight[action[:, 0] < 0.0, 1].tolist()) == {1.0, np.float32(0.1).item()}


def test_pool_replays_failed_cases():
    pool = CasePool(seed=0, replay=0.5)

    def summary(seed, success):
        return EpisodeSummary(
            seed=seed,
            success=success,
            end="",
            at_fault=False,
            duration_s=1.0,
            mean_speed_mps=1.0,
            route_completion=1.0,
            reward=0.0,
            reward_terms={},
        )

    pool.report(summary(-7, False))
    pool.report(summary(-8, True))
    drawn = [next(pool) for _ in range(30)]
    assert drawn.count(-7) == 1
    assert -8 not in drawn
    assert [next(CasePool(3)) for _ in range(2)] == [next(CasePool(3)) for _ in range(2)]


def test_adapter_gives_sb3_what_it_wants():
    env = DriveVectorEnv(2, perception="blind")
    rng = np.random.default_rng(0)
    normalizer = Normalizer.fit(rng.uniform(LAYOUT.low, LAYOUT.high, (100, LAYOUT.size)).astype(np.float32))
    demonstrations = Demonstrations(capacity=1000)
    venv = WorldsVecEnv(env, normalizer, 0.5, demonstrations=demonstrations)
    try:
        venv.seed(3)
        observation = venv.reset()
        assert observation.shape == (2, LAYOUT.size)
        assert np.abs(observation).max() <= normalizer.clip
        done = np.zeros(2, bool)
        for _ in range(500):
            observation, reward, done, infos = venv.step(np.tile(np.float32([1.0, 0.0]), (2, 1)))
            assert reward.dtype == np.float32
            if done.any():
                break
        row = int(done.argmax())
        assert infos[row]["terminal_observation"].shape == (LAYOUT.size,)
        assert infos[row]["TimeLimit.truncated"] is False
        assert infos[1 - row] == {} or done[1 - row]
        assert venv.recent[0].end in ("collision", "offroad")
        assert len(demonstrations) > 2
    finally:
        venv.close()


def test_real_forecaster_in_batches_equals_one_world_at_a_time():
    def futures(worlds, row):
        env = DriveVectorEnv(worlds, forecaster=make_forecaster("cv", worlds))
        try:
            env.reset(seed=20 - row)
            driver = IdmMobilDriver(worlds)
            for _ in range(12):
                env.step(driver.act(env.inputs))
            return env.inputs.forecast_m[row], env.inputs.forecast_probability[row]
        finally:
            env.close()

    many, alone = futures(3, 2), futures(1, 0)
    # row 2 of seed 18 draws from the stream of seed 20
    np.testing.assert_array_equal(many[1], alone[1])
    np.testing.assert_allclose(many[0], alone[0], atol=1e-4)
    assert many[1].any()


def test_play_returns_episodes_in_the_order_of_their_seeds():
    episodes = play(IdmMobilDriver(2), [4, 2, 9], count=2, split="tune", perception="blind", time_limit_s=3.0)
    assert [episode.seed for episode in episodes] == [4, 2, 9]
    assert success_rate(episodes) == 0.0
