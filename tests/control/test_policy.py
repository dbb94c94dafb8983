from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from visuomotor.control.inputs import DriveInputs
from visuomotor.control.observation import LAYOUT, observe
from visuomotor.control.policy import RandomPolicy, load_policy
from visuomotor.deploy.runtime.bundle import BundleError, BundleMeta, TensorSpec, write_bundle
from visuomotor.messages.schema import Episode

onnx = pytest.importorskip("onnx")
Make = Callable[..., DriveInputs]


def make_model(size: int) -> bytes:
    """A linear policy, clipped in the graph: action = clip(observation @ W)."""
    helper, numbers = onnx.helper, onnx.numpy_helper
    weights = np.random.default_rng(0).normal(0.0, 0.05, (size, 2)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["observation", "w"], ["raw"]),
            helper.make_node("Clip", ["raw", "low", "high"], ["action_norm"]),
        ],
        "policy",
        [helper.make_tensor_value_info("observation", onnx.TensorProto.FLOAT, ["batch", size])],
        [helper.make_tensor_value_info("action_norm", onnx.TensorProto.FLOAT, ["batch", 2])],
        [
            numbers.from_array(weights, "w"),
            numbers.from_array(np.float32(-1.0), "low"),
            numbers.from_array(np.float32(1.0), "high"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def make_bundle(
    path: Path, *, size: int = LAYOUT.size, hash_: str = LAYOUT.hash, kind: str = "policy", task: str = "drive"
) -> Path:
    meta = BundleMeta(
        kind=kind,
        task=task,
        inputs=(TensorSpec(name="observation", dtype="float32", shape=("batch", size)),),
        outputs=(TensorSpec(name="action_norm", dtype="float32", shape=("batch", 2)),),
        extra={"observation_hash": hash_},
    )
    write_bundle(path, model=make_model(size), meta=meta, report="# A linear policy\n", weights=None)
    return path


def test_bundle_policy_runs_on_raw_observations(tmp_path: Path, make_inputs: Make):
    policy = load_policy(make_bundle(tmp_path / "linear"), device="cpu")
    assert policy.provider == "CPUExecutionProvider (2 nodes)"
    assert policy.name == "linear"
    inputs = make_inputs([{"s": 20.0, "d": 3.5, "speed": 3.0}], count=3)
    action = policy.act(inputs)
    assert action.shape == (3, 2)
    assert action.dtype == np.float32
    weights = np.random.default_rng(0).normal(0.0, 0.05, (LAYOUT.size, 2)).astype(np.float32)
    np.testing.assert_allclose(action, np.clip(observe(inputs) @ weights, -1, 1), atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hash_": "0" * 64}, "observation_hash: expected .*trained on another observation"),
        ({"kind": "detector"}, "kind: expected 'policy', got 'detector'"),
        ({"task": "pick"}, "task: expected 'drive', got 'pick'"),
        ({"size": LAYOUT.size - 1}, "inputs and outputs: expected last dimensions"),
    ],
)
def test_bundles_made_for_something_else_are_refused(tmp_path: Path, changes: dict, message: str):
    path = make_bundle(tmp_path / "wrong", **changes)
    with pytest.raises(BundleError, match=message) as error:
        load_policy(path, device="cpu")
    assert "bundle.json" in str(error.value)


def test_missing_hash_names_the_key(tmp_path: Path):
    path = make_bundle(tmp_path / "bare")
    meta = (path / "bundle.json").read_text().replace("observation_hash", "other_key")
    (path / "bundle.json").write_text(meta)
    with pytest.raises(BundleError, match=r"extra.observation_hash: missing"):
        load_policy(path, device="cpu")


def test_random_policy_depends_on_the_seed_of_the_episode_alone(make_inputs: Make):
    inputs, policy = make_inputs(), RandomPolicy()

    def first(seed: int) -> np.ndarray:
        policy.reset(Episode(phase="reset", seed=seed))
        return policy.act(inputs)

    seven, eight = first(7), first(8)
    assert not np.array_equal(seven, eight)
    np.testing.assert_array_equal(first(7), seven)
    assert seven.shape == (1, 2)


def test_idm_by_name(make_inputs: Make):
    policy = load_policy("idm")
    policy.reset(Episode(phase="reset"))
    assert policy.name == "idm"
    assert policy.act(make_inputs()).dtype == np.float32
