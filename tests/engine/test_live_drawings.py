"""A fit that shows pictures on its way is the same fit, and shows what an artifact of that step would draw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from pcs_core import Technique, hookimpl
from pcs_core.backbone import Backbone
from pcs_core.data import FitStep, Loss, Phase, Recipe
from pcs_core.errors import InputError
from pcs_engine import fit, sample
from pcs_testing import make_recipe, make_subject
from pcs_tokens.learnable import LearnableToken
from pcs_weights.lora import LoRA

PROMPT = "a photo of <fido>"


class Rolling(Technique):
    """A loss that reads the generator of the whole process, as a module of another library may."""

    id = "test.rolling"

    @hookimpl
    def regularize(self, step: FitStep) -> Loss:
        error = (step.x0.float() * torch.rand(1)).square().flatten(1).mean(1)
        return Loss("rolling", error, 0.1)


def recipe_of(steps: int) -> Recipe:
    phase = Phase("all", steps, lr={"*": 1e-2})
    return make_recipe([LearnableToken(), LoRA(), Rolling()], phase)


def fitted(backbone: Backbone, steps: int, **options: Any) -> Any:
    torch.manual_seed(0)
    return fit(recipe_of(steps), make_subject(), backbone, **options)[0]


def test_what_is_shown_is_what_an_artifact_of_that_step_draws(backbone: Backbone) -> None:
    shown: dict[int, torch.Tensor] = {}

    def show(done: int, drawings: Mapping[str, Any]) -> None:
        shown[done] = drawings["fido"]([PROMPT], seed=4, negative="a cat")
        torch.rand(5)  # whatever a picture takes from the generator of the process

    whole = fitted(backbone, 4, show=show, show_every=2)
    assert list(shown) == [2]  # the last step's is the result's own
    plain = fitted(backbone, 4)
    assert all(torch.equal(whole.tensors[k], v) for k, v in plain.tensors.items())
    half = sample(fitted(backbone, 2), backbone, PROMPT, seed=4, negative="a cat")
    assert torch.equal(shown[2], half)
    assert not torch.equal(shown[2], sample(whole, backbone, PROMPT, seed=4, negative="a cat"))


def test_each_of_several_subjects(backbone: Backbone) -> None:
    shown: list[torch.Tensor] = []

    def show(done: int, drawings: Mapping[str, Any]) -> None:
        shown.extend(drawings[name](["a <fido>"]) for name in ("one", "two"))

    subjects = [make_subject("one", seed=1), make_subject("two", seed=2)]
    fit(recipe_of(3), subjects, backbone, show=show, show_every=2)
    assert len(shown) == 2
    assert not torch.equal(shown[0], shown[1])


def test_how_often_is_checked(backbone: Backbone) -> None:
    with pytest.raises(InputError, match="show_every"):
        fitted(backbone, 1, show=lambda *_: None)
