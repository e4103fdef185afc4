"""What a plugin gets wrong is said with its name: use, technique, hook, and what would be right."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
import torch

from pcs_core import Technique, fit, hookimpl, open_backbone, sample
from pcs_core.data import Features, Fusion, LayerEdit, Loss, MaskQuery, Masks, Phase
from pcs_core.errors import ConflictError, PluginError
from pcs_testing import make_recipe, make_subject
from pcs_testing.probe import Probe


def run(*uses: Technique, steps: int = 1) -> Any:
    phase = Phase("warm", steps, batch={"subject": 2}, lr={"*": 1e-3})
    return fit(make_recipe([*uses, Probe()], phase), make_subject(), open_backbone("tiny"))[0]


def loss_of(value: Any, rows: Any = None) -> type[Technique]:
    class Wrong(Technique):
        id = "test.wrong"

        @hookimpl
        def regularize(self, step: Any) -> Any:
            return value(step) if rows is None else Loss("far", value(step).value, rows=rows)

    return Wrong


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda s: Loss("far", s.error.mean()), r"loss 'far' is a scalar.*shape \[2\]"),
        (lambda s: Loss("far", s.error), r"loss 'far' has shape \[2, 4, 16, 16\].*shape \[2\]"),
        (lambda s: Loss("far", s.error.flatten(1).mean(1)[:1]), r"loss 'far' has shape \[1\]"),
        (lambda s: Loss("far", 0.5), r"value of its loss 'far' is a float"),
        (lambda s: s.error.mean(), r"returned a tensor of shape \[\]: return Loss\("),
        (lambda s: [s.error.mean()], r"returned a tensor of shape \[\]"),
        (
            lambda s: Loss("far", s.error.flatten(1).mean(1) / 0),
            r"'far' is inf at the first step of phase 'warm'",
        ),
        (
            lambda s: Loss("far", s.error.flatten(1).mean(1), rows=torch.ones(3)),
            r"rows of its loss 'far' have shape \[3\]",
        ),
    ],
)
def test_a_wrong_loss_is_refused_by_name(value: Any, message: str) -> None:
    with pytest.raises(PluginError, match=message) as caught:
        run(loss_of(value)())
    assert "the use 'test.wrong' (technique 'test.wrong')" in str(caught.value)
    assert "hook `regularize`" in str(caught.value)


def test_a_right_loss_passes() -> None:
    made = run(loss_of(lambda s: [Loss("far", s.error.flatten(1).mean(1))])())
    assert set(made.losses) == {"core.denoise", "far"}


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(2, 32, 32), r"'fido' has shape \[2, 32, 32\]: give \[2 1 h w\]"),
        (torch.ones(1, 1, 32, 32), r"one for each picture"),
        (torch.ones(2, 1, 32, 32) * 255, r"values up to 255.*divide a picture of bytes by 255"),
        (-torch.ones(2, 1, 32, 32), "negative or not finite"),
    ],
)
def test_a_wrong_mask_is_refused_by_name(mask: Any, message: str) -> None:
    class Wrong(Technique):
        id = "test.wrong"

        @hookimpl
        def mask(self, query: MaskQuery) -> Masks:
            return Masks({"fido": mask})

    with pytest.raises(PluginError, match=message):
        run(Wrong())


def test_a_batch_mask_of_the_size_of_pictures_is_refused() -> None:
    class Wrong(Technique):
        id = "test.wrong"
        mask_moments = ("batch",)

        @hookimpl
        def mask(self, query: MaskQuery) -> Masks:
            return Masks({"loss": torch.ones(2, 1, 32, 32)})

    with pytest.raises(PluginError, match=r"give the size of the latents, query.size \(16, 16\)"):
        run(Wrong())


class Fragile(Technique):
    id = "test.fragile"

    hook: str = "fuse"
    """Which hook fails."""

    @hookimpl
    def mask(self) -> None:
        self._fail("mask")

    @hookimpl
    def extract(self) -> None:
        self._fail("extract")

    @hookimpl
    def fuse(self) -> None:
        self._fail("fuse")

    @hookimpl
    def regularize(self) -> None:
        self._fail("regularize")

    @hookimpl(wrapper=True)
    def sample(self) -> Generator[None, Any, Any]:
        self._fail("sample")
        return (yield)

    def _fail(self, hook: str) -> None:
        if self.hook == hook:
            raise ZeroDivisionError("of a plugin")


@pytest.mark.parametrize("hook", ["mask", "extract", "fuse", "regularize", "sample"])
def test_an_exception_in_a_hook_names_the_plugin(hook: str) -> None:
    def fit_and_draw() -> None:
        made = run(Fragile(hook=hook))
        sample(made, open_backbone("tiny"), "a photo of <fido>", steps=1)

    with pytest.raises(PluginError) as caught:
        fit_and_draw()
    for part in (
        "test_hook_results",
        "'test.fragile'",
        f"`{hook}`",
        "ZeroDivisionError: of a plugin",
    ):
        assert part in str(caught.value)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_an_installed_plugin_is_named_by_its_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    from pcs_core.catalogue import catalogue

    kind = catalogue().get("techniques", "masks.given")
    monkeypatch.setattr("pcs_masks.given.cover", lambda *_: 1 / 0)
    subject = make_subject()
    left = torch.ones(1, 32, 32)
    object.__setattr__(subject, "masks", {"fido": (left, left)})
    with pytest.raises(PluginError, match=r"^pcs-masks: the use 'masks.given' \(technique"):
        fit(make_recipe([kind()]), subject, open_backbone("tiny"))


class Breaking(LayerEdit):
    def after(self, y: Any, cond: Any) -> Any:
        return y @ torch.zeros(3, 3)


class Layered(Technique):
    id = "test.layered"

    @hookimpl
    def fuse(self, run: Any) -> Fusion:
        return Fusion(edits=(Breaking(run.sites("*", "resnet")[0]),))


def test_an_exception_in_an_edit_names_use_site_and_stage() -> None:
    with pytest.raises(
        PluginError, match=r"edit of the use 'test.layered' \(Breaking at .*`after`"
    ):
        run(Layered())


class Forgetful(Technique):
    id = "test.forgetful"

    @hookimpl(wrapper=True)
    def sample(self) -> Generator[None, Any, None]:
        yield


def test_a_wrapper_that_returns_nothing_is_named() -> None:
    with pytest.raises(PluginError, match=r"'test.forgetful'.*wrapper returned None: return Pred"):
        sample(run(Forgetful()), open_backbone("tiny"), "a photo of <fido>", steps=1)


def test_a_feature_that_is_kept_and_not_given_is_refused() -> None:
    class Keeper(Technique):
        id = "test.keeper"

        @hookimpl
        def extract(self, moment: str) -> Features:
            return Features(tensors={"face": torch.ones(1)}, keep=("fcae",))

    with pytest.raises(PluginError, match=r"keeps the feature 'fcae', which it does not give"):
        run(Keeper())


class Asking(Technique):
    """Reads the masks, so that `mask` is asked while `regularize` is being called."""

    id = "test.asking"

    @hookimpl
    def mask(self, query: MaskQuery) -> None: ...

    @hookimpl
    def regularize(self, step: Any) -> Loss:
        assert step.masks is not None
        return Loss("same", step.error.flatten(1).mean(1))


def test_a_conflict_of_losses_names_both_uses_though_masks_were_asked_between() -> None:
    recipe = make_recipe(
        {
            "one": loss_of(lambda s: Loss("same", s.error.flatten(1).mean(1)))(),
            "two": Asking(),
            "probe": Probe(),
        },
        Phase("p", 1),
    )
    with pytest.raises(ConflictError, match="'one' and 'two'"):
        fit(recipe, make_subject(), open_backbone("tiny"))
