"""StyleAligned's shared attention, written down again from the paper and the authors' sa_handler.py."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pcs_attention.reference_rows import Aligned, Appended, SharedNorm, Shifted
from pcs_core import load_recipe
from pcs_core.data import Conditioning, Site

HEADS, WIDTH, TOKENS, ROWS = 2, 6, 9, 3
"""Row 0 is the reference."""


def state(seed: int = 0) -> Any:
    rng = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(ROWS, TOKENS, HEADS * WIDTH, generator=rng) for _ in range(3))
    return SimpleNamespace(q=q * 2 + 1, k=k * 3 - 1, v=v, bias=None)


def conditioning() -> Conditioning:
    return Conditioning(
        text=torch.zeros(ROWS, 1, 1), extra={"row.reference": torch.zeros(ROWS, dtype=torch.long)}
    )


def split(x: torch.Tensor) -> torch.Tensor:
    return x.unflatten(2, (HEADS, WIDTH)).transpose(1, 2).double()


def by_hand(s: Any, shift: float, align: bool) -> torch.Tensor:
    """Return [b h n d]: attention over own and reference keys, q and k with the reference's statistics."""
    q, k, v = (split(x) for x in (s.q, s.k, s.v))

    def matched(x: torch.Tensor) -> torch.Tensor:
        mean, spread = x.mean(2, keepdim=True), (x.var(2, keepdim=True) + 1e-5).sqrt()
        return (x - mean) / spread * spread[:1] + mean[:1]

    if align:
        q, k = matched(q), matched(k)
    keys, values = (torch.cat([x, x[:1].expand_as(x)], dim=2) for x in (k, v))
    logits = q @ keys.transpose(2, 3) / math.sqrt(WIDTH)
    logits[:, :, :, TOKENS:] += shift
    return torch.softmax(logits, -1) @ values


@pytest.mark.parametrize("shift", [0.0, math.log(2.0)])
@pytest.mark.parametrize("align", [True, False])
def test_shared_attention_with_adain(shift: float, align: bool) -> None:
    site: Any = Site("mid.attn1", "denoiser", "self")
    s, expected = state(), by_hand(state(), shift, align)
    if align:
        s = Aligned(site).qkv(s, conditioning())
    s = Appended(site, False).extra(s, conditioning())
    if shift:
        s = Shifted(site, shift).bias(s, conditioning())
    q, k, v = (split(x) for x in (s.q, s.k, s.v))
    logits = q @ k.transpose(2, 3) / math.sqrt(WIDTH)
    given = torch.softmax(logits if s.bias is None else logits + s.bias, -1) @ v
    # the reference's own keys are not shifted against themselves: it meets the same keys twice
    torch.testing.assert_close(given[1:], expected[1:], rtol=1e-5, atol=1e-5)
    alone = by_hand(state(), 0.0, align)[:1]
    torch.testing.assert_close(given[:1], alone, rtol=1e-5, atol=1e-5)


def test_group_norms_are_taken_with_the_reference_beside() -> None:
    layer = torch.nn.GroupNorm(2, 4)
    torch.nn.init.normal_(layer.weight)
    x = torch.randn(ROWS, 4, 3, 5, generator=torch.Generator().manual_seed(1))
    edit = SharedNorm(Site("norm", "denoiser", "norm"))
    given = edit.call(layer, x, conditioning())
    for row in range(ROWS):
        both = torch.cat([x[row], x[0]], dim=1).double()
        grouped = both.reshape(2, -1)
        mean, var = grouped.mean(1), grouped.var(1, unbiased=False)
        normal = (grouped - mean[:, None]) / (var[:, None] + layer.eps).sqrt()
        expected = normal.reshape(4, 6, 5)[:, :3] * layer.weight.double()[:, None, None]
        torch.testing.assert_close(given[row].double(), expected, rtol=1e-5, atol=1e-5)


def test_numbers_of_the_authors_demo() -> None:
    recipe = load_recipe("style-aligned")
    settings = {u.name: u.technique.settings() for u in recipe.uses}
    assert settings["inversion.ddim"]["scale"] == 2.0
    assert (recipe.sample.steps, recipe.sample.scale) == (50, 10.0)
    assert settings["attention.shared"]["align"]
