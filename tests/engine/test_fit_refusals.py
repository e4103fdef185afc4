"""What a fit and a drawing refuse, before they leave anything behind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from pcs_core import merge_personalizations
from pcs_core.backbone import Backbone
from pcs_core.catalogue import catalogue
from pcs_core.data import Phase
from pcs_core.errors import (
    ArtifactError,
    CapabilityError,
    InputError,
    PcsError,
    RecipeError,
    UnknownNameError,
)
from pcs_core.hookspecs import hookimpl
from pcs_core.technique import Technique
from pcs_engine import fit, sample
from pcs_testing import Snapshot, make_recipe, make_subject
from pcs_testing.probe import Probe


def recipe_of(**phase: Any) -> Any:
    return make_recipe([Probe()], Phase(**{"name": "p", "steps": 1, **phase}))


@pytest.mark.parametrize(
    ("phase", "error", "words"),
    [
        (
            {"train": ("nothing/*",)},
            RecipeError,
            ["'p' trains nothing", "nothing/*", "testing.probe"],
        ),
        ({"lr": {"other/*": 1.0}}, RecipeError, ["no learning rate matches", "testing.probe/"]),
        ({"losses": ("nothing",)}, RecipeError, ["no loss matches nothing"]),
        ({"batch": {"prior": 1}}, RecipeError, ["role 'prior'", "subject"]),
        ({"optimizer": "adamm"}, UnknownNameError, ["'adamm', did you mean", "adam"]),
    ],
)
def test_phases_that_cannot_run(
    backbone: Backbone, phase: dict[str, Any], error: type[PcsError], words: list[str]
) -> None:
    before = Snapshot(backbone)
    with pytest.raises(error) as caught:
        fit(recipe_of(**phase), make_subject(), backbone)
    assert all(w in str(caught.value) for w in words), str(caught.value)
    before.assert_unchanged()


def test_a_loss_that_does_not_depend_on_what_trains(backbone: Backbone) -> None:
    rare = catalogue().get("techniques", "tokens.learnable")()
    recipe = make_recipe([rare, Probe()], Phase("p", 1, train=("tokens.learnable/*",)))
    subject = make_subject(captions=["a <fido>", "a <fido>"])
    fit(recipe, subject, backbone)

    class Fixed(Technique):
        id = "test.fixed"

        @hookimpl(wrapper=True)
        def regularize(self) -> Any:
            return [replace(loss, value=loss.value.detach()) for loss in (yield)]

    with pytest.raises(RecipeError, match="none of its losses depends on what it trains"):
        fit(make_recipe([Fixed(), Probe()], Phase("p", 1)), subject, backbone)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": ()}, ["no image"]),
        ({"token": "dog"}, ["'dog'", "noun"]),
        ({"token": "og"}, ["'og'", "part of the noun 'dog'", "'<og>'"]),
        ({"token": "car"}, ["'car'", "already knows", "'<car>'"]),
    ],
)
def test_subjects_that_cannot_be_learned(
    backbone: Backbone, change: dict[str, Any], words: list[str]
) -> None:
    subject = make_subject()
    if "token" in change:
        subject = replace(subject, concepts=(replace(subject.concept, **change),))
    else:
        subject = replace(subject, **change)
    with pytest.raises(InputError) as caught:
        fit(recipe_of(), subject, backbone)
    assert all(w in str(caught.value) for w in words), str(caught.value)


def test_two_subjects_of_one_name(backbone: Backbone) -> None:
    with pytest.raises(InputError, match="two subjects are called 'fido'"):
        fit(recipe_of(), [make_subject(), make_subject()], backbone)
    with pytest.raises(InputError, match="at least one"):
        fit(recipe_of(), [], backbone)


def test_prompts_that_do_not_name_the_subject(backbone: Backbone) -> None:
    (artifact,) = fit(recipe_of(), make_subject(), backbone)
    with pytest.raises(InputError, match=r"'a dog' does not name the subject: write <fido>"):
        sample(artifact, backbone, ["a <fido>", "a dog"])
    inside = replace(artifact, concepts=(replace(artifact.concepts[0], token="xq"),))
    with pytest.raises(InputError, match=r"'a dogxq' does not name the subject: write xq"):
        sample(inside, backbone, "a dogxq")
    for empty in ([], "", " "):
        with pytest.raises(InputError, match="prompt"):
            sample(artifact, backbone, empty)
    assert sample(None, backbone, "a dog", steps=1).shape == (1, 3, 32, 32)


def test_another_backbone_is_refused(backbone: Backbone) -> None:
    (artifact,) = fit(recipe_of(), make_subject(), backbone)
    changed = replace(artifact, backbone=replace(artifact.backbone, hash="0" * 64))
    with pytest.raises(ArtifactError, match=r"made on backbone 'tiny'.*'tiny' has other weights"):
        sample(changed, backbone, "a <fido>")


def test_tensors_that_do_not_fit_the_recipe_are_named(backbone: Backbone) -> None:
    (artifact,) = fit(recipe_of(), make_subject(), backbone)
    name, tensor = next(iter(artifact.tensors.items()))
    rest = {k: v for k, v in artifact.tensors.items() if k != name}
    cases = {
        "lacks": rest,
        "does not build": {**artifact.tensors, "stray/x": tensor},
        "has shape": {**rest, name: torch.zeros(3)},
    }
    before = Snapshot(backbone)
    for words, tensors in cases.items():
        with pytest.raises(ArtifactError, match=words):
            sample(replace(artifact, tensors=tensors), backbone, "a <fido>")
    before.assert_unchanged()


def test_merging_needs_two_with_tokens_of_their_own(backbone: Backbone) -> None:
    (artifact,) = fit(recipe_of(), make_subject(), backbone)
    with pytest.raises(InputError, match="at least two"):
        merge_personalizations([artifact], backbone)
    with pytest.raises(InputError, match="share the token '<fido>'"):
        merge_personalizations([artifact, artifact], backbone)


@pytest.mark.parametrize("moment", ["render", "step"])
def test_masks_at_a_moment_that_does_not_come(backbone: Backbone, moment: str) -> None:
    class Late(Technique):
        id = "test.late"
        mask_moments = ("batch", moment)

        @hookimpl
        def mask(self) -> None: ...

    recipe = make_recipe({"mine": Late(), "probe": Probe()}, Phase("p", 1))
    with pytest.raises(CapabilityError, match=f"'mine' .*'{moment}'"):
        fit(recipe, make_subject(), backbone)


def test_a_scheduler_that_nobody_knows_before_the_first_step(backbone: Backbone) -> None:
    recipe = replace(recipe_of(), sample=replace(recipe_of().sample, scheduler="dpmpp_9m_karas"))
    steps: list[object] = []
    with pytest.raises(UnknownNameError, match=r"sample.scheduler: unknown scheduler 'dpmpp_9m"):
        fit(recipe, make_subject(), backbone, watch=(steps.append,))
    assert not steps
