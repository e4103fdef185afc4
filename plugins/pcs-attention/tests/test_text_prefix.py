"""Each token of a text reads learned keys and values besides those that stand in front of it."""

from __future__ import annotations

import math

import pytest
import torch

from pcs_attention.text_prefix import Prefix, last_layers
from pcs_core import open_backbone
from pcs_core.backbone import Attachment, Backbone, select_sites, tokenise
from pcs_core.data import Fusion, Site

PROMPTS = ("a dog on the beach", "a cat")


def prefix(site: Site, count: int, shift: float, subjects: int = 1) -> Prefix:
    """Return ``count`` random keys and values for a site."""
    rng = torch.Generator().manual_seed(len(site.name))
    shape = (subjects, count, site.width)
    keys, values = (torch.randn(shape, generator=rng) for _ in range(2))
    return Prefix(site, keys, values, shift)


def encoded(backbone: Backbone, *edits: Prefix, subject: int = 0) -> torch.Tensor:
    """Return what the text encoder says of the prompts."""
    tokens = tokenise(list(PROMPTS), backbone.tokenizer)
    with torch.no_grad(), Attachment(backbone, Fusion(edits=edits)) as net:
        return net.encode_text(tokens, torch.full((2,), subject)).text


def by_hand(module: torch.nn.Module, x: torch.Tensor, edit: Prefix, heads: int) -> torch.Tensor:
    """Return causal attention with the prefix, one head, token and sum at a time."""
    q, k, v = (getattr(module, f"{part}_proj")(x)[0] for part in "qkv")
    width = q.shape[1] // heads
    out = torch.zeros_like(q)
    for head in range(heads):
        of = slice(head * width, (head + 1) * width)
        for token in range(len(q)):
            keys = torch.cat([edit.keys[0, :, of], k[: token + 1, of]])
            values = torch.cat([edit.values[0, :, of], v[: token + 1, of]])
            logits = keys @ q[token, of] / math.sqrt(width)
            logits[: edit.keys.shape[1]] += edit.shift
            out[token, of] = logits.softmax(0) @ values
    projected: torch.Tensor = module.out_proj(out)  # type: ignore[operator]
    return projected


@pytest.mark.parametrize("name", ["tiny", "tiny-sdxl", "tiny-sd3"])
def test_a_chain_without_a_prefix_is_the_encoder_s_own_attention(name: str) -> None:
    backbone = open_backbone(name)
    sites = select_sites(backbone.sites, "self", part="text")
    plain = encoded(backbone)
    with_chains = encoded(backbone, *(prefix(site, 0, 0.0) for site in sites))
    torch.testing.assert_close(with_chains, plain, rtol=0, atol=1e-5)
    assert torch.equal(encoded(backbone), plain)  # and it came off again


@torch.no_grad()
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_a_layer_is_attention_written_out(backbone: Backbone, shift: float) -> None:
    site = select_sites(backbone.sites, "self", part="text")[-1]
    edit = prefix(site, 2, shift)
    module = backbone.parts["text"].get_submodule(site.name)
    rng = torch.Generator().manual_seed(3)
    x = torch.randn(1, 6, site.width, generator=rng)
    with Attachment(backbone, Fusion(edits=(edit,))) as net, net.under(cond=conditioning()):
        said = module(x, is_causal=True)[0][0]
    torch.testing.assert_close(said, by_hand(module, x, edit, site.heads), rtol=0, atol=1e-5)


def conditioning():  # type: ignore[no-untyped-def]
    """Return a conditioning of one row."""
    from pcs_core.data import Conditioning

    return Conditioning(text=torch.zeros(1, 6, dtype=torch.long), subject=torch.tensor([0]))


def test_each_row_reads_its_subject_s(backbone: Backbone) -> None:
    site = select_sites(backbone.sites, "self", part="text")[-1]
    both = prefix(site, 1, 0.0, subjects=2)
    for subject in (0, 1):
        rows = slice(subject, subject + 1)
        alone = Prefix(site, both.keys[rows].detach(), both.values[rows].detach(), 0.0)
        expected = encoded(backbone, alone)
        said = encoded(backbone, both, subject=subject)
        torch.testing.assert_close(said, expected, rtol=0, atol=1e-6)
    assert not torch.allclose(encoded(backbone, both), encoded(backbone, both, subject=1))


@pytest.mark.parametrize("name", ["tiny", "tiny-sdxl"])
def test_windows_of_a_long_text_read_the_row_s_prefix(name: str) -> None:
    backbone = open_backbone(name)
    site = select_sites(backbone.sites, "self", part="text")[0]
    both = prefix(site, 1, 0.0, subjects=2)
    texts = [f"a {noun} on the beach " * 20 for noun in ("dog", "cat")]
    tokens = tokenise(texts, backbone.tokenizer)
    assert tokens.windows > 1
    with torch.no_grad(), Attachment(backbone, Fusion(edits=(both,))) as net:
        mixed = net.encode_text(tokens, torch.tensor([0, 1])).text
        first = net.encode_text(tokens, torch.tensor([0, 0])).text
        second = net.encode_text(tokens, torch.tensor([1, 1])).text
    torch.testing.assert_close(mixed, torch.stack([first[0], second[1]]), rtol=0, atol=1e-6)
    assert not torch.allclose(first[1], second[1])


def test_the_last_layers_of_each_encoder_that_are_read() -> None:
    sites = select_sites(open_backbone("tiny-sdxl").sites, "self", part="text")
    # of two layers each: the first encoder's last one is read by nobody
    assert [s.name.partition(".")[0] for s in sites] == [
        "text_encoder",
        "text_encoder_2",
        "text_encoder_2",
    ]
    assert [s.block for s in last_layers(sites, 1)] == ["block.0", "block.1"]
    assert last_layers(sites, 3) == list(sites)
