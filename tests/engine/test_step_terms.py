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
        prediction = yield
        evaluated = step.evaluate(step.latents, step.level, step.branch(Branch())).x0
        SEEN.append((step.acting, torch.allclose(prediction.x0, evaluated, atol=1e-5)))
        return prediction


class Late(LayerEdit):
    def after(self, y: Any, cond: Any) -> Any:
        return y


class Windowed(Technique):
    """An edit of the second half."""

    id = "test.windowed"

    @hookimpl
    def fuse(self, run: Any) -> Fusion:
        return Fusion(edits=(Late(run.sites("*", "resnet")[0], start=0.5),))


def test_without_terms_the_positive_branch_is_the_prediction() -> None:
    backbone: Any = open_backbone("tiny")
    SEEN.clear()
    (artifact,) = fit(make_recipe([Bare(), Windowed()]), make_subject(), backbone)
    rows: list[int] = []
    original = backbone.denoise
    backbone.denoise = lambda latents, *a, **k: (
        rows.append(len(latents)) or original(latents, *a, **k)
    )
    try:
        sample(artifact, backbone, "a photo of <fido>", count=2, steps=4, scale=3.0)
    finally:
        del backbone.denoise
    # the guided prediction, then the look of the wrapper itself
    assert rows == [4, 2, 2, 2, 2, 2, 2, 2]
    assert SEEN == [((False,), False), ((False,), True), ((True,), True), ((True,), True)]


class Reader(Technique):
    """Reads the positive prediction before or after the guided one."""

    id = "test.reader"

    before: bool = False
    """Whether it is read before the yield."""

    @hookimpl(wrapper=True)
    def sample(self, step: Any) -> Generator[None, Any, Any]:
        early = step.positive if self.before else None
        prediction = yield
        READ.append(step.positive if early is None else early)
        assert step.positive is READ[-1]
        return prediction


READ: list[Any] = []


def rows_of(backbone: Any, recipe: Any, **options: Any) -> tuple[list[int], Any]:
    """Draw, and return how many rows each call of the network had."""
    (artifact,) = fit(recipe, make_subject(), backbone)
    rows: list[int] = []
    original = backbone.denoise
    backbone.denoise = lambda latents, *a, **k: (
        rows.append(len(latents)) or original(latents, *a, **k)
    )
    try:
        return rows, sample(artifact, backbone, "a photo of <fido>", steps=2, **options)
    finally:
        del backbone.denoise


def test_the_positive_prediction_is_computed_once() -> None:
    backbone: Any = open_backbone("tiny")
    rows, plain = rows_of(backbone, make_recipe([Windowed()]), scale=3.0)
    assert rows == [2, 2]
    READ.clear()
    rows, after = rows_of(backbone, make_recipe([Windowed(), Reader()]), scale=3.0)
    assert rows == [2, 2], "reading it after the guided prediction costs nothing"
    assert torch.equal(plain, after)
    rows, before = rows_of(backbone, make_recipe([Windowed(), Reader(before=True)]), scale=3.0)
    assert rows == [1, 1, 1, 1], "read before, the guided prediction needs the other branch alone"
    torch.testing.assert_close(before, plain, rtol=0, atol=1e-4)
    alone = rows_of(backbone, make_recipe([Windowed(), Reader()]), scale=1.0)[0]
    assert alone == [1, 1]
    torch.testing.assert_close(READ[0], READ[2], rtol=0, atol=1e-4)


def test_a_moved_latent_is_predicted_anew() -> None:
    class Mover(Technique):
        id = "test.mover"

        @hookimpl(wrapper=True)
        def sample(self, step: Any) -> Generator[None, Any, Any]:
            first = step.positive
            step.latents = step.latents * 0.9
            assert not torch.equal(first, step.positive)
            return (yield)

    backbone: Any = open_backbone("tiny")
    assert rows_of(backbone, make_recipe([Mover()]), scale=1.0)[0] == [1, 1, 1, 1]
