"""A further example in the forward of a fit step: edits read it, losses do not."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from pcs_core.backbone import Backbone
from pcs_core.data import AttnEdit, AttnState, Conditioning, FitRow, Fusion, Phase
from pcs_core.errors import ConflictError, RecipeError
from pcs_core.hookspecs import hookimpl
from pcs_core.technique import Technique
from pcs_engine import fit
from pcs_testing import make_recipe, make_subject
from pcs_testing.probe import Probe

SEEN: list[tuple[Tensor, Tensor, Tensor]] = []
STEPS: list[Any] = []


class Mixing(AttnEdit):
    """Adds a learned share of the row beside to each row: its features are there in the same forward."""

    def __init__(self, site: Any, subjects: int) -> None:
        super().__init__(site, stacked=True)
        self.share = nn.Parameter(torch.zeros(subjects, 1))

    def out(self, state: AttnState, cond: Conditioning) -> AttnState:
        assert state.out is not None
        assert cond.subject is not None
        beside = cond.extra["row.reference"]
        SEEN.append((state.x.detach(), beside, cond.subject))
        share = self.share[cond.subject].unsqueeze(-1)
        state.out = state.out + share * state.out[beside]
        return state


class Referring(Technique):
    """Trains on what a reference beside each row says."""

    id = "test.referring"

    level: Literal["same", "clean"] = "clean"
    example: str = "subject"

    @hookimpl
    def fuse(self, run: Any, features: Any) -> Fusion:
        (site, *_) = run.sites("self")
        row = FitRow("reference", self.example, self.level)
        return Fusion(edits=(Mixing(site, features.subjects),), fit_rows=(row,))

    @hookimpl
    def regularize(self, step: Any) -> None:
        STEPS.append((step.output, step.batch, step.level, step.error, step.cond))


@pytest.fixture(autouse=True)
def _fresh() -> None:
    SEEN.clear()
    STEPS.clear()


def two() -> list[Any]:
    return [make_subject(n, token=f"<{n}>", seed=i) for i, n in enumerate(("ann", "bob"))]


@pytest.mark.parametrize("level", ["same", "clean"])
def test_an_edit_reads_the_row_and_no_loss_does(backbone: Backbone, level: Any) -> None:
    phase = Phase("p", 2, batch={"subject": 2}, lr={"*": 1e-2})
    artifacts = fit(make_recipe([Referring(level=level)], phase), two(), backbone)
    x, beside, subject = SEEN[0]
    assert len(x) == 8
    assert beside.tolist() == [4, 5, 6, 7] * 2
    assert subject.tolist() == [0, 0, 1, 1] * 2
    output, batch, levels, error, cond = STEPS[0]
    assert len(output) == len(error) == len(batch.roles) == len(levels.alpha) == 4
    assert "row.reference" not in cond.extra
    for artifact in artifacts:  # each subject's share moved: gradients came through the row
        assert all(bool(t.any()) for t in artifact.tensors.values())


def test_other_draws_stay_as_they_are(backbone: Backbone) -> None:
    """The first step's own rows are those of a fit without rows beside: they draw later."""
    phase = Phase("p", 1, batch={"subject": 2}, lr={"*": 1e-2})
    fit(make_recipe([Referring()], phase), two()[0], backbone)
    latents = STEPS[0][1].latents

    class Plain(Technique):
        id = "test.plain"

        @hookimpl
        def regularize(self, step: Any) -> None:
            STEPS.append(step.batch.latents)

    fit(make_recipe([Plain(), Probe()], phase), two()[0], backbone)
    assert torch.equal(STEPS[-1], latents)


def test_no_example_of_the_role(backbone: Backbone) -> None:
    recipe = make_recipe([Referring(example="prior")], Phase("p", 1))
    with pytest.raises(RecipeError, match="row 'reference' stands for examples of role 'prior'"):
        fit(recipe, make_subject(), backbone)


def test_two_uses_of_one_role(backbone: Backbone) -> None:
    recipe = make_recipe({"one": Referring(), "other": Referring()}, Phase("p", 1))
    with pytest.raises(ConflictError, match="row 'reference' is claimed by both 'one' and 'other'"):
        fit(recipe, make_subject(), backbone)
