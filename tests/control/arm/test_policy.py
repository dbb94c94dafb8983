from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from visuomotor.control.arm.config import ACTION_SIZE
from visuomotor.control.arm.inputs import ArmInputs
from visuomotor.control.arm.observation import LAYOUT, observe
from visuomotor.control.arm.picker import ScriptedPicker
from visuomotor.control.arm.policy import RandomPolicy, load_policy
from visuomotor.control.observation import LAYOUT as DRIVE_LAYOUT
from visuomotor.deploy.runtime.bundle import BundleError, BundleMeta, TensorSpec, write_bundle
from visuomotor.messages.schema import Episode

onnx = pytest.importorskip("onnx")
Make = Callable[..., ArmInputs]


def make_weights() -> np.ndarray:
    return np.random.default_rng(0).normal(0.0, 0.05, (LAYOUT.size, ACTION_SIZE)).astype(np.float32)


def make_bundle(path: Path, *, task: str = "pick", hash_: str = LAYOUT.hash, actions: int = ACTION_SIZE) -> Path:
    """A linear policy, clipped in the graph."""
    helper, numbers = onnx.helper, onnx.numpy_helper
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["observation", "w"], ["raw"]),
            helper.make_node("Clip", ["raw", "low", "high"], ["action_norm"]),
        ],
        "policy",
        [helper.make_tensor_value_info("observation", onnx.TensorProto.FLOAT, ["batch", LAYOUT.size])],
        [helper.make_tensor_value_info("action_norm", onnx.TensorProto.FLOAT, ["batch", actions])],
        [
            numbers.from_array(make_weights()[:, :actions], "w"),
            numbers.from_array(np.float32(-1.0), "low"),
            numbers.from_array(np.float32(1.0), "high"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    meta = BundleMeta(
        kind="policy",
        task=task,
        inputs=(TensorSpec(name="observation", dtype="float32", shape=("batch", LAYOUT.size)),),
        outputs=(TensorSpec(name="action_norm", dtype="float32", shape=("batch", actions)),),
        extra={"observation_hash": hash_},
    )
    write_bundle(path, model=bytes(model.SerializeToString()), meta=meta, report="# A linear policy\n", weights=None)
    return path


def test_bundle_policy_runs_on_what_the_arm_sees(tmp_path: Path, make_scene: Make):
    policy = load_policy(make_bundle(tmp_path / "linear"), device="cpu")
    assert policy.name == "linear"
    inputs = make_scene([{"x": 0.5, "y": 0.2, "vy": -0.1}], count=3)
    action = policy.act(inputs)
    assert action.shape == (3, ACTION_SIZE)
    assert action.dtype == np.float32
    np.testing.assert_allclose(action, np.clip(observe(inputs) @ make_weights(), -1, 1), atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "drive", "hash_": DRIVE_LAYOUT.hash}, "task: expected 'pick', got 'drive'"),
        ({"hash_": "0" * 64}, "observation_hash: expected .*trained on another observation"),
        ({"actions": 2}, r"inputs and outputs: expected last dimensions .*\(5,\)"),
    ],
)
def test_bundles_made_for_something_else_are_refused(tmp_path: Path, changes: dict, message: str):
    path = make_bundle(tmp_path / "wrong", **changes)
    with pytest.raises(BundleError, match=message) as error:
        load_policy(path, device="cpu")
    assert "bundle.json" in str(error.value)


def test_scripted_and_random_by_name(make_scene: Make):
    inputs = make_scene([{"x": 0.5, "y": 0.2}])
    scripted = load_policy("scripted")
    scripted.reset(Episode(phase="reset"))
    assert scripted.name == "scripted"
    assert scripted.act(inputs).dtype == np.float32
    np.testing.assert_allclose(scripted.act(inputs), ScriptedPicker().act(inputs), atol=1e-6)
    policy = RandomPolicy()

    def first(seed: int) -> np.ndarray:
        policy.reset(Episode(phase="reset", seed=seed))
        return policy.act(inputs)

    seven = first(7)
    assert not np.array_equal(seven, first(8))
    np.testing.assert_array_equal(first(7), seven)
    assert load_policy("random").name == "random"
