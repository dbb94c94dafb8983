"""Policies of stable-baselines3 and sb3-contrib as bundles: same actions on raw observations, or no bundle."""

from __future__ import annotations

import importlib
import json
import pickle
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

for module in ("torch", "stable_baselines3", "sb3_contrib", "onnx"):
    pytest.importorskip(module)

import torch  # noqa: E402
from gymnasium import spaces  # noqa: E402
from sb3_contrib import RecurrentPPO  # noqa: E402
from stable_baselines3 import DQN, PPO, SAC  # noqa: E402
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize  # noqa: E402

from visuomotor.control.observation import LAYOUT  # noqa: E402
from visuomotor.control.policy import load_policy as load_driver  # noqa: E402
from visuomotor.control.policy_node import PolicyNode  # noqa: E402
from visuomotor.deploy.export.parity import ParityError  # noqa: E402
from visuomotor.deploy.export.sb3 import export_sb3  # noqa: E402
from visuomotor.deploy.export.sb3_checkpoint import load_normalizer, save_statistics  # noqa: E402
from visuomotor.deploy.export.sb3_graph import ActionHead, ObservationPart, PolicyGraph  # noqa: E402
from visuomotor.deploy.runtime.bundle import Bundle, BundleError, load_bundle, write_bundle  # noqa: E402
from visuomotor.deploy.runtime.policy import load_policy  # noqa: E402
from visuomotor.deploy.runtime.spaces import SpaceError  # noqa: E402
from visuomotor.launch.cli import run_app  # noqa: E402

torch.set_num_threads(1)
ALGORITHMS = ("PPO", "A2C", "SAC", "TD3", "DQN", "TQC", "RecurrentPPO")
BAR = 1e-5


@pytest.fixture(scope="module")
def toys() -> ModuleType:
    return importlib.import_module("sb3_toys")


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_on_random_inputs_and_whole_episodes(toys: ModuleType, name: str, tmp_path: Path) -> None:
    model, env, checkpoint, statistics = toys.train(name, tmp_path)
    environment = toys.ALGORITHMS[name][1]
    episodes = toys.drive(environment, model, env, range(2), limit=60)
    start = np.concatenate([np.arange(len(seen)) == 0 for seen, _ in episodes])
    observations = np.concatenate([np.array(seen) for seen, _ in episodes])
    np.savez(tmp_path / "episodes.npz", observation=observations, episode_start=start)
    bundle = export_sb3(checkpoint, tmp_path / "b", vecnormalize=str(statistics), recorded=tmp_path / "episodes.npz")
    parity = bundle.meta.parity
    assert bundle.meta.extra["algorithm"] == name
    assert (parity["passed"], parity["rows"], parity["recorded"]["cases"]) == (True, 1000, len(observations))
    assert max(parity["max_abs_error"], parity["recorded"]["max_abs_error"]) <= BAR
    policy = load_policy(bundle.path, device="cpu")
    for seen, expected in episodes:
        state = None
        for step, observation in enumerate(seen):
            action, state = policy.predict(observation, state, step == 0)
            np.testing.assert_allclose(action, expected[step], atol=2e-5)
            assert action.dtype == expected[step].dtype
    assert (state is None) == (name != "RecurrentPPO")


