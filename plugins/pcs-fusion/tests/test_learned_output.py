"""Learned rows stand behind the words of prompts that name the subject, and in no other prompt."""

from __future__ import annotations

import pytest
import torch

from pcs_core.data import Conditioning
from pcs_fusion.learned_output import SCALE, LearnedOutput, Residual, Tail

TEXT = torch.randn(2, 7, 6, generator=torch.Generator().manual_seed(1))
ROWS = torch.randn(1, 2, 6, generator=torch.Generator().manual_seed(2))


def changed(
    kind: type[LearnedOutput], rows: torch.Tensor, scale: float, training: bool
) -> torch.Tensor:
    """Return what two prompts say, of which the first alone names the subject, at place 2."""
    edit = kind(rows, ["<thing>"], ["dog"]).train(training)
    cond = Conditioning(
        text=torch.zeros(2, 7),
        spans={"concept.0": torch.tensor([[2, -1], [-1, -1]])},
        extra={SCALE: torch.full((2,), scale)},
    )
    with torch.no_grad():
        return edit.output(TEXT, torch.full((2, 1), -1), cond)


@pytest.mark.parametrize(("training", "factor"), [(True, 1.0), (False, 0.8)])
def test_a_tail_is_learned_whole_and_drawn_weaker(training: bool, factor: float) -> None:
    """HiPer's ``train.py`` reads the rows as they are, ``inference.py`` 0.8 of them."""
    said = changed(Tail, ROWS, 0.8, training)
    assert torch.equal(said[0, :5], TEXT[0, :5])
    torch.testing.assert_close(said[0, 5:], factor * ROWS[0], rtol=0, atol=1e-7)


@pytest.mark.parametrize("kind", [Tail, Residual])
def test_a_prompt_without_the_subject_stays(kind: type[LearnedOutput]) -> None:
    """Guidance is set against the empty prompt as the network knows it."""
    said = changed(kind, ROWS[:, :1], 1.0, False)
    assert torch.equal(said[1], TEXT[1])
    assert not torch.equal(said[0], TEXT[0])


def test_a_residual_is_added_at_the_subjects_words_alone() -> None:
    moved = changed(Residual, ROWS[:, :1], 0.5, False)[0] - TEXT[0]
    assert moved.abs().sum(-1).nonzero().flatten().tolist() == [2]
    torch.testing.assert_close(moved[2], 0.5 * ROWS[0, 0], rtol=0, atol=1e-6)
