"""A batch with a few zeros too many is refused before anything is allocated."""

from __future__ import annotations

import tracemalloc

import pytest

from pcs_core import fit, load_recipe, open_backbone
from pcs_core.errors import InputError
from pcs_engine import memory_bounds
from pcs_testing import make_subject


def test_a_batch_beyond_the_machine_is_refused_at_once() -> None:
    overrides = ["token.steps=1", "token.batch=1000000000"]
    recipe = load_recipe("textual-inversion", backbone="tiny", overrides=overrides)
    backbone = open_backbone("tiny")
    tracemalloc.start()
    with pytest.raises(
        InputError, match=r"token\.batch: 1000000000 rows of 32 x 32 take .* GB alone"
    ):
        fit(recipe, make_subject(), backbone)
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()


def test_rows_of_all_subjects_count(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = open_backbone("tiny")
    recipe = load_recipe("textual-inversion", backbone="tiny", overrides=["token.batch=10"])
    one = 4 * (3 * 32 * 32 + 4 * backbone.latent_shape[1] * backbone.latent_shape[2])
    monkeypatch.setattr(memory_bounds, "machine_memory", lambda: 20 * one)
    memory_bounds.check_rows(recipe, backbone, 2)
    with pytest.raises(InputError, match="30 rows"):
        memory_bounds.check_rows(recipe, backbone, 3)
    monkeypatch.setattr(memory_bounds, "machine_memory", lambda: None)
    memory_bounds.check_rows(recipe, backbone, 10**9)