def test_dict_observations_and_every_kind_of_array(toys: ModuleType, tmp_path: Path) -> None:
    space = spaces.Dict(
        {
            "goal": toys.SCALED,
            "gear": spaces.Discrete(4),
            "flags": spaces.MultiBinary(3),
            "levels": spaces.MultiDiscrete([2, 5]),
            "pose": toys.SCALED,
            "grid": spaces.Box(-1, 1, (2, 2), np.float64),
            "ticks": spaces.Box(0, 200, (2,), np.int32),
        }
    )
    env = VecNormalize(DummyVecEnv([lambda: toys.Toy(space, spaces.MultiDiscrete([3, 2, 4]))]), norm_obs_keys=["pose"])
    toys.set_statistics(env)
    model = toys.make("MultiInputPolicy", env, net_arch=[16])
    checkpoint, statistics = toys.save(model, env, tmp_path)
    policy = load_policy(export_sb3(checkpoint, tmp_path / "b", vecnormalize=str(statistics)), device="cpu")
    assert policy.action.kind == "multi_discrete"
    assert set(policy.keys or ()) == set(space.spaces)
    space.seed(1)
    rows = [space.sample() for _ in range(50)]
    batch = {key: np.array([row[key] for row in rows]) for key in space.spaces}
    expected = model.predict(env.normalize_obs(batch), deterministic=True)[0]
    assert len(np.unique(expected, axis=0)) > 3
    np.testing.assert_array_equal(policy.predict(batch)[0], expected)
    one, _ = policy.predict({key: rows[7][key] for key in reversed(rows[7])})
    np.testing.assert_array_equal(one, expected[7])
    wrong = {**rows[0], "poses": rows[0]["pose"]}
    wrong.pop("pose")
    with pytest.raises(SpaceError, match=r"expected a dict with keys \['flags', .*'pose', .* got .*'poses'"):
        policy.predict(wrong)
    with pytest.raises(SpaceError, match=r"observation.gear: gear: expected 0 to 3, got 4"):
        policy.predict({**rows[0], "gear": 4})
    with pytest.raises(SpaceError, match=r"observation.levels: levels\[1\]: expected 0 to 4, got 5"):
        policy.predict({**rows[0], "levels": np.array([1, 5])})


@pytest.mark.parametrize("kind", [PPO, DQN])
def test_discrete_observations_and_flags(toys: ModuleType, kind: Any, tmp_path: Path) -> None:
    action = spaces.Discrete(3) if kind is DQN else spaces.MultiBinary(4)
    model = toys.make("MlpPolicy", toys.Toy(spaces.Discrete(6), action), kind, net_arch=[8])
    checkpoint, _ = toys.save(model, None, tmp_path)
    policy = load_policy(export_sb3(checkpoint, tmp_path / "b", vecnormalize="none"), device="cpu")
    expected = model.predict(np.arange(6), deterministic=True)[0]
    np.testing.assert_array_equal(policy.predict(np.arange(6))[0], expected)
    np.testing.assert_array_equal(policy.predict(5)[0], expected[5])


@pytest.mark.parametrize(
    ("kind", "early"), [(SAC, False), (RecurrentPPO, True)], ids=["stacked then normalised", "normalised then stacked"]
)
def test_frame_stacks_are_carried_across_episodes(toys: ModuleType, kind: Any, early: bool, tmp_path: Path) -> None:
    plain = DummyVecEnv([lambda: toys.Toy(toys.SCALED, toys.UNEVEN) for _ in range(3)])
    if early:
        normalizer = toys.set_statistics(VecNormalize(plain))
        env = VecFrameStack(normalizer, 4)
    else:
        normalizer = env = toys.set_statistics(VecNormalize(VecFrameStack(plain, 4)))
    model = toys.make("MlpLstmPolicy" if kind is RecurrentPPO else "MlpPolicy", env, kind, net_arch=[16])
    checkpoint, statistics = toys.save(model, normalizer, tmp_path)
    bundle = export_sb3(checkpoint, tmp_path / "b", vecnormalize=str(statistics), frame_stack=4)
    assert bundle.meta.inputs[0].shape == ("batch", 3)
    policy = load_policy(bundle, device="cpu")
    seen, raw = env.reset(), []
    plain_step = plain.step_wait
    plain.step_wait = lambda: (raw.append(plain_step()), raw[-1])[1]  # type: ignore[method-assign]
    frame = np.array([plain.buf_obs[None][i] for i in range(3)])
    theirs, ours, start = None, None, np.ones(3, bool)
    for _ in range(20):
        expected, theirs = model.predict(seen, theirs, start, deterministic=True)
        action, ours = policy.predict(frame, ours, start)
        np.testing.assert_allclose(action, expected, atol=2e-5)
        seen, _, start, _ = env.step(expected)
        frame = raw[-1][0]
    assert start.dtype == bool


