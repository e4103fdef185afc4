"""Words that attract and repel a learned one: the value, what it moves, whose words count."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from pcs_core import fit
from pcs_core.backbone import Backbone
from pcs_core.data import Concept, Phase, Subject
from pcs_core.errors import RecipeError
from pcs_regularizers.contrast import Contrast
from pcs_testing import make_recipe, make_subject
from pcs_testing.probe import Probe
from pcs_tokens.learnable import LearnableToken

WORDS: dict[str, Any] = {"positive": ("dog", "snow"), "negative": ("cat", "beach", "dog")}


def learned(
    backbone: Backbone, *, steps: int = 1, subject: Subject | None = None, **settings: Any
) -> tuple[dict[str, torch.Tensor], float]:
    uses = [
        LearnableToken(vectors=2, noise=0.7),
        Contrast(**{**WORDS, "weight": 1.0, **settings}),
        Probe(),
    ]
    phase = Phase("p", steps, lr={"*": 0.05}, losses=("contrast", "probe*"), optimizer="sgd")
    (artifact,) = fit(make_recipe(uses, phase), subject or make_subject(), backbone)
    rows = {n: t.double() for n, t in artifact.tensors.items() if n.startswith("tokens.learnable/")}
    return rows, artifact.losses["contrast"]


def word(backbone: Any, text: str) -> torch.Tensor:
    row: torch.Tensor = backbone.embedding.weight[backbone.tokenizer.encode(text)].mean(0)
    return row.double().detach()


def share(backbone: Backbone, row: torch.Tensor, positive: list[str], temperature: float) -> float:
    """The share of the positive words, written out."""
    near = {
        w: float(torch.exp(torch.cosine_similarity(row, word(backbone, w), dim=0) / temperature))
        for w in ("dog", "snow", "cat", "beach")
    }
    return sum(near[w] for w in positive) / sum(near.values())


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_it_is_minus_the_log_of_the_positive_words_share(
    backbone: Backbone, temperature: float
) -> None:
    _, loss = learned(backbone, temperature=temperature)
    rows, _ = learned(backbone, weight=1e-30)
    values = [
        -torch.log(torch.tensor(share(backbone, row, ["dog", "snow"], temperature)))
        for row in rows["tokens.learnable/<fido>/rows"]
    ]
    assert loss == pytest.approx(float(torch.stack(values).mean()), rel=1e-4)


def test_positive_words_attract(backbone: Backbone) -> None:
    before, _ = learned(backbone, weight=1e-30)
    after, _ = learned(backbone, steps=20)
    for old, new in zip(*(r["tokens.learnable/<fido>/rows"] for r in (before, after)), strict=True):
        assert share(backbone, new, ["dog", "snow"], 0.07) > share(
            backbone, old, ["dog", "snow"], 0.07
        )


def test_a_step_may_draw_some_of_them(backbone: Backbone) -> None:
    rows, _ = learned(backbone, weight=1e-30)
    _, loss = learned(backbone, draw=1, positive=("dog", "snow"), negative=("cat", "beach"))

    def of_one(positive: str, other: str) -> float:
        values = []
        for row in rows["tokens.learnable/<fido>/rows"]:
            near = {
                w: torch.exp(torch.cosine_similarity(row, word(backbone, w), dim=0) / 0.07)
                for w in (positive, "cat", "beach")
            }
            values.append(-torch.log(near[positive] / sum(near.values())))
        return float(torch.stack(values).mean())

    assert min(abs(loss - of_one(a, b)) for a, b in (("dog", "snow"), ("snow", "dog"))) < 1e-4


def two(kind: str) -> Subject:
    concepts = (Concept("fido", "<fido>", "dog"), Concept("melting", "<melting>", "snow", kind))
    return replace(make_subject(), concepts=concepts)


@pytest.mark.parametrize(
    ("kind", "moves"), [("property", {"<melting>"}), ("object", {"<fido>", "<melting>"})]
)
def test_the_words_of_a_kind_count(backbone: Backbone, kind: str, moves: set[str]) -> None:
    """Of a subject without any of that kind all do."""
    still, _ = learned(backbone, subject=two(kind), weight=1e-30, kinds=("property",))
    rows, _ = learned(backbone, subject=two(kind), steps=3, kinds=("property",))
    moved = {n.split("/")[1] for n, t in rows.items() if float((t - still[n]).abs().max()) > 1e-6}
    assert moved == moves


def test_the_noun_is_among_the_positive_words(backbone: Backbone) -> None:
    said, _ = learned(backbone, positive=("{noun}",), negative=("cat",), steps=3)
    written, _ = learned(backbone, positive=("dog",), negative=("cat",), steps=3)
    assert all(t.equal(written[n]) for n, t in said.items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"positive": ()}, "name both"),
        ({"negative": ()}, "name both"),
        ({"params": "*/nothing"}, "nothing that trains matches"),
        ({"positive": ("cat",), "negative": ("cat", "dog")}, "name others"),
    ],
)
def test_what_compares_nothing_is_refused(
    backbone: Backbone, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        learned(backbone, **settings)
