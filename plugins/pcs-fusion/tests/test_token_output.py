"""A feature stands at its own concept's words, and nowhere else."""

from __future__ import annotations

import torch

from pcs_core.data import Conditioning
from pcs_fusion.token_output import FusedWords


def edit(start: float = 0.0) -> FusedWords:
    torch.manual_seed(0)
    made = FusedWords("image.feature", 6, 4, 8, "image.words", start)
    torch.nn.init.normal_(made.mlp[2].weight)
    return made


def cond(features: torch.Tensor, strength: float = 1.0) -> Conditioning:
    spans = {"concept.0": torch.tensor([[1, -1]]), "concept.1": torch.tensor([[3, 4]])}
    return Conditioning(
        text=torch.zeros(1, 7),
        streams={"image.feature": features},
        spans=spans,
        extra={"image.words": torch.tensor([strength])},
    )


TEXT = torch.randn(1, 7, 6, generator=torch.Generator().manual_seed(1))
BOTH = torch.randn(1, 2, 4, generator=torch.Generator().manual_seed(2))


def moved(features: torch.Tensor, strength: float = 1.0) -> list[int]:
    out = edit().output(TEXT, torch.tensor([[-1]]), cond(features, strength))
    return [i for i in range(7) if not torch.equal(out[0, i], TEXT[0, i])]


def test_only_the_words_of_the_concepts_change() -> None:
    assert moved(BOTH) == [1, 3, 4]


def test_a_slot_without_a_reference_stays_text() -> None:
    first_only = BOTH * torch.tensor([1.0, 0.0]).view(1, 2, 1)
    assert moved(first_only) == [1]
    assert moved(torch.zeros_like(BOTH)) == []


def test_strength_zero_is_text() -> None:
    assert moved(BOTH, 0.0) == []


def test_it_starts_at_nothing() -> None:
    fresh = FusedWords("image.feature", 6, 4, 8, "image.words", 0.0)
    assert torch.equal(fresh.output(TEXT, torch.tensor([[-1]]), cond(BOTH)), TEXT)