def test_images_either_way_round(toys: ModuleType, tmp_path: Path) -> None:
    space = spaces.Box(0, 255, (36, 40, 3), np.uint8)
    env = VecFrameStack(DummyVecEnv([lambda: toys.Toy(space, spaces.Discrete(4))]), 2)
    model = toys.make("CnnPolicy", env, features_extractor_kwargs={"features_dim": 16}, net_arch=[])
    checkpoint, _ = toys.save(model, None, tmp_path)
    whole = load_policy(export_sb3(checkpoint, tmp_path / "whole", vecnormalize="none", rows=64), device="cpu")
    assert whole.observation[0].shape == (6, 36, 40)
    space.seed(0)
    frames = [space.sample() for _ in range(9)]
    policy = load_policy(
        export_sb3(checkpoint, tmp_path / "frames", vecnormalize="none", frame_stack=2, rows=64), device="cpu"
    )
    assert policy.observation[0].names == ("obs",)
    state, last, actions = None, np.zeros_like(frames[0]), set()
    for frame in frames:
        stacked = np.concatenate([last, frame], axis=-1)
        expected = model.predict(stacked[None], deterministic=True)[0][0]
        assert whole.predict(stacked)[0] == expected
        action, state = policy.predict(frame, state)
        assert action == expected
        actions.add(int(action))
        last = frame
    assert len(actions) > 1


@pytest.fixture(scope="module")
def uneven(toys: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, VecNormalize, Path, Path]:
    """PPO on fields of very different scales, with actions beyond the bounds."""
    folder = tmp_path_factory.mktemp("uneven")
    env = toys.set_statistics(VecNormalize(DummyVecEnv([lambda: toys.Toy(toys.SCALED, toys.UNEVEN)])))
    model = toys.make("MlpPolicy", env, net_arch=[16])
    toys.enliven(model, 4.0)
    return model, env, *toys.save(model, env, folder)


