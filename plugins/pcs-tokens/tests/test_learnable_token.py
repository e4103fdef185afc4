"""Learned words: where they start, what trains, how they are named, what their captions say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from pcs_core import fit, open_backbone, sample
from pcs_core.backbone import Backbone, trainable
from pcs_core.data import Concept, Features, Phase, Subject
from pcs_core.errors import InputError
from pcs_engine.run import EngineRun
from pcs_testing import build_fusion, evaluate, make_recipe, make_subject
from pcs_testing.fixtures import extracted
from pcs_tokens.learnable import LearnableToken, LearnedRows


def start_of(
    backbone: Backbone, *, seed: int = 0, subject: Subject | None = None, **settings: Any
) -> torch.Tensor:
    recipe = make_recipe([LearnableToken(**settings)])
    fusion = build_fusion(recipe, [subject or make_subject()], backbone, seed=seed)
    ((name, rows),) = trainable(fusion).items()
    assert name == "tokens.learnable/<fido>/rows"
    return rows.detach()


def embedding(backbone: Any, word: str) -> torch.Tensor:
    return backbone.embedding.weight[backbone.tokenizer.encode(word)].mean(0).float()


def test_it_starts_from_the_noun(backbone: Backbone) -> None:
    rows = start_of(backbone, vectors=3)
    assert rows.shape == (1, 3, 32)
    for row in rows[0]:
        torch.testing.assert_close(row, embedding(backbone, "dog"))


def test_with_one_vector_the_start_is_the_noun_to_the_network(backbone: Backbone) -> None:
    fusion = build_fusion(make_recipe([LearnableToken()]), [make_subject()], backbone)
    ours = evaluate(backbone, fusion, ("a photo of <fido> on the beach",))
    assert torch.equal(ours, evaluate(backbone, prompts=("a photo of dog on the beach",)))


def test_it_may_start_from_another_word_or_at_random(backbone: Backbone) -> None:
    word = start_of(backbone, init="word", init_word="snow")
    torch.testing.assert_close(word[0, 0], embedding(backbone, "snow"))
    random = start_of(backbone, init="random", vectors=2)
    norm = embedding(backbone, "dog").norm()
    torch.testing.assert_close(random.norm(dim=-1), norm.expand(1, 2))
    assert not torch.equal(random[0, 0], random[0, 1])
    assert torch.equal(random, start_of(backbone, init="random", vectors=2))
    assert not torch.equal(random, start_of(backbone, init="random", vectors=2, seed=1))


def test_noise_makes_vectors_differ(backbone: Backbone) -> None:
    rows = start_of(backbone, vectors=2, noise=0.1)[0]
    noun = embedding(backbone, "dog")
    torch.testing.assert_close((rows - noun).norm(dim=-1), 0.1 * noun.norm().expand(2))
    assert not torch.equal(rows[0], rows[1])


@pytest.mark.parametrize("vectors", [2, 3, 5])
def test_mixed_starts_with_half_of_it_noise(backbone: Backbone, vectors: int) -> None:
    rows = start_of(backbone, vectors=vectors, init="mixed", sigma=0.1)[0]
    assert rows.shape == (vectors, 32)
    noun = embedding(backbone, "dog")
    nouns = [torch.allclose(row, noun) for row in rows]
    assert nouns == [False] * (vectors // 2) + [True] * (vectors - vectors // 2)


def test_a_strength_goes_from_the_noun_to_what_was_learned(backbone: Backbone) -> None:
    concepts = (Concept("cat", "<a>", "cat"), Concept("dog", "<b>", "dog"))
    run = EngineRun(make_recipe([LearnableToken()]), backbone, names=["pair"], concepts=[concepts])
    run.features = Features(concepts=(concepts,))
    learned = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    for token, noun in (("<a>", "cat"), ("<b>", "dog")):
        row = embedding(backbone, noun)
        for strength in (0.0, 0.25, 1.0, 1.5):
            value = LearnableToken().at_strength(run, f"{token}/rows", learned, strength)
            torch.testing.assert_close(value, (1 - strength) * row + strength * learned)


def test_subjects_of_one_and_of_two_concepts_train_side_by_side(backbone: Backbone) -> None:
    pair = replace(
        make_subject("pair", token="<a>", noun="cat"),
        concepts=(Concept("cat", "<a>", "cat"), Concept("dog", "<b>", "dog")),
    )
    recipe = make_recipe([LearnableToken(with_noun=True)])
    fusion = build_fusion(recipe, [pair, make_subject("solo", token="<c>", noun="bird")], backbone)
    first, second = fusion.of(LearnedRows)
    assert [e.tokens for e in (first, second)] == [("<a>", "<c>"), ("<b>", "<c>")]
    torch.testing.assert_close(second.rows[1, 0], embedding(backbone, "bird"))
    assert [(w.token, w.subject) for w in fusion.words] == [("<a>", 0), ("<b>", 0), ("<c>", 1)]
    alone = build_fusion(recipe, [pair], backbone)
    assert {w.subject for w in alone.words} == {None}


def test_only_the_rows_train_and_the_pictures_change(backbone: Any) -> None:
    table = backbone.embedding.weight.clone()
    recipe = make_recipe([LearnableToken()], Phase("p", 3, lr={"*": 0.1}))
    (artifact,) = fit(recipe, make_subject(), backbone)
    assert list(artifact.tensors) == ["tokens.learnable/<fido>/rows"]
    assert artifact.tensors["tokens.learnable/<fido>/rows"].shape == (1, 32)
    assert torch.equal(table, backbone.embedding.weight)
    options: dict[str, Any] = {"steps": 2, "scale": 2.0, "scheduler": "ddim"}
    tuned = sample(artifact, backbone, "a photo of <fido>", **options)
    noun = sample(None, backbone, "a photo of dog", **options)
    assert (tuned - noun).abs().max() > 1e-4


@pytest.mark.parametrize("with_noun", [False, True])
def test_captions(backbone: Backbone, with_noun: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()

    def watch(run: Any, step: Any) -> None:
        seen.update(step.batch.captions)

    from pcs_core import Technique, hookimpl

    class Spy(Technique):
        id = "test.spy"

        @hookimpl
        def regularize(self, run: Any, step: Any) -> None:
            watch(run, step)

    token = LearnableToken(with_noun=with_noun, templates=("a {token} on grass",))
    recipe = make_recipe([Spy(), token], Phase("p", 12, lr={"*": 1e-3}))
    subject = make_subject(captions=[None, "a dog in snow"])
    fit(recipe, subject, backbone)
    default = "a <fido> on grass"
    assert default in seen
    (other,) = seen - {default}
    assert other.startswith("a <fido>")  # the user's caption, with the token for its noun
    assert other.endswith("in snow")


def test_the_noun_follows_the_token_where_asked(backbone: Backbone) -> None:
    subject = make_subject()
    recipe = make_recipe([LearnableToken(with_noun=True, init="random")], Phase("p", 2))
    artifact = fit(recipe, subject, backbone)[0]
    options: dict[str, Any] = {"steps": 2, "scale": 1.0}
    alone = sample(artifact, backbone, "a photo of <fido> on grass", **options)
    named = sample(artifact, backbone, "a photo of <fido> dog on grass", **options)
    assert torch.equal(alone, named)  # added where it lacks, not doubled where it stands
    bare = fit(make_recipe([LearnableToken(init="random")], Phase("p", 2)), subject, backbone)[0]
    without = sample(bare, backbone, "a photo of <fido> on grass", **options)
    assert not torch.equal(alone, without)


def test_every_concept_gets_rows_of_its_own(backbone: Backbone) -> None:
    subject = make_subject()
    ball = Concept("ball", "<ball>", "toy")
    subject = replace(subject, concepts=(*subject.concepts, ball))
    recipe = make_recipe([LearnableToken(vectors=2)], Phase("p", 2, lr={"*": 0.1}))
    start = trainable(build_fusion(recipe, [subject], backbone))
    assert list(start) == ["tokens.learnable/<fido>/rows", "tokens.learnable/<ball>/rows"]
    (artifact,) = fit(recipe, subject, backbone)
    for name, rows in artifact.tensors.items():
        assert not torch.equal(rows, start[name].detach()[0]), f"{name} did not train"
    drawn = sample(artifact, backbone, "<ball> on <fido>", steps=1)
    assert drawn.shape == (1, 3, 32, 32)


def test_a_prompt_that_would_lose_the_token_is_refused() -> None:
    backbone = open_backbone("tiny-tokens")  # reads one window
    recipe = make_recipe([LearnableToken(vectors=4)], Phase("p", 1))
    (artifact,) = fit(recipe, make_subject(), backbone)
    with pytest.raises(InputError, match="too long"):
        sample(artifact, backbone, "grass " * 20 + "<fido>", steps=1)


def test_a_caption_names_what_its_picture_shows(backbone: Backbone) -> None:
    """A picture of one of two concepts would teach both words its look."""
    one, two = Concept("one", "<one>", "dog"), Concept("two", "<two>", "cat")
    pictures = tuple(torch.rand(3, 32, 32) for _ in range(2))
    there, absent = torch.ones(1, 32, 32), torch.zeros(1, 32, 32)
    masks = {"one": (there, absent), "two": (absent, there)}
    subject = Subject("both", concepts=(one, two), images=pictures, masks=masks)
    _, _, (features,) = extracted(make_recipe([LearnableToken()]), [subject], backbone)
    first, second = (example.captions for example in features.examples)
    assert all("<one>" in text and "<two>" not in text for text in first)
    assert all("<two>" in text and "<one>" not in text for text in second)
