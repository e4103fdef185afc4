"""CMA-ES as an optimizer: it finds, each subject's alone, the same after an interruption."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite

import numpy as np
import pytest
import torch

from pcs_core import fit, open_backbone
from pcs_core.backbone import Backbone
from pcs_core.data import Phase, Recipe
from pcs_core.errors import RecipeError
from pcs_engine import fit_rows
from pcs_engine.processes import Processes
from pcs_testing import make_recipe, make_subject
from pcs_tokens.evolution import Evolution
from pcs_tokens.learnable import LearnableToken


def optimizer(parameter: torch.nn.Parameter, lr: float = 0.3) -> Evolution:
    return Evolution([{"params": [parameter], "lr": lr, "initial_lr": lr}])


class Hill:
    """Numbers [S 1 12] that should come to a goal."""

    def __init__(self, goal: torch.Tensor, seeds: list[int]) -> None:
        self.goal, self.seeds = goal, seeds
        self.at = torch.nn.Parameter(torch.zeros_like(goal), requires_grad=False)
        self.optimizer = optimizer(self.at)

    def loss(self) -> torch.Tensor:
        return (self.at - self.goal).square().flatten(1).sum(1)

    def climb(self, generations: int) -> torch.Tensor:
        for _ in range(generations):
            self.optimizer.search(self.loss, self.seeds)
        return self.at.detach().clone()


def goals() -> torch.Tensor:
    return torch.randn(2, 1, 12, generator=torch.Generator().manual_seed(0))


def test_it_finds_what_the_loss_asks_for() -> None:
    hill = Hill(goals(), [5, 6])
    start = hill.loss().detach()
    hill.climb(60)
    assert bool((hill.loss() < 0.01 * start).all())


def test_a_generation_has_the_candidates_of_its_dimension() -> None:
    whole = torch.nn.Parameter(torch.zeros(1, 1, 256))
    tried = []

    def loss() -> torch.Tensor:
        tried.append(whole.detach().clone())
        return whole.square().flatten(1).sum(1)

    optimizer(whole, 0.5).search(loss, [1])
    assert len(tried) == 20
    assert float(torch.stack(tried).std()) == pytest.approx(0.5, rel=0.05)
    best = min(tried, key=lambda t: float(t.square().sum()))
    assert torch.equal(whole.detach(), best)


def test_a_subject_is_searched_as_if_alone() -> None:
    both = Hill(goals(), [5, 6]).climb(10)
    assert torch.equal(both[1:], Hill(goals()[1:], [6]).climb(10))


def test_numpys_global_numbers_are_left_alone() -> None:
    before = np.random.get_state()[1].copy()  # type: ignore[index]
    Hill(goals(), [5, 6]).climb(3)
    assert (np.random.get_state()[1] == before).all()  # type: ignore[index]


def test_its_state_brings_the_same_evolution_back() -> None:
    straight = Hill(goals(), [5, 6])
    straight.climb(10)
    again = Hill(goals(), [5, 6])
    with torch.no_grad():
        again.at.copy_(straight.at)
    again.optimizer.state[again.at] = {
        key: value.clone() for key, value in straight.optimizer.state[straight.at].items()
    }
    assert torch.equal(straight.climb(10), again.climb(10))


def test_a_loss_that_is_not_finite_is_the_worst() -> None:
    whole = torch.nn.Parameter(torch.zeros(1, 4))
    losses = iter([float("nan"), float("inf"), 3.0, 2.0, 4.0, 5.0, 6.0, 7.0])
    candidates = []

    def loss() -> torch.Tensor:
        candidates.append(whole.detach().clone())
        return torch.tensor([next(losses)])

    optimizer(whole).search(loss, [0])
    assert torch.equal(whole.detach(), candidates[3])


@pytest.mark.parametrize("wrong", [{"weight_decay": 0.1}, {"lr": 0.0}])
def test_what_means_nothing_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="cma-es takes no weight_decay|lr must be positive"):
        Evolution([torch.nn.Parameter(torch.zeros(3))], **wrong)


def test_it_has_no_step_along_a_gradient() -> None:
    with pytest.raises(RuntimeError, match="search"):
        optimizer(torch.nn.Parameter(torch.zeros(3))).step()


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return open_backbone("tiny")


def recipe(**more: object) -> Recipe:
    phase = Phase("search", 2, optimizer="cma-es", lr={"*": 0.05}, batch={"subject": 2}, **more)  # type: ignore[arg-type]
    return make_recipe([LearnableToken()], phase)


def test_a_fit_asks_for_no_gradient(backbone: Backbone) -> None:
    asked = []
    kept = torch.autograd.backward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.autograd, "backward", lambda *a, **k: asked.append(a) or kept(*a, **k))
        (artifact,) = fit(recipe(), make_subject(), backbone)
        assert not asked
        (plain,) = fit(make_recipe([LearnableToken()], Phase("all", 1)), make_subject(), backbone)
        assert asked
    rows = artifact.tensors["tokens.learnable/<fido>/rows"]
    assert bool((rows != plain.tensors["tokens.learnable/<fido>/rows"]).any())


def test_candidates_see_the_same_rows(backbone: Backbone) -> None:
    """The same noise and the same pictures in all candidates of a step, others in the next step."""
    seen: dict[int, list[torch.Tensor]] = {}
    made = fit_rows.FitSupply.make

    def noting(self: object, asked: object, cond: object) -> object:
        step = made(self, asked, cond)  # type: ignore[arg-type]
        seen.setdefault(step.index, []).append(step.noisy)
        return step

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_rows.FitSupply, "make", noting)
        fit(recipe(), make_subject(), backbone)
    assert sorted(seen) == [0, 1]
    assert all(len(noisy) == 14 for noisy in seen.values())  # 4 + floor(3 ln 32)
    assert all(torch.equal(noisy[0], other) for noisy in seen.values() for other in noisy)
    assert not torch.equal(seen[0][0], seen[1][0])


def test_a_candidate_whose_loss_is_no_number_is_not_what_is_told(backbone: Backbone) -> None:
    made, read, count = fit_rows.FitSupply.make, [], []

    def noting(self: object, asked: object, cond: object) -> object:
        step = made(self, asked, cond)  # type: ignore[arg-type]
        count.append(step.index)
        if count.count(1) == 1 and step.index == 1:  # the first candidate of the second step
            nan = torch.full_like(step.noisy, float("nan"))
            step = replace(step, compute_error=lambda *said: nan)
        return step

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_rows.FitSupply, "make", noting)
        fit(recipe(), make_subject(), backbone, watch=[lambda progress: read.append(progress)])
    assert len(count) == 28
    assert read
    assert all(isfinite(loss) for one in read for loss in one.losses.values())


def test_several_processes_are_refused(backbone: Backbone) -> None:
    two = recipe(accumulate=2)
    supply = fit_rows.FitSupply(None, None, [], None, [], None, [], Processes(0, 2))  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="searches without gradients, in one process"):
        supply.replay(two.phases[0], 0, 0, None)  # type: ignore[arg-type]