@pytest.fixture(scope="module")
def bundle(toys: ModuleType, uneven: Any, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Its bundle, by the command line: fields named, proven on three recorded episodes."""
    folder = tmp_path_factory.mktemp("bundle")
    (folder / "fields.yaml").write_text(
        "observation:\n  - {name: angle, unit: rad}\n  - {name: slip}\n  - {name: torque, unit: N m}\n"
        "action:\n  - {name: speed, unit: m/s}\n  - {name: lift, unit: m}\n"
    )
    rows = np.stack([toys.SCALED.sample() for _ in range(30)])
    np.savez(folder / "r.npz", observation=rows, episode_start=np.arange(30) % 10 == 0)
    *_, checkpoint, statistics = uneven
    command = ["export", "policy", str(checkpoint), "--vecnormalize", str(statistics), "--out", str(folder / "b")]
    command += ["--fields", str(folder / "fields.yaml"), "--recorded", str(folder / "r.npz")]
    assert run_app([*command, "--json", str(folder / "b.json")]) == 0
    written = json.loads((folder / "b.json").read_text())
    assert written["parity"]["max_abs_error"] <= BAR
    assert written["parity"]["recorded"]["episodes"] == 3
    return load_bundle(folder / "b", "policy")


def test_beyond_clip_and_range_the_action_stays_in_its_bounds(toys: ModuleType, uneven: Any, bundle: Bundle) -> None:
    model, env, *_ = uneven
    policy = load_policy(bundle, device="cpu")
    rows = np.random.default_rng(0).normal(0.0, 1.0, (500, 3)) * [1e3, 1e-3, 1e6]
    rows = np.concatenate([rows, np.full((1, 3), 1e30), np.full((1, 3), -1e30)]).astype(np.float32)
    action, state = policy.predict(rows)
    assert state is None
    np.testing.assert_allclose(action, model.predict(env.normalize_obs(rows), deterministic=True)[0], atol=2e-5)
    assert (action >= toys.UNEVEN.low).all()
    assert (action <= toys.UNEVEN.high).all()
    assert (action == toys.UNEVEN.high).any()
    assert (action == toys.UNEVEN.low).any()
    assert policy.predict(rows[0])[0].shape == (2,)


def lose_normaliser(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ObservationPart, "_normalize", lambda self, values: values.float())


def lose_clip_of_observations(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        ObservationPart, "_normalize", lambda self, values: ((values.double() - self.mean) / self.deviation).float()
    )


def lose_clip_of_actions(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ActionHead, "forward", lambda self, raw: [raw])


def lose_field_order(patch: pytest.MonkeyPatch) -> None:
    whole = ObservationPart.forward
    patch.setattr(ObservationPart, "forward", lambda self, frame, *state: whole(self, frame.flip(-1), *state))


def lose_unscaling(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ActionHead, "_unscale", lambda self, action: action)


def lose_frame_order(patch: pytest.MonkeyPatch) -> None:
    whole = torch.cat
    patch.setattr(torch, "cat", lambda parts, dim=0: whole(tuple(parts)[::-1], dim=dim))


def lose_episode_start(patch: pytest.MonkeyPatch) -> None:
    whole = PolicyGraph.forward
    patch.setattr(PolicyGraph, "forward", lambda self, *arrays: whole(self, *arrays[:-1], torch.zeros_like(arrays[-1])))


@pytest.mark.parametrize(
    ("lose", "kind", "stack"),
    [
        (lose_normaliser, PPO, 1),
        (lose_clip_of_observations, PPO, 1),
        (lose_clip_of_actions, PPO, 1),
        (lose_field_order, PPO, 1),
        (lose_unscaling, SAC, 1),
        (lose_frame_order, SAC, 2),
        (lose_episode_start, RecurrentPPO, 1),
    ],
)
def test_an_exporter_that_loses_something_makes_no_bundle(
    toys: ModuleType, lose: Any, kind: Any, stack: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = DummyVecEnv([lambda: toys.Toy(toys.SCALED, toys.UNEVEN)])
    env = toys.set_statistics(VecNormalize(VecFrameStack(plain, stack) if stack > 1 else plain))
    model = toys.make("MlpLstmPolicy" if kind is RecurrentPPO else "MlpPolicy", env, kind, net_arch=[16])
    checkpoint, statistics = toys.save(model, env, tmp_path)
    lose(monkeypatch)
    with pytest.raises(ParityError, match=r"export differs from its original over .*(action|frames|lstm)"):
        export_sb3(checkpoint, tmp_path / "b", vecnormalize=str(statistics), frame_stack=stack)
    assert not (tmp_path / "b").exists()


def test_two_keys_of_one_shape_do_not_change_places(
    toys: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Box(-1, 1, (2,))})
    model = toys.make("MultiInputPolicy", toys.Toy(space, toys.UNEVEN), net_arch=[16])
    checkpoint, _ = toys.save(model, None, tmp_path)
    whole = PolicyGraph.forward
    monkeypatch.setattr(PolicyGraph, "forward", lambda self, *arrays: whole(self, *arrays[::-1]))
    with pytest.raises(ParityError, match="action: max"):
        export_sb3(checkpoint, tmp_path / "b", vecnormalize="none")


def test_statistics_without_a_pickle_say_the_same(toys: ModuleType, uneven: Any, tmp_path: Path) -> None:
    _, env, _, _ = uneven
    save_statistics(env, tmp_path / "s.npz")
    found = load_normalizer(str(tmp_path / "s.npz"), {"": (3,)}, {"": (3,)})
    rows = np.stack([toys.SCALED.sample() for _ in range(30)])
    assert found is not None
    np.testing.assert_array_equal(found.normalize_obs(rows), env.normalize_obs(rows))


def test_fields_name_the_bundle_and_a_mismatch_is_named(bundle: Bundle) -> None:
    policy = load_policy(bundle, device="cpu")
    assert policy.observation_names == ("angle", "slip", "torque")
    assert bundle.meta.extra["observation_units"] == ["rad", "", "N m"]
    assert policy.action.names == ("speed", "lift")
    assert policy.observation[0].low == (-1.0, 0.0, -2000.0)
    policy.check_fields(["angle", "slip", "torque"], ["rad", "", "N m"])
    with pytest.raises(BundleError, match=r"bundle.json: .*\[1\]: the policy was trained on 'slip', .* has 'torque'"):
        policy.check_fields(["angle", "torque", "slip"])
    with pytest.raises(BundleError, match=r"observation_units\[0\]: the policy was trained on 'rad', .* has 'deg'"):
        policy.check_fields(policy.observation_names, ["deg", "", "N m"])
    with pytest.raises(BundleError, match="trained on 3 fields, the running observation has 2"):
        policy.check_fields(["angle", "slip"])


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (np.zeros(4), r"observation: expected shape \(3,\) or \(batch, 3\), got \(4,\)"),
        (np.zeros((0, 3)), "expected at least one row"),
        (np.array(["a", "b", "c"]), "expected dtype float32, got <U1"),
        (np.array([0.0, np.nan, 0.0]), "observation: slip: expected a finite number, got nan"),
        (np.array([[0.0, 0.0, 1e300]]), "observation: torque: expected a finite number, got inf"),
        ({"observation": np.zeros(3)}, r"expected one array, got a dict with keys \['observation'\]"),
    ],
)
def test_an_observation_of_another_form_is_refused_by_name(bundle: Bundle, observation: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        load_policy(bundle, device="cpu").predict(observation)


def test_state_of_another_form_is_refused_by_name(toys: ModuleType, bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="state: expected None"):
        load_policy(bundle, device="cpu").predict(np.zeros(3), {"lstm_hidden": np.zeros(1)})
    model = toys.make("MlpLstmPolicy", toys.Toy(toys.SCALED, toys.UNEVEN), RecurrentPPO, lstm_hidden_size=8)
    checkpoint, _ = toys.save(model, None, tmp_path)
    policy = load_policy(export_sb3(checkpoint, tmp_path / "b", vecnormalize="none", rows=64), device="cpu")
    zeros = policy.initial_state(2)
    assert zeros is not None
    assert {name: array.shape for name, array in zeros.items()} == dict.fromkeys(
        ("lstm_hidden", "lstm_cell"), (1, 2, 8)
    )
    rows = np.array([[0.5, 0.001, 100.0], [-0.5, 0.004, -10.0]])
    with pytest.raises(SpaceError, match=r"state lstm_hidden: expected float32 \(1, 1, 8\), got float32 \(1, 2, 8\)"):
        policy.predict(rows[0], zeros)
    with pytest.raises(SpaceError, match=r"episode_start: expected bool \(2,\), got bool \(3,\)"):
        policy.predict(rows, zeros, [True] * 3)
    first, state = policy.predict(rows)
    second, _ = policy.predict(rows, state)
    again, _ = policy.predict(rows, state, [True, False])  # the first row begins anew
    np.testing.assert_array_equal(again, [first[0], second[1]])
    assert not np.array_equal(first[0], second[0])


def test_the_driving_graph_refuses_what_was_not_made_for_it(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="task: expected 'drive', got 'custom'"):
        load_driver(bundle.path, device="cpu")
    meta = json.loads((bundle.path / "bundle.json").read_text())
    (tmp_path / "b").mkdir()
    for name in meta["sha256"]:
        (tmp_path / "b" / name).write_bytes((bundle.path / name).read_bytes())
    (tmp_path / "b" / "bundle.json").write_text(json.dumps({**meta, "task": "drive"}))
    with pytest.raises(
        BundleError, match=f"observation_hash: expected {LAYOUT.hash}, got {meta['extra']['observation_hash']}"
    ):
        load_driver(tmp_path / "b", device="cpu")


def test_a_policy_trained_on_the_driving_task_drives(toys: ModuleType, tmp_path: Path) -> None:
    space, action = spaces.Box(LAYOUT.low, LAYOUT.high), spaces.Box(-1.0, 1.0, (2,))
    model = toys.make("MlpPolicy", toys.Toy(space, action), SAC, net_arch=[8])
    checkpoint, _ = toys.save(model, None, tmp_path)
    bundle = export_sb3(checkpoint, tmp_path / "b", vecnormalize="none", task="drive", rows=64)
    driver = load_driver(bundle.path, device="cpu")
    assert driver.name == "b"
    PolicyNode(driver).warm_up()  # decides on an empty road
    assert bundle.meta.extra["observation_names"] == list(LAYOUT.names)
    model = toys.make("MlpPolicy", toys.Toy(toys.SCALED, action), SAC, net_arch=[8])
    checkpoint, _ = toys.save(model, None, tmp_path)
    with pytest.raises(ValueError, match="--task drive: observation space: expected that of visuomotor/Drive-v1"):
        export_sb3(checkpoint, tmp_path / "c", vecnormalize="none", task="drive")


BLOCKED = ("torch", "stable_baselines3", "sb3_contrib", "gymnasium", "onnx")
ON_THE_ROBOT = """
import sys
for name in {blocked!r}:
    sys.modules[name] = None
import numpy as np
from visuomotor.deploy.runtime.policy import load_policy
policy = load_policy({path!r}, device="cpu")
action, _ = policy.predict(np.array([0.5, 0.005, 100.0]))
print(action.tolist())
"""


def test_the_bundle_runs_without_torch(bundle: Bundle, uneven: Any) -> None:
    model, env, *_ = uneven
    code = ON_THE_ROBOT.format(blocked=BLOCKED, path=str(bundle.path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    expected = model.predict(env.normalize_obs(np.array([0.5, 0.005, 100.0], np.float32)), deterministic=True)[0]
    np.testing.assert_allclose(json.loads(done.stdout), expected, atol=2e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["MODEL"], "--vecnormalize: MODEL does not say whether training normalised its observations; give the file"),
        (["MODEL", "--vecnormalize", "no.pkl"], "--vecnormalize: no.pkl: no such file"),
        (
            ["MODEL", "--vecnormalize", "OTHER"],
            "OTHER: statistics for observation (5,), the model sees observation (3,)",
        ),
        (["MODEL", "--vecnormalize", "DICT"], "DICT: expected a VecNormalize, got dict"),
        (["MODEL", "--vecnormalize", "MODEL"], "MODEL: not a file of VecNormalize.save"),
        (["OTHER", "--vecnormalize", "none"], "OTHER: not a checkpoint of stable-baselines3"),
        (["no.zip", "--vecnormalize", "none"], "no.zip: no such file"),
        (["MODEL", "--vecnormalize", "none", "--frame-stack", "2"], "--frame-stack 2: observation: Box("),
        (["MODEL", "--vecnormalize", "none", "--fields", "FIELDS"], "FIELDS: observation: expected 3 fields, got 2"),
        (["MODEL", "--vecnormalize", "none", "--recorded", "OTHER"], "--recorded: OTHER: not an npz of arrays"),
        (["MODEL", "--vecnormalize", "none", "--recorded", "WRONG"], "--recorded: WRONG: observation: expected shape"),
        (["MODEL", "--vecnormalize", "none", "--recorded", "FOLDER"], "--recorded: FOLDER: cannot be read (Is a direc"),
        (["MODEL", "--vecnormalize", "none", "--fields", "BROKEN"], "high: not valid YAML in line 2: expected ',' or"),
        (["MODEL", "--vecnormalize", "none", "--fields", "BINARY"], "--fields: BINARY: expected text, YAML or JSON"),
        (["MODEL", "--vecnormalize", "FOLDER"], "--vecnormalize: FOLDER: a folder; expected a file of VecNormalize"),
        (["CUT", "--vecnormalize", "none"], "CUT: damaged, or not an archive of stable-baselines3; expected"),
        (["ANY", "--vecnormalize", "none"], "ANY: damaged, or not an archive of stable-baselines3; expected"),
        (["MODEL", "--vecnormalize", "none", "--out", "ANY"], "--out: ANY: exists and is no bundle"),
        (
            ["FOLDER"],
            "FOLDER: expected a checkpoint of visuomotor train policy (ppo.zip, normalizer.json, ",
        ),
        (["FOLDER", "--fields", "FIELDS"], "--fields: expected a zip of stable-baselines3, got the folder FOLDER"),
        (["FOLDER", "--frame-stack", "2"], "--frame-stack: expected a zip of stable-baselines3, got the folder FOLDER"),
        (["BESIDE", "--vecnormalize", "none"], "part of a checkpoint of visuomotor train policy"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_message_and_exit_code_2(
    toys: ModuleType,
    arguments: list[str],
    message: str,
    uneven: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = VecNormalize(DummyVecEnv([lambda: toys.Toy(spaces.Box(-1, 1, (5,)), toys.UNEVEN)]))
    other.save(str(tmp_path / "other.pkl"))
    (tmp_path / "dict.pkl").write_bytes(pickle.dumps({"mean": 0.0}))
    (tmp_path / "fields.json").write_text('[{"name": "a"}, {"name": "b", "unit": "m"}]')
    (tmp_path / "folder").mkdir()
    (tmp_path / "beside").mkdir()
    (tmp_path / "cut.zip").write_bytes(uneven[2].read_bytes()[:-50])
    np.savez(tmp_path / "any.zip", a=np.zeros(3))
    (tmp_path / "any.zip.npz").rename(tmp_path / "any.zip")
    np.savez(tmp_path / "wrong.npz", observation=np.zeros((4, 5), np.float32), episode_start=np.arange(4) == 0)
    (tmp_path / "broken.yaml").write_text("a: [1\nb: }")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\xfa")
    for name in ("ppo.zip", "normalizer.json", "progress.json"):
        (tmp_path / "beside" / name).write_text("{}")
    places = {
        "MODEL": uneven[2],
        "OTHER": tmp_path / "other.pkl",
        "DICT": tmp_path / "dict.pkl",
        "FIELDS": tmp_path / "fields.json",
        "FOLDER": tmp_path / "folder",
        "CUT": tmp_path / "cut.zip",
        "ANY": tmp_path / "any.zip",
        "WRONG": tmp_path / "wrong.npz",
        "BROKEN": tmp_path / "broken.yaml",
        "BINARY": tmp_path / "binary.yaml",
        "BESIDE": tmp_path / "beside" / "ppo.zip",
    }
    command = [str(places.get(word, word)) for word in arguments]
    for word, place in places.items():
        message = message.replace(word, str(place))
    assert run_app(["export", "policy", "--out", str(tmp_path / "b"), *command]) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert err.count("\n") == 1
    assert "allow_pickle" not in err
    assert "Traceback" not in out + err
    assert not (tmp_path / "b").exists()


def test_an_algorithm_that_is_not_supported_is_named(toys: ModuleType, tmp_path: Path) -> None:
    from sb3_contrib import QRDQN

    model = QRDQN("MlpPolicy", toys.Toy(toys.SCALED, spaces.Discrete(2)), buffer_size=8, device="cpu")
    checkpoint, _ = toys.save(model, None, tmp_path)
    with pytest.raises(ValueError, match=r"policy_class: expected a policy of PPO, .*, got sb3_contrib.qrdqn"):
        export_sb3(checkpoint, tmp_path / "b", vecnormalize="none")


def test_a_policy_class_of_ones_own(toys: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "robot_policy.py").write_text(
        "from stable_baselines3.common.policies import ActorCriticPolicy\n\n\n"
        "class RobotPolicy(ActorCriticPolicy):\n    pass\n"
    )
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        own = importlib.import_module("robot_policy").RobotPolicy
        model = toys.make(own, toys.Toy(toys.SCALED, toys.UNEVEN), net_arch=[8])
        checkpoint, _ = toys.save(model, None, tmp_path)
        assert export_sb3(checkpoint, tmp_path / "b", vecnormalize="none", rows=64).meta.parity["passed"]
    sys.modules.pop("robot_policy")
    with pytest.raises(ValueError, match=r"model.zip: No module named 'robot_policy': .* PYTHONPATH"):
        export_sb3(checkpoint, tmp_path / "c", vecnormalize="none")


def test_a_file_of_a_bundle_that_lacks_its_spaces_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    meta = bundle.meta
    extra = {key: value for key, value in meta.extra.items() if key != "observation"}
    bare = type(meta)(kind="policy", task="custom", inputs=meta.inputs, outputs=meta.outputs, extra=extra)
    write_bundle(tmp_path / "b", model=bundle.model_path.read_bytes(), meta=bare, report="")
    with pytest.raises(BundleError, match=r"bundle.json: extra.observation: missing"):
        load_policy(tmp_path / "b", device="cpu")
