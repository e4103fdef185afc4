"""What chooses among a fit's checkpoints says so of each subject, or the fit says what it was given instead."""

from __future__ import annotations

from typing import Any

import pytest

from pcs_core import fit, load_recipe, open_backbone
from pcs_core.errors import InputError
from pcs_testing import make_subject


@pytest.mark.parametrize("answer", [None, 1, (), [True, False], "no"])
def test_an_answer_that_is_none_for_each_is_refused(answer: Any) -> None:
    recipe = load_recipe("textual-inversion", backbone="tiny", overrides=["token.steps=1"])
    with pytest.raises(
        InputError, match=r"keep: it returned .*True or False for each of the 1 sub"
    ):
        fit(recipe, make_subject(), open_backbone("tiny"), keep=lambda _: answer)


@pytest.mark.parametrize("answer", [[True], (0,)])
def test_any_sequence_of_truths_is_read(answer: Any) -> None:
    recipe = load_recipe("textual-inversion", backbone="tiny", overrides=["token.steps=1"])
    assert fit(recipe, make_subject(), open_backbone("tiny"), keep=lambda _: answer)
