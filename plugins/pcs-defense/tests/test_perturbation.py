"""The change of references: bounded, its own for each, and off where it should be."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pcs_core import Technique, fit, hookimpl, load_recipe
from pcs_core.backbone import Backbone
from pcs_core.data import Phase
from pcs_core.errors import RecipeError
from pcs_defense.perturbation import Delta, Perturbation
from pcs_defense.pgd import ProjectedSign
from pcs_testing import make_recipe, make_subject
from pcs_testing.probe import Probe

DELTA = "defense.perturbation/pixels/delta"


def attack(steps: int = 3, **changes: Any) -> Phase:
    return Phase(
        "attack",
        steps,
        batch={"subject": 4},
        lr={"*": 0.25},
        train=("defense.perturbation/*",),
        losses=("defense.adversarial",),
        optimizer="pgd",
        **changes,
    )


def test_each_reference_has_its_own_change_and_others_none() -> None:
    edit = Delta(2, (4, 4), 0.1)
    with torch.no_grad():
        edit.delta[0], edit.delta[1] = 1.0, -0.5
    images = torch.full((3, 3, 4, 4), 0.5)
    changed = edit.input(images, torch.tensor([1, -1, 0]))
    for row, value in zip(changed, (0.45, 0.5, 0.6), strict=True):
        torch.testing.assert_close(row, torch.full_like(row, value))


def test_pixels_stay_in_range_and_can_come_back() -> None:
    edit = Delta(1, (2, 2), 0.1)
    with torch.no_grad():
        edit.delta.fill_(1.0)
    changed = edit.input(torch.ones(1, 3, 2, 2), torch.tensor([0]))
    assert torch.equal(changed, torch.ones_like(changed))
    changed.sum().backward()
    assert edit.delta.grad is not None
    assert bool((edit.delta.grad > 0).all())  # cut off, but not cut from the gradient


def test_pgd_steps_by_the_sign_and_projects() -> None:
    param = torch.nn.Parameter(torch.tensor([0.0, 0.95, -0.2, 0.3]))
    optimizer = ProjectedSign([param], lr=0.1)
    param.grad = torch.tensor([3.0, -0.001, 5.0, 0.0])
    optimizer.step()
    torch.testing.assert_close(param.detach(), torch.tensor([-0.1, 1.0, -0.3, 0.3]))
    with pytest.raises(ValueError, match="weight_decay"):
        ProjectedSign([param], lr=0.1, weight_decay=0.1)


def test_a_fit_reaches_the_bound_in_sign_steps(backbone: Backbone) -> None:
    recipe = make_recipe([Perturbation(weight=2.0)], attack(3))
    (artifact,) = fit(recipe, make_subject(images=1), backbone)
    sizes = torch.unique((artifact.tensors[DELTA].abs() * 4).round(decimals=4))
    assert set(sizes.tolist()) <= {0.0, 1.0, 2.0, 3.0}
    assert float(sizes.max()) == 3.0
    assert artifact.losses["defense.adversarial"] < 0


def test_a_bound_of_zero_is_no_edit(backbone: Backbone) -> None:
    phase = Phase("p", 2, lr={"*": 1e-2})
    alone, beside = (
        fit(make_recipe([Probe(), *more], phase), make_subject(), backbone)[0]
        for more in ((), (Perturbation(eps=0.0),))
    )
    assert set(alone.tensors) == set(beside.tensors)
    assert all(torch.equal(t, beside.tensors[n]) for n, t in alone.tensors.items())
    with pytest.raises(RecipeError, match="trains nothing"):
        fit(make_recipe([Perturbation(eps=0.0)], attack()), make_subject(), backbone)


def test_the_system_alternates_as_published(backbone: Backbone) -> None:
    """The copy of the surrogate trains on clean pictures and is thrown away; class pictures stay clean."""
    seen: dict[str, list[Any]] = {"surrogate": [], "attack": [], "adapt": []}

    class Spy(Technique):
        id = "test.spy"

        @hookimpl
        def regularize(self, run: Any, step: Any) -> None:
            weight = next(iter(run.backbone.parts["denoiser"].parameters()))
            seen[step.phase].append((weight.detach().clone(), step))

    recipe = load_recipe(
        "anti-dreambooth",
        overrides=[
            "fit.cycles=2",
            "surrogate.steps=2",
            "attack.steps=2",
            "adapt.steps=1",
            "surrogate.lr=1e-3",
            "adapt.lr=1e-3",
            "adapt.batch={subject=1, prior=3}",
            "regularizers.prior_preservation.count=1",
            "sample.steps=2",
        ],
    )
    from dataclasses import replace

    from pcs_core.data import Use

    recipe = replace(recipe, uses=(*recipe.uses, Use("test.spy", Spy())))
    fit(recipe, make_subject(images=1), backbone)
    before, copy, after = (seen[p][0][0] for p in ("surrogate", "attack", "adapt"))
    assert not torch.equal(before, copy), "the copy did not train"
    assert torch.equal(before, after), "the surrogate did not come back"
    assert not torch.equal(seen["adapt"][0][0], seen["surrogate"][2][0]), "it did not adapt"
    clean, changed = seen["surrogate"][2][1].batch, seen["adapt"][1][1].batch
    rows = clean.rows("clean")
    assert not torch.equal(clean.latents[rows][0], changed.latents[changed.rows("subject")][0])
    prior = [b.latents[b.rows("prior")][0] for b in (clean, changed)]
    torch.testing.assert_close(*prior)
