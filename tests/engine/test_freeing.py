"""What a training held is gone when it ends, where it was much; Python alone would look for it later."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pcs_core import fit, load_recipe, open_backbone, pretrain
from pcs_core.edits import Edit
from pcs_engine import freeing
from pcs_testing import make_subject
from pcs_testing.whole_run import TwoRecords, fewer_settings


@pytest.fixture
def edits(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[weakref.ref[Any]]]:
    """All edits that are made, while Python looks for no circles by itself."""
    made: list[weakref.ref[Any]] = []
    start = Edit.__init__

    def noted(self: Edit, *arguments: Any, **options: Any) -> None:
        start(self, *arguments, **options)
        made.append(weakref.ref(self))

    monkeypatch.setattr(Edit, "__init__", noted)
    gc.collect()
    gc.disable()
    yield made
    gc.enable()


def trained() -> Any:
    recipe = load_recipe("lora-dreambooth", backbone="tiny", overrides=["tune.steps=1"])
    return fit(recipe, make_subject(), open_backbone("tiny"))


def pre_trained() -> Any:
    less = fewer_settings(load_recipe("ip-adapter", backbone="tiny"))
    model = "encoders.image.model=tiny.image"
    recipe = load_recipe("ip-adapter", backbone="tiny", overrides=[*less, model])
    return pretrain(recipe, TwoRecords(), open_backbone("tiny"))


@pytest.mark.parametrize("training", [trained, pre_trained])
@pytest.mark.parametrize(("much", "stays"), [(1, False), (2**40, True)])
def test_it_is_looked_for_where_it_is_much(
    training: Callable[[], Any],
    much: int,
    stays: bool,
    edits: list[weakref.ref[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(freeing, "MUCH", much)
    result = training()
    assert result
    assert edits
    assert any(ref() is not None for ref in edits) == stays
