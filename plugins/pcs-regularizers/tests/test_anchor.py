"""The distance of learned words to a value: its form, what it is measured from, and what it moves."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pcs_core import Technique, fit, hookimpl, open_backbone
from pcs_core.backbone import Backbone
from pcs_core.data import Phase
from pcs_core.errors import CapabilityError, RecipeError
from pcs_regularizers.anchor import Anchor
from pcs_testing import make_recipe, make_subject
from pcs_testing.probe import Probe
from pcs_tokens.learnable import LearnableToken

ROWS = "tokens.learnable/<fido>/rows"


def personalize(
    backbone: Backbone, anchor: Technique, *, steps: int = 1, **settings: Any
) -> dict[str, Any]:
    token = LearnableToken(**{"vectors": 3, "noise": 0.7, **settings})
    phase = Phase("p", steps, lr={"*": 0.05}, losses=("anchor",), optimizer="sgd")
    (artifact,) = fit(make_recipe([token, anchor], phase), make_subject(), backbone)
    return {"rows": artifact.tensors[ROWS].double(), "loss": artifact.losses["anchor"]}


def noun(backbone: Any, *words: str) -> torch.Tensor:
    ids = [backbone.tokenizer.encode(word) for word in words]
    return torch.stack([backbone.embedding.weight[i].mean(0) for i in ids]).double().detach()


def before_any_step(backbone: Backbone, **settings: Any) -> torch.Tensor:
    """Rows as a fit starts them: those of a fit that moves them by nothing."""
    rows: torch.Tensor = personalize(backbone, Anchor(to="zero", weight=1e-30), **settings)["rows"]
    return rows


@pytest.mark.parametrize(
    ("form", "reduce", "value"),
    [
        ("l1", "mean", lambda v: v.abs().sum() / v.numel()),
        ("l1", "sum", lambda v: v.abs().sum()),
        ("l2", "mean", lambda v: (v**2).sum() / v.numel()),
        ("l2", "sum", lambda v: (v**2).sum()),
        ("norm", "mean", lambda v: ((v**2).sum(1) ** 0.5).sum() / 3),
        ("norm", "sum", lambda v: ((v**2).sum(1) ** 0.5).sum()),
    ],
)
def test_its_value_at_nothing_is_that_of_the_rows(
    backbone: Backbone, form: Any, reduce: Any, value: Any
) -> None:
    rows = before_any_step(backbone)
    anchor = Anchor(to="zero", form=form, reduce=reduce, weight=0.25)
    loss = personalize(backbone, anchor)["loss"]
    assert loss == pytest.approx(0.25 * float(value(rows)), rel=1e-4)


def test_it_is_measured_from_the_class_noun_and_from_the_nearest_of_words(
    backbone: Backbone,
) -> None:
    rows = before_any_step(backbone)
    loss = personalize(backbone, Anchor(to="noun", weight=2.0))["loss"]
    away = rows - noun(backbone, "dog")
    assert loss == pytest.approx(2.0 * float((away**2).mean()), rel=1e-4)
    words = ("snow", "dog", "car")
    loss = personalize(backbone, Anchor(to="texts", texts=words, form="norm", weight=1.0))["loss"]
    apart = torch.cdist(rows, noun(backbone, *words))
    assert loss == pytest.approx(float(apart.min(1).values.mean()), rel=1e-4)
    assert float(apart.min(1).values.mean()) < float(apart.mean())


def test_from_the_start_it_is_nothing_at_first_and_then_the_way_gone(backbone: Backbone) -> None:
    """The rows move by 0.05 times the gradient of another loss, and the anchor sees exactly that way."""
    token, anchor = LearnableToken(vectors=2, noise=0.5), Anchor(form="norm", weight=1.0)
    artifacts = []
    for steps in (1, 2):
        phase = Phase("p", steps, lr={"*": 0.05}, optimizer="sgd")
        recipe = make_recipe([token, anchor, Probe()], phase)
        artifacts.append(fit(recipe, make_subject(), backbone)[0])
    assert artifacts[0].losses["anchor"] == pytest.approx(0.0, abs=1e-6)
    start = before_any_step(backbone, vectors=2, noise=0.5)
    way = (artifacts[0].tensors[ROWS].double() - start).norm(dim=1)
    assert float(way.min()) > 0
    assert artifacts[1].losses["anchor"] == pytest.approx(float(way.mean()), rel=1e-3)


def test_it_pulls_towards_what_is_near(backbone: Backbone) -> None:
    start = before_any_step(backbone)
    rows = personalize(backbone, Anchor(to="noun", reduce="sum", weight=1.0), steps=3)["rows"]
    target = noun(backbone, "dog")
    # three steps of SGD at 0.05 on the sum of squares shrink the distance by 0.9 each
    torch.testing.assert_close(rows - target, 0.9**3 * (start - target), rtol=1e-4, atol=1e-6)


def test_subjects_are_each_held_to_their_own_noun(backbone: Backbone) -> None:
    subjects = [
        make_subject("a", token="<a>", noun="dog"),
        make_subject("b", token="<b>", noun="car"),
    ]
    phase = Phase("p", 25, lr={"*": 0.15}, losses=("anchor",), optimizer="sgd")
    anchor = Anchor(to="noun", reduce="sum", weight=1.0)
    recipe = make_recipe([LearnableToken(init="random"), anchor], phase)
    for artifact, word in zip(fit(recipe, subjects, backbone), ("dog", "car"), strict=True):
        (rows,) = artifact.tensors.values()
        away = float((rows.double() - noun(backbone, word)).abs().max())
        assert away < 1e-3 * float(noun(backbone, word).norm())


class Words(Technique):
    """Shows what a technique may know of all that trains."""

    id = "test.words"
    seen: Any = None

    @hookimpl
    def regularize(self, run: Any, step: Any) -> None:
        now, start = run.trained("*"), run.started("*")
        assert now.keys() == start.keys()
        self.seen.append({n: (p.detach().clone(), start[n]) for n, p in now.items()})


def test_what_trains_is_shown_with_its_start_also_in_a_phase_that_comes_later(
    backbone: Backbone,
) -> None:
    seen: list[Any] = []
    first = Phase("a", 2, lr={"*": 0.05}, optimizer="sgd")
    second = Phase("b", 1, lr={"*": 0.05}, optimizer="sgd")
    recipe = make_recipe([LearnableToken(noise=0.2), Words(seen=seen)], first, second)
    fit(recipe, make_subject(), backbone)
    starts = [step[ROWS][1] for step in seen]
    assert torch.equal(seen[0][ROWS][0], starts[0])
    assert all(torch.equal(start, starts[0]) for start in starts)
    assert not torch.equal(seen[2][ROWS][0], starts[0])


def test_without_weight_it_says_nothing(backbone: Backbone) -> None:
    phase = Phase("p", 1, lr={"*": 0.05})
    (artifact,) = fit(
        make_recipe([LearnableToken(), Anchor(weight=0.0)], phase), make_subject(), backbone
    )
    assert "anchor" not in artifact.losses


def test_what_cannot_be_compared_is_refused() -> None:
    backbone = open_backbone("tiny")
    for anchor, message in (
        (Anchor(params="nothing/*"), "nothing that trains matches 'nothing/\\*'"),
        (Anchor(to="texts"), "`texts` names none"),
    ):
        with pytest.raises(RecipeError, match=message):
            personalize(backbone, anchor)
    phase = Phase("p", 1, lr={"*": 0.05})
    recipe = make_recipe([Probe(), Anchor(params="*", to="noun")], phase)
    with pytest.raises(CapabilityError, match="elements, words 32"):
        fit(recipe, make_subject(), backbone)
