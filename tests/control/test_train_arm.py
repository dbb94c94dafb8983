"""The picking policy's teacher and a tiny training from nothing: imitation, checkpoint, export, bundle."""

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("stable_baselines3")

from visuomotor.control.arm.observation import LAYOUT  # noqa: E402
from visuomotor.control.arm.policy import load_policy  # noqa: E402
from visuomotor.control.train.arm_course import PICK_SETTINGS  # noqa: E402
from visuomotor.control.train.arm_teacher import PickTeacher, true_futures, true_inputs  # noqa: E402
from visuomotor.control.train.checkpoint import LearnedDriver, load_checkpoint  # noqa: E402
from visuomotor.control.train.lessons import PICKING, get_lesson  # noqa: E402
from visuomotor.control.train.policy import train_policy  # noqa: E402
from visuomotor.deploy.export.policy import export_policy  # noqa: E402
from visuomotor.sim.cell.env import PickVectorEnv  # noqa: E402

TINY = msgspec.structs.replace(
    PICK_SETTINGS,
    worlds=2,
    forecaster="cv",
    demonstration_steps=40,
    aggregation_rounds=1,
    aggregation_steps=20,
    demonstration_capacity=400,
    imitation_epochs=2,
    final_steps=10,
    width=32,
    evaluation_cases=2,
    evaluation_minutes=1000.0,
    evaluation_limit_s=1.0,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    said = []
    best = train_policy("pick", out, settings=TINY, max_minutes=0.0, report=said.append)
    return out, best, said


def test_training_compares_with_the_scripted_picker(run):
    text = "\n".join(run[2])
    for part in ("80 demonstrations", "imitation round 1", "scripted picker, truth", "imitation, errors", "picks/min"):
        assert part in text


def test_checkpoint_knows_its_task_and_is_exported_as_a_policy_of_it(run, tmp_path):
    out, best, _ = run
    model, normalizer, progress = load_checkpoint(best)
    assert progress.task == "pick"
    assert normalizer.layout_hash == LAYOUT.hash
    bundle = export_policy(best, tmp_path / "tiny")
    assert bundle.meta.task == "pick"
    assert "the scripted picker on what the policy itself sees" in bundle.meta.training["algorithm"]
    assert "tune_binned_share_errors" in bundle.meta.metrics
    env = PickVectorEnv(2, split="tune")
    try:
        env.reset(seed=0)
        found = load_policy(tmp_path / "tiny", device="cpu").act(env.inputs)
        np.testing.assert_allclose(
            found, LearnedDriver(model, normalizer, PICKING.interface).act(env.inputs), atol=1e-5
        )
    finally:
        env.close()
    with pytest.raises(ValueError, match="a training of task 'pick', expected 'drive'"):
        train_policy("drive", out, resume=True)


def test_what_decides_weighs_more():
    assert get_lesson("pick") is PICKING
    observation = np.zeros((3, LAYOUT.size), np.float32)
    observation[:, LAYOUT.index("tool_z")] = [0.2, 0.03, 0.03]
    observation[:, LAYOUT.index("part0_next_distance")] = [0.2, 0.2, 0.01]
    weight = PICKING.weigh(observation, np.zeros((3, 5), np.float32))
    np.testing.assert_allclose(weight[1], 2.0 * weight[0])
    np.testing.assert_allclose(weight[2], 2.0 * weight[1])
    assert weight[0, 4] > weight[0, 0]


def test_true_futures_come_true():
    env = PickVectorEnv(3, split="tune", perception="truth", case_seeds=range(3), autoreset=False)
    try:
        env.reset(seed=0)
        still = np.zeros((3, 5))
        for _ in range(60):
            env.step(still)
        worlds = env.worlds
        moving = worlds.part_present & (worlds.part_position_m[..., 1] > -0.6)
        ids, futures = worlds.part_id.copy(), true_futures(worlds, 0.1)
        told = true_inputs(worlds, env.inputs)
        assert (told.track_present <= (worlds.part_class >= 0)).all()
        for _ in range(10):
            env.step(still)
        same = moving & worlds.part_present & (worlds.part_id == ids)
        assert same.sum() >= 3
        error = np.linalg.norm(futures[:, :, 9] - worlds.part_position_m[..., :2], axis=2)[same]
        assert error.max() < 0.01
    finally:
        env.close()


def test_the_teacher_bins_parts_from_a_belt_at_rest_and_from_a_running_one():
    """Physics, kinematics, limits and rules together; case 1 stands still, case 4 runs at 0.28 m/s."""
    env = PickVectorEnv(2, split="tune", perception="truth", case_seeds=(1, 4), autoreset=False)
    try:
        env.reset(seed=0)
        teacher = PickTeacher(env.worlds)
        for _ in range(150):
            env.step(teacher.act(env.inputs))
        assert (env.worlds.parts_binned >= 1).all()
        assert (env.worlds.wrong_parts == 0).all()
        assert not env.worlds.belt_speed_mps[0] > 0.0
        assert env.worlds.belt_speed_mps[1] > 0.1
    finally:
        env.close()
