"""Intervals that cover, tests that keep their level, fronts of known points."""

from __future__ import annotations

import numpy as np
import pytest

from pcs_bench.report.statistics import holm, interval, pareto_front, sign_flip


def test_units_count_once_however_many_pictures_they_have() -> None:
    estimate = interval([[0.0] * 100, [1.0]])
    assert estimate is not None
    assert estimate.mean == pytest.approx(0.5)
    assert (estimate.units, estimate.values) == (2, 101)
    assert (estimate.low, estimate.high) == (0.0, 1.0)


def test_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    hits = 0
    for trial in range(120):
        units = rng.normal(2.0, 1.0, size=(20, 1)) + rng.normal(0, 0.1, size=(20, 4))
        estimate = interval(units.tolist(), seed=trial)
        assert estimate is not None
        hits += estimate.low <= 2.0 <= estimate.high  # type: ignore[operator]
    assert 0.85 < hits / 120 < 0.99


def test_one_unit_has_no_interval_and_nothing_has_no_mean() -> None:
    estimate = interval([[1.0, 2.0]])
    assert estimate is not None
    assert (estimate.mean, estimate.low, estimate.high) == (1.5, None, None)
    assert interval([[], []]) is None


def test_sign_flips_are_exact_for_few_pairs() -> None:
    assert sign_flip([1.0, 1.0, 1.0, 1.0]) == pytest.approx(2 / 16)
    assert sign_flip([1.0, -1.0]) == 1.0
    assert sign_flip([]) == 1.0
    assert sign_flip([0.1] * 40) < 0.001


def test_sign_flips_keep_their_level_without_a_difference() -> None:
    rng = np.random.default_rng(5)
    p_values = [sign_flip(rng.normal(size=10).tolist()) for _ in range(200)]
    assert np.mean(np.array(p_values) < 0.05) < 0.1


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_front() -> None:
    points = {"a": (0.1, 0.9), "b": (0.5, 0.5), "c": (0.4, 0.4), "d": (0.9, 0.1), "e": (0.5, 0.2)}
    assert pareto_front(points) == ["a", "b", "d"]
    assert pareto_front({"a": (1.0, 1.0), "b": (1.0, 1.0)}) == ["a", "b"]
