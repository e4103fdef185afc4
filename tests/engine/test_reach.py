"""A loss moves what its phase says it may, and a batch may hold every example of a role."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pcs_core import Technique, fit, hookimpl, load_recipe
from pcs_core.backbone import Backbone
from pcs_core.data import ALL, Loss, Phase
from pcs_core.errors import RecipeError
from pcs_testing import make_recipe, make_subject
from pcs_testing.probe import Probe

BATCHES: list[Any] = []


class Twice(Technique):
    """The reconstruction error again, under another name."""

    id = "test.twice"
    weight: float = 1.0

    @hookimpl
    def regularize(self, step: Any) -> Loss:
        BATCHES.append(step.batch)
        return Loss(self.id, step.error.mean(dim=(1, 2, 3)), weight=self.weight)


def step(backbone: Backbone, reach: Any, losses: Any = ("*",)) -> dict[str, torch.Tensor]:
    """Return what one step of plain gradient descent moved, by name."""
    uses = [Probe(sites="self"), Twice(weight=3.0)]
    phase = Phase("p", 1, lr={"*": 1e-2}, reach=reach, losses=losses, optimizer="sgd")
    return dict(fit(make_recipe(uses, phase), make_subject(), backbone, seed=1)[0].tensors)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    from pcs_core import open_backbone

    return open_backbone("tiny")


def test_a_loss_moves_only_what_it_may(backbone: Backbone) -> None:
    plain, twice = (step(backbone, {}, (loss,)) for loss in ("core.denoise", "test.twice"))
    first, *rest = plain
    assert rest
    apart = step(backbone, {"test.twice": (first,), "core.denoise": tuple(rest)})
    torch.testing.assert_close(apart[first], twice[first])
    assert not torch.allclose(twice[first], plain[first])
    for name in rest:
        torch.testing.assert_close(apart[name], plain[name])
    # a loss that is not named moves all
    shared = step(backbone, {"test.twice": (first,)})
    torch.testing.assert_close(shared[first], twice[first] + plain[first])
    torch.testing.assert_close(shared[rest[0]], plain[rest[0]])


def test_a_reach_that_names_nothing_is_refused(backbone: Backbone) -> None:
    with pytest.raises(RecipeError, match="nothing of that name trains in it"):
        step(backbone, {"core.denoise": ("spatail/*",)})


def test_a_batch_of_all_holds_each_example_once(backbone: Backbone) -> None:
    BATCHES.clear()
    phase = Phase("p", 3, batch={"subject": ALL}, lr={"*": 1e-2})
    fit(make_recipe([Probe(), Twice()], phase), make_subject(images=3), backbone)
    assert [b.index for b in BATCHES] == [(0, 1, 2)] * 3


def test_a_file_says_all_and_a_pre_training_may_not() -> None:
    recipe = load_recipe("lora-dreambooth", overrides=['tune.batch={subject="all"}'])
    assert recipe.phases[0].batch == {"subject": ALL}
    assert recipe.document["phase"][0]["batch"] == {"subject": "all"}
    assert "reach" not in recipe.document["phase"][0]
    with pytest.raises(RecipeError, match="a pre-training reads its records one after another"):
        load_recipe("ip-adapter", overrides=['adapter.batch="all"'])
