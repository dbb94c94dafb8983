"""Suites over many seeds: a stopped one goes on where it was, and never mixes two configurations."""

import json

import msgspec
import pytest

from visuomotor.launch.evaluate.score import Score, paired_by_seed

pytest.importorskip("pybullet")

from visuomotor.launch.evaluate.suite import make_run, run_suite
from visuomotor.launch.profile import load_profile


def test_a_stopped_suite_goes_on_and_refuses_another_bundle(tmp_path):
    run = make_run(load_profile("drive").override(policy="random", perception_mode="truth"))
    progress = tmp_path / "rows.jsonl"
    first = run_suite(run, [4], progress=progress)
    played: list[int] = []
    both = run_suite(run, [4, 5], progress=progress, on_episode=lambda row: played.append(row["seed"]))
    assert played == [5]
    assert [episode["seed"] for episode in both.episodes] == [4, 5]
    assert both.episodes[0] == json.loads(json.dumps(first.episodes[0]))
    retrained = msgspec.structs.replace(run, bundles={**run.bundles, "policy": "drive-policy sha256:0"})
    with pytest.raises(ValueError, match="holds episodes of another configuration"):
        run_suite(retrained, [4, 5], progress=progress)


def test_pairs_are_made_of_the_seeds_that_both_have():
    ours = Score(episodes=[{"seed": 1, "success": True}, {"seed": 2, "success": True}, {"seed": 3, "success": False}])
    theirs = Score(episodes=[{"seed": 3, "success": True}, {"seed": 2, "success": False}])
    difference = paired_by_seed(ours, theirs, "success")
    assert (difference.n, difference.mean) == (2, 0.0)
