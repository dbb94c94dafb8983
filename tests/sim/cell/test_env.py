"""The picking environments: Gymnasium's contract, delay, rewards, independence of rows."""

import warnings

import gymnasium as gym
import msgspec
import numpy as np
import pytest
from cell_scenes import Hand, arrival, drop_into, make_case
from gymnasium.utils.env_checker import check_env

pytest.importorskip("pybullet")

from visuomotor.control.arm.action import command
from visuomotor.control.arm.policy import load_policy
from visuomotor.sim.cell.env import PickVectorEnv
from visuomotor.sim.cell.rewards import TERMS, CellReward, CellRewardScales
from visuomotor.sim.forecasts import ConstantVelocityFutures

NAMES = ("visuomotor/Pick-v1", "visuomotor/PickStatic-v1", "visuomotor/PickReach-v1")
STILL = np.array([0.0, 0.0, 0.0, 0.0, 1.0], np.float32)


def futures():
    return ConstantVelocityFutures(20, 0.1)


@pytest.mark.parametrize("name", NAMES)
def test_gymnasiums_checker_has_nothing_to_say(name):
    env = gym.make(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        check_env(env.unwrapped)
    env.close()


def test_the_registered_vector_environment():
    env = gym.make_vec(NAMES[1], num_envs=2, vectorization_mode="vector_entry_point")
    observation, _ = env.reset(seed=3)
    assert env.observation_space.contains(observation)
    assert env.suite == "pick-static-v1"
    env.close()


def test_two_seeded_copies_agree_step_by_step_and_another_seed_does_not():
    envs = [gym.make(NAMES[0]) for _ in range(3)]
    first = [env.reset(seed=seed)[0] for env, seed in zip(envs, (4, 4, 5), strict=True)]
    np.testing.assert_array_equal(first[0], first[1])
    assert not np.array_equal(first[0], first[2])
    rng = np.random.default_rng(0)
    for _ in range(8):
        action = rng.uniform(-1, 1, 5).astype(np.float32)
        steps = [env.step(action) for env in envs]
        np.testing.assert_array_equal(steps[0][0], steps[1][0])
        assert steps[0][1:4] == steps[1][1:4]
        assert envs[0].observation_space.contains(steps[0][0])
    for env in envs:
        env.close()


def test_a_row_does_not_depend_on_the_other_rows():
    rng = np.random.default_rng(1)
    actions = rng.uniform(-1, 1, (10, 3, 5)).astype(np.float32)
    three, one = PickVectorEnv(3), PickVectorEnv(1)
    three.reset(options={"case_seeds": [1, 2, 9]})
    one.reset(options={"case_seeds": [9]})
    for action in actions:
        np.testing.assert_array_equal(three.step(action)[0][2], one.step(action[2:])[0][0])
    three.close()
    one.close()


def test_an_action_acts_one_tick_later():
    env = PickVectorEnv(1, perception="truth")
    env.reset(options={"case_seeds": [3]})
    push = np.array([[0.5, 0.0, 0.0, 0.0, 1.0]], np.float32)
    speeds = []
    for _ in range(4):
        env.step(push)
        speeds.append(float(np.abs(env.worlds.joint_velocity_radps).max()))
    assert speeds[0] < 1e-3
    assert speeds[1] > 0.05
    env.close()


def test_a_shift_of_the_scripted_picker_earns_what_it_bins_and_the_terms_are_the_reward():
    env = PickVectorEnv(1, perception="truth", forecaster=futures(), suite="pick-static-v1", case_seeds=[0])
    policy = load_policy("scripted")
    env.reset(seed=0)
    total = 0.0
    while not env.summaries:
        _, reward, terminated, truncated, infos = env.step(policy.act(env.inputs))
        total += float(reward[0])
    ((_, summary),) = env.summaries
    assert terminated[0]
    assert not truncated[0]
    assert summary.end == "goal"
    assert summary.success
    assert summary.parts_binned == summary.parts_ordered >= 1
    assert summary.picks_per_minute == pytest.approx(3.0 * summary.parts_binned)
    scales = CellRewardScales()
    terms = summary.reward_terms
    assert tuple(terms) == tuple(f"reward_{name}" for name in TERMS)
    assert sum(terms.values()) == pytest.approx(total) == pytest.approx(summary.reward)
    assert terms["reward_binned"] == pytest.approx(scales.binned * summary.parts_binned)
    assert terms["reward_grasp"] == pytest.approx(scales.grasp * summary.parts_binned)
    assert terms["reward_finished"] == scales.finished
    assert terms["reward_lift"] > 0.3
    assert terms["reward_carry"] > 0.3
    assert infos["final_info"]["seed"][0] == 0
    assert env.idle[0]
    env.close()


def test_with_autoreset_the_next_shift_starts_in_the_same_step():
    env = PickVectorEnv(2, perception="truth", time_limit_s=0.3)
    env.reset(seed=5)
    for _ in range(3):
        observation, _, terminated, truncated, infos = env.step(np.stack([STILL] * 2))
    assert truncated.all()
    assert not terminated.any()
    assert len(env.summaries) == 2
    assert (env.worlds.tick == 0).all()
    assert infos["_final_obs"].all()
    assert not np.array_equal(infos["final_obs"][0], observation[0])
    assert env.summaries[0][1].end == "timeout"
    env.close()


def test_blind_inputs_hold_no_tracks_and_errors_differ_from_the_truth():
    seen = {}
    for perception in ("blind", "truth", "errors"):
        env = PickVectorEnv(2, perception=perception)
        env.reset(options={"case_seeds": [0, 1]})
        for _ in range(5):
            env.step(np.stack([STILL] * 2))
        seen[perception] = env.inputs
        env.close()
    assert not seen["blind"].track_present.any()
    assert seen["truth"].track_present.any()
    both = seen["truth"].track_present & seen["errors"].track_present
    assert both.any()
    off = np.linalg.norm(seen["truth"].track_position_m - seen["errors"].track_position_m, axis=-1)[both]
    assert 0.0 < off.max() < 0.03


def test_reaching_the_part_ends_the_reach_task_as_a_success():
    env = PickVectorEnv(1, suite="pick-reach-v1", perception="truth", reach=True, autoreset=False)
    env.reset(options={"case_seeds": [2]})
    for _ in range(79):
        inputs = env.inputs
        target = np.array([*inputs.track_position_m[0, 0], 0.03])
        action = np.zeros((1, 5), np.float32)
        action[0, :3] = np.clip(3.0 * (target - inputs.tool_position_m[0]), -0.4, 0.4)
        action[0, 4] = 1.0
        _, _, terminated, truncated, _ = env.step(action)
        if terminated[0] or truncated[0]:
            break
    ((_, summary),) = env.summaries
    assert summary.success
    assert summary.end == "goal"
    assert summary.duration_s < 6.0
    env.close()


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"count": 0}, "count must be at least 1"), ({"perception": "none"}, "perception must be errors, truth or blind")],
)
def test_settings_that_make_no_sense_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        PickVectorEnv(**settings)


