"""What a wrapper does to a step's guidance terms decides which branches are evaluated."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import torch

from pcs_core import Technique, fit, hookimpl, open_backbone, sample
from pcs_core.data import Branch, Fusion, LayerEdit
from pcs_testing import make_recipe, make_subject

SEEN: list[Any] = []


class Bare(Technique):
    """Drops every guidance term from the second step on."""

    id = "test.bare"

    @hookimpl(wrapper=True)
    def sample(self, step: Any) -> Generator[None, Any, Any]:
        if step.index:
            step.terms = ()
        found = yield
        own = step.evaluate(step.latents, step.level, step.branch(Branch())).x0
        SEEN.append((step.acting, torch.allclose(found.x0, own, atol=1e-5)))
        return found


class Late(LayerEdit):
    def after(self, y: Any, cond: Any) -> Any:
        return y


class Windowed(Technique):
    """An edit of the second half."""

    id = "test.windowed"

    @hookimpl
    def fuse(self, run: Any) -> Fusion:
        return Fusion(layers=(Late(run.sites("*", "resnet")[0], start=0.5),))


def test_without_terms_the_positive_branch_is_the_prediction() -> None:
    backbone: Any = open_backbone("tiny")
    SEEN.clear()
    (person,) = fit(make_recipe([Bare(), Windowed()]), make_subject(), backbone)
    rows: list[int] = []
    original = backbone.denoise
    backbone.denoise = lambda latents, *a, **k: (
        rows.append(len(latents)) or original(latents, *a, **k)
    )
    try:
        sample(person, backbone, "a photo of <fido>", count=2, steps=4, scale=3.0)
    finally:
        del backbone.denoise
    # the guided prediction, then the look of the wrapper itself
    assert rows == [4, 2, 2, 2, 2, 2, 2, 2]
    assert SEEN == [((False,), False), ((False,), True), ((True,), True), ((True,), True)]
