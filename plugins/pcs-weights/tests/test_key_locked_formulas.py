"""Perfusion's numbers, computed anew from its formulas, and the statistics they rest on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from pcs_core import recipe_from_document
from pcs_core.backbone import Attachment, Backbone, tokenise
from pcs_core.data import AttnEdit, AttnState, Conditioning, Fusion, TokenEdit
from pcs_core.errors import CapabilityError
from pcs_testing import build_fusion, make_recipe, make_subject
from pcs_weights.corpus import captions
from pcs_weights.key_locked import KeyLocking
from pcs_weights.rank_one import PROMPT, ConceptInput, Gate, KeyLocked

BETA, TAU = 0.6, 0.15


def fusion_of(backbone: Backbone, noun: str = "dog", **settings: Any) -> Fusion:
    """Return a fusion in some state of training: another word, another mean input, other values."""
    uses = [
        {"technique": "tokens.learnable", "init": "random"},
        {"technique": "weights.key_locked", "captions": 300, **settings},
    ]
    recipe = recipe_from_document({"recipe": {"id": "locked"}, "use": uses})
    fusion = build_fusion(recipe, [make_subject(noun=noun)], backbone)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for concept in fusion.of(TokenEdit):
            if isinstance(concept, ConceptInput):
                concept.input += 0.3 * torch.randn(concept.input.shape, generator=rng)
                concept.point()
        for edit in fusion.of(AttnEdit):
            edit.value += torch.randn(edit.value.shape, generator=rng)
    return fusion


def encoded(backbone: Backbone, fusion: Fusion | None, prompt: str) -> Conditioning:
    """Return the conditioning of ``prompt`` when a picture is drawn."""
    fusion = fusion or Fusion()
    ids = tokenise(
        [prompt], backbone.tokenizer, words=fusion.words, tokens=fusion.of(TokenEdit), subjects=[0]
    )
    with torch.no_grad(), Attachment(backbone, fusion) as net:
        return net.encode_text(ids, torch.tensor([0]), extra=net.strengths(1))


def second_moment(backbone: Backbone, count: int) -> torch.Tensor:
    """Return C of the corpus at every position, in fp64."""
    texts = [encoded(backbone, None, c).text[0].double() for c in captions(count)]
    rows = torch.cat(texts)
    return rows.T @ rows / len(rows)


def test_global_locking_makes_all_keys_of_the_super_categorys_prompt(backbone: Backbone) -> None:
    """h = W e - s W i + gate o with e of the class's prompt for keys, of the concept's for values."""
    fusion = fusion_of(backbone)
    prompt = "a photo of {} on the red beach"
    cond = encoded(backbone, fusion, prompt.format("<fido>"))
    with_word, plain = cond.text[0].double(), encoded(backbone, None, prompt.format("dog")).text[0]
    torch.testing.assert_close(cond.extra[PROMPT][0], plain, rtol=1e-5, atol=1e-5)
    assert (with_word - plain.double()).abs().max() > 0.01
    (concept,) = (t for t in fusion.of(TokenEdit) if isinstance(t, ConceptInput))
    i = concept.input[0].double()
    c = second_moment(backbone, 300)
    turned = torch.linalg.pinv(c, hermitian=True, rtol=1e-12) @ i
    for edit in fusion.of(AttnEdit):
        key, value = (w.detach().double() for w in edit.weights)
        k, v = (cond.text @ w.T.float() for w in (key, value))
        state = AttnState(edit.site, cond.text, cond.text, edit.site.heads, k, k, v)
        with torch.no_grad():
            state = edit.eval().qkv(state, cond)
        locked = key @ concept.superclass[0].double()
        for e, weight, target, ours in (
            (plain.double(), key, locked, state.k[0]),
            (with_word, value, edit.value[0, 0].detach().double(), state.v[0]),
        ):
            s = e @ turned / (i @ turned)
            gate = torch.sigmoid((s - BETA) / TAU)
            expected = e @ weight.T - s[:, None] * (weight @ i) + gate[:, None] * target
            torch.testing.assert_close(ours.double(), expected, rtol=1e-3, atol=2e-4)


def test_with_global_locking_the_learned_word_moves_no_key(backbone: Backbone) -> None:
    fusion = fusion_of(backbone)
    prompt = "a <fido> on the beach"

    def keys() -> list[torch.Tensor]:
        cond = encoded(backbone, fusion, prompt)
        projected = []
        for edit in fusion.of(AttnEdit):
            k = cond.text @ edit.weights[0].detach().T
            state = AttnState(edit.site, cond.text, cond.text, edit.site.heads, k, k, k)
            with torch.no_grad():
                projected.append(edit.eval().qkv(state, cond).k)
        return projected

    before = keys()
    word: Any = next(t for t in fusion.of(TokenEdit) if hasattr(t, "rows") and t.mode == "both")
    with torch.no_grad():
        word.rows.normal_(generator=torch.Generator().manual_seed(5))
    for one, other in zip(before, keys(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("locking", ["word", "global", "local"])
def test_local_locking_reads_the_concepts_own_prompt(backbone: Backbone, locking: Any) -> None:
    """So do artifacts of earlier versions, whatever they called it."""
    fusion = fusion_of(backbone, locking=locking)
    assert PROMPT not in encoded(backbone, fusion, "a <fido>").extra


def test_a_fit_locks_the_word_alone(backbone: Backbone) -> None:
    fusion = fusion_of(backbone)
    ids = tokenise(["a <fido>"], backbone.tokenizer, tokens=fusion.of(TokenEdit), subjects=[0])
    with torch.no_grad(), Attachment(backbone, fusion, fitting=True) as net:
        assert PROMPT not in net.encode_text(ids, torch.tensor([0])).extra


def test_prompts_without_the_concept_are_read_as_they_are(backbone: Backbone) -> None:
    cond = encoded(backbone, fusion_of(backbone), "a red house")
    torch.testing.assert_close(cond.extra[PROMPT], cond.text, rtol=0, atol=0)


def test_captions_are_many_and_the_same_every_time() -> None:
    made = captions(5000)
    assert len(set(made)) == 5000
    assert made[:100] == captions(100)


def test_the_statistics_have_full_rank_and_no_ridge_decides(backbone: Backbone) -> None:
    moment = second_moment(backbone, 300)
    values = torch.linalg.eigvalsh(moment)
    # this encoder's last normalisation has no learned factors: what it says sums to 0
    assert values[1] > 1e-9 * values[-1]
    (concept,) = (t for t in fusion_of(backbone).of(TokenEdit) if isinstance(t, ConceptInput))
    kept = concept.inverse @ moment @ moment
    torch.testing.assert_close(kept, moment, rtol=0, atol=1e-4 * float(moment.abs().max()))


def test_too_few_captions_are_refused_by_name(backbone: Backbone) -> None:
    with pytest.raises(
        CapabilityError, match=r"statistics of 1 captions have rank \d+ of \d+: raise"
    ):
        build_fusion(make_recipe([KeyLocking(captions=1)]), [make_subject()], backbone)


def test_without_a_second_moment_other_words_would_be_more_alike(backbone: Backbone) -> None:
    """C^-1 is what makes s smallest over the corpus among all linear forms with s(i) = 1."""
    (concept,) = (t for t in fusion_of(backbone).of(TokenEdit) if isinstance(t, ConceptInput))
    i = concept.input[0]
    rows = torch.cat([encoded(backbone, None, c).text[0] for c in captions(100)])
    with_it = (rows @ concept.direction[0]).square().mean()
    without = (rows @ (i / i.square().sum())).square().mean()
    assert with_it < 0.7 * without


@pytest.mark.parametrize(("text", "width"), [(768, 320), (768, 1280), (2048, 640)])
def test_the_edit_at_the_widths_of_real_networks(text: int, width: int) -> None:
    """One site of SD 1.5 or SDXL with statistics of full rank, against the formula in fp64."""
    from pcs_core.data import Site

    rng = torch.Generator().manual_seed(0)
    rows = torch.randn(3 * text, text, generator=rng).double() * torch.linspace(3, 0.02, text)
    moment = rows.T @ rows / len(rows)
    i, target = torch.randn(text, generator=rng), torch.randn(width, generator=rng)
    concept = ConceptInput(i[None], torch.linalg.inv(moment), 0.99, ["<x>"], ["dog"])
    weights = [torch.randn(width, text, generator=rng) / text**0.5 for _ in "kv"]
    site = Site("x", "denoiser", "cross", width=width, context=text, heads=8)
    edit = KeyLocked(site, weights, [concept], Gate(0.75, 0.1, gated=True, strength=1.0))
    with torch.no_grad():
        edit.value.copy_(target[None, None])
    e = torch.randn(2, 77, text, generator=rng)
    k, v = (e @ w.T for w in weights)
    cond = Conditioning(text=e, subject=torch.zeros(2, dtype=torch.long))
    with torch.no_grad():
        state = edit.train().qkv(AttnState(site, e, e, 8, k, k, v), cond)
    turned = torch.linalg.solve(moment, i.double())
    s = (e.double() @ turned / (i.double() @ turned))[..., None]
    gate = torch.sigmoid((s - 0.75) / 0.1)
    key, value = (w.double() for w in weights)
    locked = key @ i.double()
    wanted_k = e.double() @ key.T - s * (key @ i.double()) + gate * locked
    wanted_v = e.double() @ value.T - s * (value @ i.double()) + gate * target.double()
    torch.testing.assert_close(state.k.double(), wanted_k, rtol=1e-3, atol=2e-4)
    torch.testing.assert_close(state.v.double(), wanted_v, rtol=1e-3, atol=2e-4)
    assert F.cosine_similarity(state.k.flatten(), state.v.flatten(), dim=0) < 0.9
