"""Key locking: which key the concept's input gets, rank, gates, the running mean, the artifact."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from pcs_core import fit, load, recipe_from_document, sample, save
from pcs_core.backbone import Backbone
from pcs_core.data import AttnEdit, AttnState, Concept, Conditioning, Phase, TokenEdit
from pcs_core.errors import InputError
from pcs_testing import build_fusion, evaluate, make_recipe, make_subject
from pcs_weights.key_locked import KeyLocking
from pcs_weights.rank_one import ConceptInput

NUMBERS = {"key_locked.beta": 0.7, "key_locked.tau": 0.15, "key_locked.strength": 1.0}


def inputs_of(fusion: Any) -> list[ConceptInput]:
    return [e for e in fusion.of(TokenEdit) if isinstance(e, ConceptInput)]


def fusion_of(backbone: Backbone, **settings: Any) -> Any:
    fusion = build_fusion(
        make_recipe([KeyLocking(captions=300, **settings)]), [make_subject()], backbone
    )
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():  # any training state: another word, other values
        for concept in inputs_of(fusion):
            concept.input += 0.3 * torch.randn(concept.input.shape, generator=rng)
            concept.point()
        for edit in fusion.of(AttnEdit):
            edit.value += torch.randn(edit.value.shape, generator=rng)
    return fusion


def moved(edit: Any, text: torch.Tensor, **numbers: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return keys and values [m width] that ``edit`` gives inputs [m d]."""
    key, value = (text[None] @ w.detach().T for w in edit.weights)
    given = {k: torch.tensor([v]) for k, v in {**NUMBERS, **numbers}.items()}
    cond = Conditioning(text=text[None], subject=torch.tensor([0]), extra=given)
    state = AttnState(edit.site, text[None], text[None], edit.site.heads, key, key, value)
    with torch.no_grad():
        state = edit.qkv(state, cond)
    return state.k[0], state.v[0]


@pytest.mark.parametrize("training", [True, False])
def test_the_key_is_the_super_categorys(backbone: Backbone, training: bool) -> None:
    fusion = fusion_of(backbone)
    (concept,) = inputs_of(fusion)
    for edit in fusion.of(AttnEdit):
        edit.train(training)
        key, value = moved(edit, concept.input)
        locked = concept.superclass @ edit.weights[0].detach().T
        assert F.cosine_similarity(key, locked).item() > 0.999
        old = concept.input @ edit.weights[1].detach().T
        assert F.cosine_similarity(value, old).item() < 0.99


def test_ungated_it_is_a_rank_one_edit(backbone: Backbone) -> None:
    fusion = fusion_of(backbone, gated=False)
    (concept,) = inputs_of(fusion)
    eye = torch.eye(concept.input.shape[1])
    for edit in fusion.of(AttnEdit):
        for after, weight, target in zip(
            moved(edit, eye),
            edit.weights,
            (concept.superclass @ edit.weights[0].T, edit.value[0]),
            strict=True,
        ):
            change = after.T - weight.detach()
            assert torch.linalg.matrix_rank(change, rtol=1e-4) == 1
            torch.testing.assert_close(concept.input @ after, target.detach(), rtol=1e-3, atol=1e-4)


def test_raising_beta_lets_go_of_the_subject(backbone: Backbone) -> None:
    fusion = fusion_of(backbone)
    edit, concept = fusion.of(AttnEdit)[0].eval(), inputs_of(fusion)[0]
    size = [
        moved(edit, concept.input, **{"key_locked.beta": beta})[1].norm().item()
        for beta in (0.2, 0.6, 0.9, 1.3, 3.0)
    ]
    assert size == sorted(size, reverse=True)
    assert size[-1] < 0.01 * size[0]


def test_the_similarity_of_the_input_with_itself_is_one(backbone: Backbone) -> None:
    (concept,) = inputs_of(fusion_of(backbone))
    torch.testing.assert_close((concept.direction * concept.input).sum(1), torch.ones(1))


def test_other_words_hardly_feel_it(backbone: Backbone) -> None:
    fusion = fusion_of(backbone)
    plain = evaluate(backbone, prompts=("a <fido>", "a red house"))
    ours = evaluate(backbone, fusion, ("a <fido>", "a red house"))
    change = (ours - plain).flatten(1).norm(dim=1)
    assert change[1] < 0.5 * change[0]


def test_the_mean_follows_the_word_in_fits_only(backbone: Backbone, tmp_path: Path) -> None:
    document = {
        "recipe": {"id": "locked"},
        "use": [
            {"technique": "tokens.learnable", "init": "random"},
            {"technique": "weights.key_locked", "decay": 0.5, "captions": 300},
        ],
        "phase": [{"name": "p", "steps": 3, "lr": {"*": 1e-2}}],
        "sample": {"steps": 2},
    }
    (artifact,) = fit(recipe_from_document(document), make_subject(), backbone)
    tensors = {k.rsplit("/", 1)[1]: v for k, v in artifact.tensors.items() if "<fido>" in k}
    assert set(tensors) == {"rows", "input", "direction", "superclass"}
    assert not torch.allclose(tensors["input"], tensors["superclass"], atol=1e-2)
    save(artifact, tmp_path / "a")
    first = sample(artifact, backbone, "a <fido>", seed=1)
    assert torch.equal(first, sample(load(tmp_path / "a"), backbone, "a <fido>", seed=1))
    loose = sample(artifact, backbone, "a <fido>", seed=1, strengths={"key_locked.beta": 1.5})
    assert not torch.equal(first, loose)
    with pytest.raises(InputError, match="unknown strength 'key_locked.bata', did you mean"):
        sample(artifact, backbone, "a <fido>", strengths={"key_locked.bata": 1.5})


def test_subjects_keep_means_of_their_own(backbone: Backbone) -> None:
    recipe = make_recipe([KeyLocking(decay=0.5, captions=300)], Phase("p", 2, lr={"*": 1e-2}))
    subjects = [make_subject(), make_subject("other", token="<other>", noun="cat", seed=1)]
    together = fit(recipe, subjects, backbone)
    for subject, ours in zip(subjects, together, strict=True):
        for name, tensor in fit(recipe, subject, backbone)[0].tensors.items():
            torch.testing.assert_close(ours.tensors[name], tensor, rtol=1e-4, atol=1e-5)


def test_each_concept_of_each_subject_has_its_own_input(backbone: Backbone) -> None:
    nouns = ("dog", "cat"), ("bird", "car")
    subjects = [
        replace(make_subject(), concepts=tuple(Concept(n, f"<{n}>", n) for n in pair))
        for pair in nouns
    ]
    recipe = make_recipe([KeyLocking(captions=200)])
    first, second = inputs_of(build_fusion(recipe, subjects, backbone))
    assert (tuple(first.tokens), tuple(second.tokens)) == (("<dog>", "<bird>"), ("<cat>", "<car>"))
