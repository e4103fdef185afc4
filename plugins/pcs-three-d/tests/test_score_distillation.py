"""Score distillation: the gradient, what it leaves out, and its noise levels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from pcs_core import Technique, fit, hookimpl
from pcs_core.backbone import Backbone
from pcs_core.data import Evaluation, Phase
from pcs_testing import make_recipe, make_subject
from pcs_three_d.renderable import Renderable
from pcs_three_d.score_distillation import ScoreDistillation

SEEN: list[Any] = []


class Spy(Technique):
    id = "test.spy"

    @hookimpl
    def regularize(self, step: Any) -> None:
        SEEN.append(step)


@pytest.fixture(scope="module")
def step(backbone: Backbone) -> Any:
    SEEN.clear()
    renderable = Renderable(size=16, cells=8, samples=12)
    phase = Phase("c", 1, batch={"rendered": 2}, lr={"*": 0.1}, losses=("three_d.score*",))
    fit(make_recipe([renderable, ScoreDistillation(), Spy()], phase), make_subject(), backbone)
    return SEEN[0]


def faked(step: Any, conditional: torch.Tensor, unconditional: torch.Tensor) -> Any:
    """Return the step with a denoiser that says these x0, with the caption and without."""

    def evaluate(x: Any, at: Any, cond: Any, **_: Any) -> Evaluation:
        x0 = conditional if cond is step.cond else unconditional
        return Evaluation(x0, x0)

    return replace(step, evaluate=evaluate, encode=lambda text: text)


@pytest.mark.parametrize(
    ("weighting", "factor"),
    [("sigma2", lambda a, s: s**2), ("one", lambda a, s: 1.0), ("x0", lambda a, s: s / a)],
)
def test_the_gradient_is_the_weighted_difference_of_noises(
    step: Any, weighting: Any, factor: Any
) -> None:
    x, noise = step.batch.latents.detach(), step.noise
    conditional, unconditional = x + 0.1, x - 0.2 * torch.sign(x)
    technique = ScoreDistillation(scale=3.0, weighting=weighting)
    alpha, sigma = step.level.like(x)
    eps = [(step.noisy.detach() - alpha * x0) / sigma for x0 in (conditional, unconditional)]
    guided = eps[1] + 3.0 * (eps[0] - eps[1])
    expected = factor(alpha, sigma) * (guided - noise)
    torch.testing.assert_close(
        technique.gradient(faked(step, conditional, unconditional)), expected, rtol=1e-3, atol=1e-3
    )


def test_the_loss_has_that_gradient_and_half_its_square(step: Any) -> None:
    x = step.batch.latents.detach().requires_grad_()
    attached = replace(step, batch=replace(step.batch, latents=x))
    conditional = x.detach() * 0.5
    technique = ScoreDistillation(scale=7.0)
    loss: Any = ScoreDistillation.regularize(technique, faked(attached, conditional, conditional))
    loss.value.sum().backward()
    expected = technique.gradient(faked(attached, conditional, conditional))
    assert torch.equal(x.grad, expected)
    torch.testing.assert_close(loss.value.detach(), 0.5 * expected.square().sum(dim=(1, 2, 3)))


def test_what_agrees_is_left_alone(step: Any) -> None:
    x = step.batch.latents.detach()
    assert not ScoreDistillation().gradient(faked(step, x, x)).any()


def test_rescaling_keeps_the_spread_of_the_told(step: Any) -> None:
    x = step.batch.latents.detach()
    rng = torch.Generator().manual_seed(0)
    conditional, unconditional = torch.randn(2, *x.shape, generator=rng)
    technique = ScoreDistillation(scale=50.0, rescale=1.0, weighting="x0")
    guided = x - technique.gradient(faked(step, conditional, unconditional))
    torch.testing.assert_close(guided.std(dim=(1, 2, 3)), conditional.std(dim=(1, 2, 3)))


def test_noise_levels_stay_in_the_range_and_anneal() -> None:
    technique = ScoreDistillation(levels=(0.1, 0.9), levels_end=(0.1, 0.3))
    rng = torch.Generator().manual_seed(0)
    early, late = (technique.draw_levels(rng, (200, 4, 8, 8), p)[0] for p in (0.0, 1.0))
    assert early is not None
    assert late is not None
    assert 0.1 <= float(early.min()) < 0.2
    assert 0.8 < float(early.max()) <= 0.9
    assert float(late.max()) <= 0.3


def test_the_denoiser_gets_no_gradient(step: Any, backbone: Backbone) -> None:
    assert step.batch.latents.requires_grad
    assert not ScoreDistillation().gradient(step).requires_grad
    assert all(p.grad is None for p in backbone.parts["denoiser"].parameters())


def test_other_phases_are_none_of_its_business(step: Any) -> None:
    other = replace(step, batch=replace(step.batch, roles=("subject",) * 2))
    assert ScoreDistillation.regularize(ScoreDistillation(), other) is None
    assert ScoreDistillation(weight=0.0).fuse() is None
