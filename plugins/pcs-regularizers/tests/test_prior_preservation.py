"""Class pictures of the frozen base, and their weighted term."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pcs_core import Technique, fit, hookimpl, sample
from pcs_core.backbone import Backbone
from pcs_core.data import Concept, Phase, SampleSettings
from pcs_core.errors import RecipeError
from pcs_engine.prepare import extract
from pcs_engine.run import EngineRun
from pcs_regularizers.prior_preservation import PriorPreservation
from pcs_testing import make_recipe, make_subject
from pcs_testing.probe import Probe

STEPS: list[Any] = []


class Spy(Technique):
    id = "test.spy"

    @hookimpl
    def regularize(self, step: Any) -> None:
        STEPS.append(step)


@pytest.fixture(autouse=True)
def _clean() -> None:
    STEPS.clear()


def run(
    backbone: Backbone, *, steps: int = 1, batch: dict[str, int] | None = None, **settings: Any
) -> Any:
    few = {"count": 3, "steps": 2, "scale": 2.0, **settings}
    phase = Phase("p", steps, batch=batch or {"subject": 2, "prior": 3}, lr={"*": 0.1})
    uses = [Spy(), PriorPreservation(**few), Probe()]
    return make_recipe(uses, phase)


def test_the_term_is_the_mean_error_of_the_class_rows(backbone: Backbone) -> None:
    (artifact,) = fit(run(backbone, weight=0.25), make_subject(), backbone)
    (step,) = STEPS
    assert step.batch.roles == ("subject",) * 2 + ("prior",) * 3
    error = step.error.detach().mean(dim=(1, 2, 3))
    assert artifact.losses["prior"] == pytest.approx(0.25 * error[2:].mean().item(), rel=1e-5)
    assert artifact.losses["core.denoise"] == pytest.approx(error[:2].mean().item(), rel=1e-5)


def test_captions_of_class_pictures_do_not_name_the_subject(backbone: Backbone) -> None:
    fit(run(backbone, steps=3, prompt="a drawing of a {noun}"), make_subject(), backbone)
    for step in STEPS:
        for role, caption in zip(step.batch.roles, step.batch.captions, strict=True):
            assert ("<fido>" in caption) == (role == "subject")
            assert (caption == "a drawing of a dog") == (role == "prior")


def test_other_braces_in_the_prompt_are_text(backbone: Backbone) -> None:
    fit(run(backbone, prompt="a {x} of a {noun} {"), make_subject(), backbone)
    (step,) = STEPS
    assert step.batch.captions[-1] == "a {x} of a dog {"


def test_class_pictures_are_drawn_by_the_frozen_base(backbone: Backbone, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    fit(run(backbone), make_subject(), backbone, work=tmp_path, seed=4)
    (file,) = (p for p in tmp_path.iterdir() if "class-images" in p.name)
    ours = next(iter(load_file(file).values()))
    plain = sample(
        None, backbone, "a photo of a dog", count=3, seed=4, steps=2, scale=2.0, scheduler="ddim"
    )
    assert torch.equal(ours, plain)


def test_fits_that_share_a_memory_draw_once_what_is_the_same(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    draw = EngineRun.draw

    def counted(self: Any, prompts: Any, **settings: Any) -> Any:
        drawn.append(len(prompts))
        return draw(self, prompts, **settings)

    monkeypatch.setattr(EngineRun, "draw", counted)
    memory: dict[str, Any] = {}
    for _ in range(2):
        fit(run(backbone), make_subject(), backbone, memory=memory)
    assert drawn == [3]
    # without a number of its own it draws as its recipe does, and recipes differ
    for steps in (2, 3, 2):
        recipe = replace(run(backbone, steps=1), sample=SampleSettings(steps=steps))
        uses = tuple(
            replace(u, technique=PriorPreservation(count=2))
            if isinstance(u.technique, PriorPreservation)
            else u
            for u in recipe.uses
        )
        fit(replace(recipe, uses=uses), make_subject(), backbone, memory=memory)
    assert drawn == [3, 2, 2]


def test_the_weight_pulls_the_training(backbone: Backbone) -> None:
    results = [
        fit(run(backbone, steps=3, weight=w), make_subject(), backbone)[0].tensors
        for w in (0.0, 1.0)
    ]
    assert any(not torch.equal(t, results[1][n]) for n, t in results[0].items())
    # weight 0 with class rows in the batch trains as if they were not there
    alone = make_recipe([Probe()], Phase("p", 1, batch={"subject": 2}, lr={"*": 0.1}))
    first = fit(run(backbone, weight=0.0), make_subject(), backbone)[0].tensors
    for name, tensor in fit(alone, make_subject(), backbone)[0].tensors.items():
        torch.testing.assert_close(first[name], tensor, rtol=1e-4, atol=1e-5)


def test_without_it_the_role_is_unknown(backbone: Backbone) -> None:
    recipe = make_recipe([Probe()], Phase("p", 1, batch={"subject": 1, "prior": 1}))
    with pytest.raises(RecipeError, match="role 'prior', but no technique"):
        fit(recipe, make_subject(), backbone)


def test_two_classes_get_pictures_of_their_own(backbone: Backbone) -> None:
    subjects = [
        make_subject("a", token="<a>", noun="dog"),
        make_subject("b", token="<b>", noun="car"),
    ]
    fit(run(backbone, batch={"subject": 1, "prior": 1}), subjects, backbone)
    (step,) = STEPS
    named = zip(step.batch.subject.tolist(), step.batch.roles, step.batch.captions, strict=True)
    prior = {s: c for s, r, c in named if r == "prior"}
    assert prior == {0: "a photo of a dog", 1: "a photo of a car"}


def test_two_concepts_of_one_subject_get_both_classes(backbone: Backbone) -> None:
    from dataclasses import replace

    from pcs_core.data import Concept

    subject = make_subject()
    subject = replace(subject, concepts=(*subject.concepts, Concept("toy", "<toy>", "toy")))
    fit(run(backbone, steps=6), subject, backbone)
    captions = {
        caption
        for step in STEPS
        for caption, role in zip(step.batch.captions, step.batch.roles, strict=True)
        if role == "prior"
    }
    assert captions == {"a photo of a dog", "a photo of a toy"}


def test_a_prompt_of_no_class_is_drawn_once_for_all_concepts(backbone: Backbone) -> None:
    """Break-A-Scene's 100 pictures of one generic prompt; with ``{noun}`` each class has its own."""
    subject = make_subject()
    subject = replace(subject, concepts=(*subject.concepts, Concept("ball", "<ball>", "toy")))
    for prompt, captions in (
        ("a photo at the beach", ["a photo at the beach"] * 3),
        ("a photo of a {noun}", ["a photo of a dog"] * 3 + ["a photo of a toy"] * 3),
    ):
        (features,) = extract(
            EngineRun(run(backbone, prompt=prompt), backbone, concepts=[subject.concepts]),
            [subject],
        )[1]
        assert [e.captions[0] for e in features.examples if e.role == "prior"] == captions
