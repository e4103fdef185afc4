"""A text that a frozen network reads the same in every step is read once, however long the fit is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from pcs_core import fit, load_recipe
from pcs_core.backbone import Backbone
from pcs_core.data import FurtherModel
from pcs_engine.captions import KEPT_TEXTS, kept_texts
from pcs_testing import make_subject

ONE_CAPTION = 'tokens.rare.templates=["a {token}"]'


@pytest.mark.parametrize("backbone_of_model", [None, "", "tiny-v"])
def test_steps_ask_about_it_again_and_it_is_read_once(
    backbone: Backbone, backbone_of_model: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pcs_core.data import Use
    from pcs_regularizers.prediction_preservation import PredictionPreservation

    asked = "base" if backbone_of_model is None else "teacher"
    read: list[int] = []
    kind: Any = type(backbone)  # of the model's, too
    real = kind.encode_ids

    def counted(self: Any, ids: torch.Tensor) -> Any:
        read.append(len(ids))
        return real(self, ids)

    monkeypatch.setattr(kind, "encode_ids", counted)

    def fitted(steps: int) -> int:
        recipe = load_recipe(
            "lora-dreambooth", backbone="tiny", overrides=[ONE_CAPTION, f"tune.steps={steps}"]
        )
        use = Use("held", PredictionPreservation(model=asked))
        models = () if backbone_of_model is None else (FurtherModel("teacher", backbone_of_model),)
        recipe = replace(recipe, uses=(*recipe.uses, use), models=models)
        read.clear()
        assert fit(recipe, make_subject(), backbone)
        return len(read)

    assert fitted(1) == fitted(5) > 0


def test_only_the_last_made_are_kept() -> None:
    kept: dict[Any, Any] = {}
    made = []
    for key in (*range(KEPT_TEXTS + 1), 1, 0):
        kept_texts(kept, (key,), lambda key=key: made.append(key))  # type: ignore[misc]
    assert len(kept) == KEPT_TEXTS
    assert made == [*range(KEPT_TEXTS + 1), 0]
