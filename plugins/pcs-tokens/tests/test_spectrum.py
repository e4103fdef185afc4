"""ProSpect's network is a transformer block on one token, of which queries and keys have no part."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from pcs_tokens.spectrum import SpectrumRows

WIDTH, STAGES, HEADS, EACH = 12, 5, 2, 4


def rows(dropout: float = 0.0) -> SpectrumRows:
    rngs = [torch.Generator().manual_seed(s) for s in range(2)]
    words = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(7))
    names = {"tokens": ["<a>", "<b>"], "nouns": ["dog", "cat"]}
    made = SpectrumRows(words, rngs, stages=STAGES, inner=HEADS * EACH, dropout=dropout, **names)
    for norm in (made.norm, made.last_norm):
        nn.init.normal_(norm.scale, 1.0, 0.3)
        nn.init.normal_(norm.shift, 0.0, 0.3)
    return made


def attention(
    x: torch.Tensor, context: torch.Tensor, made: nn.Module, subject: int
) -> torch.Tensor:
    """Return the released attention of one token to one token, with queries and keys of any size."""
    split = [
        part.reshape(1, HEADS, EACH).transpose(0, 1)
        for part in (
            x @ torch.randn(WIDTH, HEADS * EACH),
            context @ torch.randn(WIDTH, HEADS * EACH),
            context @ made.value[subject].T,  # type: ignore[index]
        )
    ]
    said = F.scaled_dot_product_attention(*split).transpose(0, 1).reshape(1, -1)
    return said @ made.out.weight[subject].T + made.out.bias[subject]  # type: ignore[union-attr,index]


def test_the_network_is_the_released_block() -> None:
    made = rows()
    with torch.no_grad():
        for s in range(2):
            word = made.word[s : s + 1]
            norm = F.layer_norm(word, (WIDTH,), made.norm.scale[s], made.norm.shift[s])
            x = attention(norm, norm, made.first, s) + word
            x = attention(x, word, made.second, s) + x
            x = F.layer_norm(x, (WIDTH,), made.last_norm.scale[s], made.last_norm.shift[s])
            wide = x @ made.wide.weight[s].T + made.wide.bias[s]
            value, gate = wide.chunk(2, dim=-1)
            expected = (value * F.gelu(gate)) @ made.head.weight[s].T + made.head.bias[s]
            actual = made.spectrum(torch.tensor([0.3]), torch.tensor([s]))
            torch.testing.assert_close(actual.reshape(1, -1), expected, rtol=0, atol=1e-5)


def test_a_noise_level_reads_the_word_of_its_stretch() -> None:
    """As `int(t * stages / 1000)` chooses: 0 is nearest to the picture. All layers read the same."""
    made = rows().eval()
    times = torch.tensor([0.0, 0.19, 0.2, 0.99, 1.0])
    subject = torch.zeros(5, dtype=torch.long)
    with torch.no_grad():
        every = made.spectrum(times[:1], subject[:1])[0]
        read = made.layer(times, 3, subject)
    assert read.shape == (5, 3, 1, WIDTH)
    for row, stage in zip(read, (0, 0, 1, 4, 4), strict=True):
        torch.testing.assert_close(row, every[stage].expand(3, 1, -1), rtol=0, atol=1e-6)


def test_dropout_follows_from_the_noise_level_and_is_off_when_drawing() -> None:
    made = rows(dropout=0.5)
    time, subject = torch.tensor([0.31, 0.77]), torch.zeros(2, dtype=torch.long)
    with torch.no_grad():
        first, again = (made.train().spectrum(time, subject) for _ in range(2))
        drawn = made.eval().spectrum(time, subject)
    assert torch.equal(first, again)
    assert not torch.equal(first[0], first[1])
    torch.testing.assert_close(drawn[0], drawn[1])


def test_dropout_leaves_out_its_share_and_keeps_the_mean() -> None:
    """What is kept is divided by the share that is kept; rows, units and places differ."""
    made = rows(dropout=0.25).train()
    x, time = torch.ones(2, 1, 40_000), torch.tensor([0.31, 0.77])
    parts = [made._drop(x, time, place) for place in (0, 1, 2)]
    for part in parts:
        left = part == 0
        assert abs(float(left.float().mean()) - 0.25) < 0.02
        torch.testing.assert_close(part[~left], torch.full_like(part[~left], 1 / 0.75))
        assert abs(float((left[0] & left[1]).float().mean()) - 0.25**2) < 0.02
    both = (parts[0] == 0) & (parts[1] == 0)
    assert abs(float(both.float().mean()) - 0.25**2) < 0.02
