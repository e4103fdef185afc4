"""The tuned network attends by the base's maps, and a learned vector moves the value of one word alone."""

from __future__ import annotations

import pytest
import torch

from pcs_attention.branch_factors import branch_factors
from pcs_attention.injected_maps import Injected, InjectedMaps, with_maps
from pcs_attention.value_residual import SCALE, ValueResidual, places
from pcs_core.backbone import Attachment, Backbone, select_sites, tokenise
from pcs_core.data import AttnState, Branch, Conditioning, Fusion, GuidanceTerm, Word
from pcs_core.errors import CapabilityError

LATENTS = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(4))


def passes(backbone: Backbone, *, lend: bool, sites: str = "cross"):  # type: ignore[no-untyped-def]
    """Return maps and outputs of the base and of a network whose values moved at "dog"."""
    cross = select_sites(backbone.sites, "cross")
    moved = [ValueResidual(s, 1, 1, backbone.projection(s, "v").weight.shape[0]) for s in cross]
    for edit in moved:
        torch.nn.init.normal_(edit.residual, generator=torch.Generator().manual_seed(1))
    lent = [Injected(site) for site in select_sites(backbone.sites, sites)]
    words = (Word("<thing>", "dog", "dog"),)
    texts = tokenise(
        ["a <thing> here", "a cat"],
        backbone.tokenizer,
        words=words,
        concepts=[["<thing>"]],
        subjects=[0, 0],
    )
    level = backbone.process.level(torch.tensor([400, 400]))
    fusion = Fusion(edits=(*moved, *lent), words=words)
    with torch.no_grad(), Attachment(backbone, fusion) as net:
        cond = net.encode_text(texts, torch.zeros(2, dtype=torch.long))
        cond = cond.with_(extra={SCALE: torch.ones(2)})
        names = [site.name for site in select_sites(backbone.sites, sites)]
        base = net.evaluate(LATENTS, level, cond, record=names, model="base")
        given = with_maps(cond, base.tape) if lend else cond
        tuned = net.evaluate(LATENTS, level, given, record=names)
    return base, tuned


def test_maps_are_the_bases_bit_for_bit_while_the_picture_is_not(backbone: Backbone) -> None:
    base, tuned = passes(backbone, lend=True)
    assert set(tuned.tape) == {s.name for s in select_sites(backbone.sites, "cross")}
    for name, maps in tuned.tape.items():
        assert torch.equal(maps, base.tape[name])
    assert (tuned.output[0] - base.output[0]).abs().amax() > 1e-4


def test_without_lent_maps_the_tuned_network_looks_elsewhere(backbone: Backbone) -> None:
    """What the values bring in changes the queries of the layers behind."""
    base, tuned = passes(backbone, lend=False)
    apart = max(float((tuned.tape[n] - base.tape[n]).abs().max()) for n in base.tape)
    assert apart > 1e-4


def test_a_prompt_without_the_word_stays(backbone: Backbone) -> None:
    base, tuned = passes(backbone, lend=False)
    torch.testing.assert_close(tuned.output[1], base.output[1], rtol=0, atol=1e-5)


def test_the_value_of_the_word_alone_moves(backbone: Backbone) -> None:
    site = select_sites(backbone.sites, "cross")[0]
    edit = ValueResidual(site, 2, 1, 6)
    with torch.no_grad():
        edit.residual.copy_(torch.arange(12.0).reshape(2, 1, 6))
    q = torch.zeros(2, 3, 6)
    state = AttnState(site, q, q, 1, q, torch.ones(2, 5, 6), torch.ones(2, 5, 6))
    cond = Conditioning(
        text=q,
        subject=torch.tensor([1, 0]),
        spans={"concept.0": torch.tensor([[2, 3], [4, -1]])},
        extra={SCALE: torch.tensor([1.0, 0.5])},
    )
    with torch.no_grad():
        changed = edit.qkv(state, cond)
    expected = torch.ones(2, 5, 6)
    expected[0, 2:4] += torch.arange(6.0, 12.0)
    expected[1, 4] += torch.arange(6.0) / 2
    assert torch.equal(changed.v, expected)
    assert torch.equal(changed.k, torch.ones(2, 5, 6))


def test_places() -> None:
    assert places(torch.tensor([[1, -1], [-1, -1]]), 3).tolist() == [
        [False, True, False],
        [False] * 3,
    ]


def test_guidance_is_the_sum_of_its_terms() -> None:
    positive, negative = Branch("positive"), Branch("negative")
    base = Branch("positive", model="base")
    terms = (
        GuidanceTerm(positive, negative, 6.0),
        GuidanceTerm(positive, base, 2.0, 0.0, 0.5),
        GuidanceTerm(base, negative, 1.0, 0.5, 1.0),
    )
    assert branch_factors(terms, 0.0, "x") == {positive: 9.0, negative: -6.0, base: -2.0}
    assert branch_factors(terms, 0.5, "x") == {positive: 7.0, negative: -7.0, base: 1.0}
    masked = GuidanceTerm(positive, negative, 1.0, mask="box.0")
    with pytest.raises(CapabilityError, match="a mask weighs"):
        branch_factors((masked,), 0.0, "x")


def test_maps_of_another_length_are_refused(backbone: Backbone) -> None:
    site = select_sites(backbone.sites, "cross")[0]
    q = torch.zeros(1, 3, 6)
    state = AttnState(site, q, q, 1, q, q, q, probs=torch.zeros(1, 1, 3, 3))
    cond = with_maps(Conditioning(text=q), {site.name: torch.zeros(1, 1, 3, 4)})
    with pytest.raises(CapabilityError, match="texts of one length"):
        Injected(site).probs(state, cond)


def test_a_stop_of_nought_lends_nothing() -> None:
    assert InjectedMaps(stop=0.0).fuse(None) is None  # type: ignore[call-arg, arg-type]
