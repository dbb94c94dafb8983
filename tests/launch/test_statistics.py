"""Intervals behave like intervals."""

import numpy as np
import pytest

from visuomotor.launch.evaluate.statistics import bootstrap_mean, paired_difference, share


def test_wilson_matches_published_value():
    # Newcombe 1998, table I: 81 of 263 gives 0.2553 .. 0.3662
    estimate = share(np.arange(263) < 81)
    assert (estimate.low, estimate.high) == pytest.approx((0.2553, 0.3662), abs=1e-4)


def test_wilson_at_the_edges_stays_inside():
    assert share(np.ones(20, bool)).high == 1.0
    assert share(np.ones(20, bool)).low < 0.9
    assert share(np.zeros(0, bool)).n == 0


def test_bootstrap_covers_the_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(100):
        estimate = bootstrap_mean(rng.normal(3.0, 1.0, 40))
        hits += estimate.low <= 3.0 <= estimate.high
    assert 86 <= hits <= 100


def test_pairs_remove_the_variance_between_cases():
    rng = np.random.default_rng(6)
    base = rng.normal(0.0, 10.0, 50)
    estimate = paired_difference(base + 1.0, base)
    assert estimate.low == pytest.approx(1.0)
    with pytest.raises(ValueError, match="equally many"):
        paired_difference(base, base[:-1])
