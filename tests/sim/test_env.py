"""The driving environment: Gymnasium's checker, determinism, batch against single, the delay, ends and reward terms."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import visuomotor.sim.env as drive_env
from visuomotor.control.action import decode
from visuomotor.control.baselines import IdmMobilDriver
from visuomotor.control.observation import LAYOUT
from visuomotor.sim.env import DriveEnv, DriveVectorEnv
from visuomotor.sim.forecasts import ConstantVelocityFutures
from visuomotor.sim.rewards import TERMS, RewardScales


@pytest.fixture
def make():
    """Environments that are closed at the end."""
    made = []

    def build(count=None, **settings):
        made.append(DriveEnv(**settings) if count is None else DriveVectorEnv(count, **settings))
        return made[-1]

    yield build
    for env in made:
        env.close()


def actions(seed, ticks, count=None):
    rng = np.random.default_rng(seed)
    shape = (ticks, 2) if count is None else (ticks, count, 2)
    return rng.uniform(-0.4, 0.6, shape).astype(np.float32)


def test_gymnasium_checker_has_nothing_to_say():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make("visuomotor/Drive-v1")
        try:
            check_env(env.unwrapped)
        finally:
            env.close()


def test_registered_vector_environment():
    env = gym.make_vec("visuomotor/Drive-v1", num_envs=2, vectorization_mode="vector_entry_point")
    try:
        observation, _ = env.reset(seed=3)
        assert observation.shape == (2, LAYOUT.size)
        assert env.observation_space.contains(observation)
    finally:
        env.close()


@pytest.mark.parametrize("perception", ["errors", "truth"])
def test_two_copies_with_one_seed_agree_step_by_step(make, perception):
    first, second = (make(perception=perception, forecaster=ConstantVelocityFutures()) for _ in range(2))
    np.testing.assert_array_equal(first.reset(seed=11)[0], second.reset(seed=11)[0])
    for action in actions(0, 60):
        a, b = first.step(action), second.step(action)
        np.testing.assert_array_equal(a[0], b[0])
        assert a[1:4] == b[1:4]
        if a[2] or a[3]:
            assert a[4] == b[4]
            np.testing.assert_array_equal(first.reset()[0], second.reset()[0])


def test_another_seed_is_another_episode(make):
    env = make()
    assert not np.array_equal(env.reset(seed=1)[0], env.reset(seed=2)[0])


def test_a_row_of_the_batch_equals_the_single_environment(make):
    vector, single = make(3), make()
    batch, _ = vector.reset(seed=40)
    alone, _ = single.reset(seed=42)
    np.testing.assert_array_equal(batch[2], alone)
    ended = False
    for tick, action in enumerate(actions(1, 500, 3)):
        action[:, 0] = 0.8  # nobody brakes: some end soon
        batch, reward, terminated, truncated, infos = vector.step(action)
        alone, alone_reward, *alone_end, alone_info = single.step(action[2])
        assert reward[2] == alone_reward
        assert [terminated[2], truncated[2]] == alone_end
        if any(alone_end):
            np.testing.assert_array_equal(infos["final_obs"][2], alone)
            assert infos["final_info"]["seed"][2] == alone_info["seed"]
            assert infos["final_info"]["reward_progress"][2] == alone_info["reward_terms"]["reward_progress"]
            alone, _ = single.reset()
            ended = True
        np.testing.assert_array_equal(batch[2], alone, err_msg=f"tick {tick}")
        if ended and tick > 40:
            break
    assert ended


def test_case_seed_option_gives_that_case_in_any_row(make):
    vector, single = make(2), make()
    batch, _ = vector.reset(seed=0, options={"case_seeds": [5, 7]})
    alone, _ = single.reset(seed=99, options={"case_seed": 7})
    np.testing.assert_array_equal(batch[1], alone)
    assert single.vector.worlds.cases[0].seed == 7


def test_seed_alone_equals_seed_as_a_later_episode(make):
    env, fresh = make(), make()
    env.reset(seed=0, options={"case_seed": 3})
    for action in actions(2, 25):
        env.step(action)
    later, _ = env.reset(options={"case_seed": 7})
    alone, _ = fresh.reset(options={"case_seed": 7})
    np.testing.assert_array_equal(later, alone)
    for action in actions(3, 25):
        np.testing.assert_array_equal(env.step(action)[0], fresh.step(action)[0])


def test_command_acts_one_tick_later(make):
    gentle, hard = make(perception="blind"), make(perception="blind")
    for env in (gentle, hard):
        env.reset(options={"case_seed": 1})
    o1, o2 = gentle.step(np.array([0.2, 0.0]))[0], hard.step(np.array([-1.0, 0.0]))[0]
    worlds = [env.vector.worlds for env in (gentle, hard)]
    np.testing.assert_array_equal(worlds[0].ego_speed_mps, worlds[1].ego_speed_mps)  # t0..t1: no command yet
    last = LAYOUT.names.index("ego_last_action_acceleration")
    np.testing.assert_allclose(np.delete(o1, last), np.delete(o2, last))
    assert (o1[last], o2[last]) == pytest.approx((0.2, -1.0))
    same = np.zeros(2)
    gentle.step(same)
    hard.step(same)  # t1..t2: the commands of tick 0 act, though the actions of tick 1 are equal
    assert worlds[0].ego_speed_mps[0] > worlds[1].ego_speed_mps[0] + 0.02


def test_command_is_decoded_from_the_observation_it_was_chosen_on(make):
    env = make()
    env.reset(options={"case_seed": 4})
    for action in actions(5, 30):
        inputs = env.vector.inputs
        expected = decode(action[None], inputs)
        env.step(action)
        before = env.vector._command[0]
        assert abs(before[1] - expected[1][0]) <= 0.06 + 1e-9  # at most the rate limit away
    assert inputs is not env.vector.inputs


def test_observations_lie_in_the_space_through_random_driving(make):
    env = make(4, forecaster=ConstantVelocityFutures(), camera_dropout=0.5)
    env.reset(seed=8)
    for action in actions(6, 120, 4):
        observation, reward, *_ = env.step(3.0 * action)
        assert env.observation_space.contains(observation)
        assert np.isfinite(reward).all()


def test_listed_cases_are_played_once_each_whatever_the_number_of_worlds(make):
    def play(count):
        env = make(count, split="tune", case_seeds=range(3), perception="blind", time_limit_s=5.0)
        env.reset(seed=0)
        found = {}
        while not env.idle.all():
            env.step(np.tile(np.float32([0.5, 0.0]), (count, 1)))
            found.update({summary.seed: summary for _, summary in env.summaries})
        return found

    one, three = play(1), play(3)
    assert sorted(one) == [0, 1, 2]
    assert one == three


def test_rule_based_driver_beats_blind_driving_on_reward(make):
    def total(driver, perception):
        env = make(3, split="tune", perception=perception, forecaster=ConstantVelocityFutures())
        env.reset(options={"case_seeds": [3, 4, 5]})
        reward = np.zeros(3)
        running = np.ones(3, bool)
        for _ in range(150):
            _, step, terminated, truncated, _ = env.step(
                driver.act(env.inputs) if driver else np.tile([1.0, 0], (3, 1))
            )
            reward += step * running
            running &= ~(terminated | truncated)
        return reward.mean()

    assert total(IdmMobilDriver(3), "truth") > total(None, "blind") + 10.0


def test_reward_is_the_sum_of_its_named_terms(make):
    env = make(2, perception="blind")
    env.reset(seed=5)
    total = np.zeros(2)
    for _ in range(900):
        _, reward, *_ = env.step(np.tile([1.0, 0.0], (2, 1)))
        total += reward
        if env.summaries:
            break
    index, summary = env.summaries[0]
    assert set(summary.reward_terms) == {f"reward_{name}" for name in TERMS}
    assert sum(summary.reward_terms.values()) == pytest.approx(total[index])
    assert summary.reward == pytest.approx(total[index])
    if summary.end == "collision":
        assert summary.reward_terms["reward_collision"] == RewardScales().collision
    assert summary.reward_terms["reward_progress"] > 0.0


def test_scales_switch_terms_off(make):
    scales = RewardScales(**{name: 0.0 for name in TERMS if name != "progress"})
    env = make(perception="blind", scales=scales)
    env.reset(seed=5)
    start = env.vector.worlds.progress_m[0]
    rewards = [env.step(np.array([0.5, 0.0]))[1] for _ in range(20)]
    way = env.vector.worlds.progress_m[0] - start
    limit = env.vector.sensors.speed_limit_mps[0]
    assert sum(rewards) == pytest.approx(0.1 * way / (limit * 0.1))


def test_standing_still_times_out_as_truncation(make):
    env = make(perception="blind", split="tune", time_limit_s=6.0)
    env.reset(options={"case_seed": 2})
    ticks = 0
    truncated = terminated = False
    while not (truncated or terminated):
        _, _, terminated, truncated, info = env.step(np.array([-1.0, 0.0]))
        ticks += 1
    assert (info["end"], info["success"], truncated, terminated) == ("timeout", False, True, False)
    assert info["reward_terms"]["reward_timeout"] == RewardScales().timeout
    assert info["duration_s"] == pytest.approx(0.1 * ticks)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 0}, "count must be at least 1, got 0"),
        ({"count": 1, "perception": "psychic"}, "perception must be errors, truth or blind"),
        ({"count": 1, "suite": "drive-v9"}, "drive-v1"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DriveVectorEnv(**settings).reset(seed=0)


def test_step_before_reset_is_refused(make):
    with pytest.raises(RuntimeError, match="step before reset"):
        make().step(np.zeros(2))


def test_nonfinite_scale_is_refused():
    with pytest.raises(ValueError, match="reward scale goal must be finite"):
        RewardScales(goal=float("nan"))


def test_module_exports():
    assert {"DriveEnv", "DriveVectorEnv", "EpisodeSummary"} <= set(drive_env.__all__)
