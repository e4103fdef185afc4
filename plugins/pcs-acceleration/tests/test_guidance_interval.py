"""Outside of the interval the negative branch is not evaluated, and nothing else changes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pcs_acceleration.guidance_interval import GuidanceInterval
from pcs_acceleration.terms import classifier_free, without_negative
from pcs_core.data import Branch, GuidanceTerm

OPEN: dict[str, Any] = {"low": 0.0, "high": None}


def test_late_steps_evaluate_half(draw: Any, asked: Any) -> None:
    whole = draw(GuidanceInterval(**OPEN))
    assert asked.rows == [2] * 6
    eager = sum(asked.flops)
    late = draw(GuidanceInterval(**OPEN, stop=0.5))
    assert asked.rows == [2, 2, 2, 1, 1, 1]
    assert sum(asked.flops) == pytest.approx(0.75 * eager, rel=0.01)
    assert (late - whole).abs().max() > 1e-3


def test_an_open_interval_is_the_plain_run(draw: Any) -> None:
    assert torch.equal(draw(GuidanceInterval(**OPEN)), draw())


def test_noise_levels_decide(draw: Any, asked: Any, backbone: Any) -> None:
    draw(GuidanceInterval(low=0.28, high=5.42), steps=10)
    sampler = backbone.sampler("ddim", 10)
    levels = [sampler.level(i, 1) for i in range(10)]
    ratios = [float(x.sigma / x.alpha) for x in levels]
    assert asked.rows == [2 if 0.28 < r <= 5.42 else 1 for r in ratios]
    assert {1, 2} == set(asked.rows)
    assert asked.rows[0] == 1
    assert asked.rows[-1] == 1


@pytest.mark.parametrize(
    ("sigma", "progress", "guided"),
    [
        (0.5, 0.5, False),  # the lower bound itself is outside
        (0.6, 0.5, True),
        (4.0, 0.5, True),  # the upper bound itself is inside
        (4.1, 0.5, False),
        (1.0, 0.25, True),
        (1.0, 0.2, False),
        (1.0, 0.75, False),  # it ends where the part ends
    ],
)
def test_the_ends_of_the_interval(sigma: float, progress: float, guided: bool) -> None:
    technique = GuidanceInterval(low=0.5, high=4.0, start=0.25, stop=0.75)
    level = SimpleNamespace(alpha=torch.tensor([0.5]), sigma=torch.tensor([0.5 * sigma]))
    step: Any = SimpleNamespace(level=level, progress=progress)
    assert technique.guides(step) is guided


def test_never_is_the_positive_branch_alone(draw: Any, asked: Any) -> None:
    none = draw(GuidanceInterval(**OPEN, stop=0.0))
    assert asked.rows == [1] * 6
    assert torch.equal(none, draw(scale=1.0))


def test_the_subject_stays_alive_in_every_step(draw: Any) -> None:
    late = GuidanceInterval(**OPEN, stop=0.5)
    assert (draw(late, learned=0.3) - draw(late, learned=0.9)).abs().max() > 1e-3


def test_only_classifier_free_terms_go() -> None:
    style = GuidanceTerm(Branch(edits="style"), Branch(model="base"), 2.0)
    free = GuidanceTerm(Branch(), Branch("negative", drop=("*",)), 6.5)
    base = GuidanceTerm(Branch(model="base"), Branch("negative", model="base"), 5.0)
    assert classifier_free(free)
    assert without_negative((free, style, base)) == (style, base)
