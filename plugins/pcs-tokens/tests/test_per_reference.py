"""Words of single references: whose caption names them, where they start, what says them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pcs_core import Technique, fit, hookimpl, sample
from pcs_core.backbone import Backbone
from pcs_core.data import Phase, TokenEdit
from pcs_core.errors import RecipeError
from pcs_testing import build_fusion, make_recipe, make_subject
from pcs_tokens.learnable import LearnableToken
from pcs_tokens.per_reference import ReferenceWords

SEEN: list[Any] = []
CAPTION = LearnableToken(templates=("{token} <context.{reference}>",))


class Spy(Technique):
    id = "test.spy"

    @hookimpl
    def regularize(self, step: Any) -> None:
        SEEN.append(step)


def edits_of(backbone: Backbone, **settings: Any) -> list[TokenEdit]:
    recipe = make_recipe([ReferenceWords(**settings)])
    fusion = build_fusion(recipe, [make_subject(images=3)], backbone)
    return [e for e in fusion.edits if isinstance(e, TokenEdit)]


def test_a_caption_names_its_own_pictures_word(backbone: Backbone) -> None:
    SEEN.clear()
    phase = Phase("p", 4, batch={"subject": 2}, lr={"*": 0.0})
    fit(make_recipe([CAPTION, ReferenceWords(), Spy()], phase), make_subject(images=3), backbone)
    captions = [
        pair for step in SEEN for pair in zip(step.batch.captions, step.batch.index, strict=True)
    ]
    assert {caption for caption, _ in captions} == {f"<fido> <context.{i}>" for _, i in captions}
    assert all(caption == f"<fido> <context.{i}>" for caption, i in captions)


def test_only_the_words_of_the_steps_pictures_move(backbone: Backbone) -> None:
    SEEN.clear()
    phase = Phase("p", 1, batch={"subject": 1}, lr={"*": 0.1}, optimizer="sgd")
    recipe = make_recipe([CAPTION, ReferenceWords(start="cat"), Spy()], phase)
    (artifact,) = fit(recipe, make_subject(images=3), backbone)
    table: Any = backbone.embedding.weight
    start = table[backbone.tokenizer.encode("cat")].detach()
    rows = [artifact.tensors[f"tokens.per_reference/<context.{i}>/rows"] for i in range(3)]
    assert [r.equal(start) for r in rows] == [i != SEEN[0].batch.index[0] for i in range(3)]


def test_they_start_from_the_rows_of_words(backbone: Any) -> None:
    ids = backbone.tokenizer.encode("photo of")
    for edit in edits_of(backbone, start="photo of"):
        assert torch.equal(edit.vocabulary()[0], backbone.embedding.weight[ids])


def test_without_words_they_start_as_noise(backbone: Backbone) -> None:
    rows = torch.stack(
        [e.vocabulary()[0].detach() for e in edits_of(backbone, vectors=16, std=0.1)]
    )
    assert rows.shape == (3, 16, 32)
    assert float(rows.std()) == pytest.approx(0.1, rel=0.1)
    assert not torch.equal(rows[0], rows[1])


def test_one_network_says_the_words_of_all(backbone: Any) -> None:
    settings = {"source": "mapper", "model": "tiny.image", "hidden": 8, "start": "cat"}
    edits: Any = edits_of(backbone, **settings)
    start = backbone.embedding.weight[backbone.tokenizer.encode("cat")]
    assert all(torch.equal(e.vocabulary()[0], start) for e in edits)  # its last layer is zero
    assert [len(e.owned()) for e in edits] == [4, 0, 0]
    with torch.no_grad():
        edits[0].mapper.last.weight.normal_()
    rows = [e.vocabulary()[0] for e in edits]
    assert not torch.equal(rows[0], start)
    assert not torch.equal(rows[1], rows[2])


@pytest.mark.parametrize("source", ["rows", "mapper"])
def test_a_drawing_does_not_know_them(backbone: Backbone, source: Any) -> None:
    words = ReferenceWords(source=source, model="tiny.image", hidden=8)
    recipe = make_recipe([CAPTION, words], Phase("p", 2, lr={"*": 0.05}))
    (artifact,) = fit(recipe, make_subject(images=3), backbone)
    (plain,) = fit(make_recipe([LearnableToken()], Phase("p", 0)), make_subject(), backbone)
    row = {"tokens.learnable/<fido>/rows": artifact.tensors["tokens.learnable/<fido>/rows"]}
    from dataclasses import replace

    bare = replace(plain, tensors=row)
    prompt = "a photo of <fido> on the beach"
    pictures = [sample(a, backbone, prompt, seed=1, steps=2) for a in (artifact, bare)]
    assert torch.equal(*pictures)


def test_a_subject_without_pictures_is_refused(backbone: Backbone) -> None:
    with pytest.raises(RecipeError, match="has no pictures to have words of"):
        build_fusion(make_recipe([ReferenceWords()]), [make_subject(images=0)], backbone)