def test_a_step_before_the_first_reset_is_refused():
    env = PickVectorEnv(1)
    with pytest.raises(RuntimeError, match="step before reset"):
        env.step(STILL[None])
    env.close()


# ------------------------------------------------------------------------------------------------------------ rewards
def test_gripping_and_losing_a_part_earns_nothing(cell):
    case = make_case(arrival(y=0.1))
    hand = Hand(cell)
    reward = CellReward(cell)
    cell.reset(0, case)
    reward.reset(0)
    step = cell.step

    def counted(*command):
        step(*command)
        reward.step(np.zeros((1, 5)))

    cell.step = counted
    try:
        hand.pick()
        gained = reward.episode(0)
        for _ in range(6):
            hand.follow(cell.tool_position_m[0])
    finally:
        cell.step = step
    assert gained["grasp"] == 1.0
    assert gained["lift"] > 0.5
    lost = reward.episode(0)
    assert lost["grasp"] == 0.0
    assert abs(lost["lift"]) < 0.05
    assert abs(lost["carry"]) < 0.05


def test_wrong_parts_and_missed_ones_cost(cell):
    cell.reset(0, make_case(arrival(y=0.1), arrival("duck", y=-0.36), order=(1, 0, 0, 0, 1, 0), speed=0.3))
    reward = CellReward(cell)
    reward.reset(0)
    reward.step(np.zeros((1, 5)))
    for _ in range(2):
        cell.step(np.zeros((1, 7)), np.array([0.08]))
        reward.step(np.zeros((1, 5)))
    assert reward.episode(0)["missed"] == CellRewardScales().missed
    cell.set_order(0, np.zeros(6), np.full(6, -1))
    drop_into(cell, 1, 0)
    reward.step(np.zeros((1, 5)))
    assert reward.episode(0)["wrong"] == CellRewardScales().wrong


def test_a_scale_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="reward scale binned must be finite, got nan"):
        CellRewardScales(binned=float("nan"))
    assert msgspec.structs.replace(CellRewardScales(), binned=3.0).binned == 3.0


def test_commands_of_the_environment_are_those_of_the_policy_node():
    env = PickVectorEnv(1, perception="truth", forecaster=futures())
    env.reset(options={"case_seeds": [4]})
    policy = load_policy("scripted")
    sent = np.zeros((1, 7))
    for _ in range(5):
        action = np.clip(policy.act(env.inputs), -1.0, 1.0)
        wanted = command(action.astype(np.float32), env.inputs, sent)
        env.step(action)
        sent = wanted.joint_velocity_radps
        np.testing.assert_allclose(env._sent, sent)
    env.close()
