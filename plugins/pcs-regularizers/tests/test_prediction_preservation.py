"""The distance to a frozen network: its value, where it counts, what the reference reads, and what it does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pcs_core import Technique, fit, hookimpl, load_recipe, save
from pcs_core.backbone import Backbone
from pcs_core.data import FurtherModel, Personalization, Phase, Subject
from pcs_core.errors import RecipeError
from pcs_regularizers.prediction_preservation import PredictionPreservation
from pcs_testing import make_recipe, make_subject
from pcs_tokens.learnable import LearnableToken
from pcs_weights.lora import LoRA


class Seen(Technique):
    """Keeps the terms of every step, and what it asks itself."""

    id = "test.seen"
    kept: Any = None
    prompt: str = ""
    """What it has the base read, with the noun behind it; without it the captions."""

    @hookimpl(wrapper=True)
    def regularize(self, run: Any, step: Any) -> Any:
        results = yield
        texts = []
        for caption, subject in zip(step.batch.captions, step.batch.subject.tolist(), strict=True):
            (concept,) = run.features.concepts[subject]
            asked = self.prompt + concept.token if self.prompt else caption
            texts.append(asked.replace(concept.token, concept.noun))
        with torch.no_grad():
            base = step.evaluate(
                step.noisy, step.level, step.encode(texts, model="base"), model="base"
            ).output
        terms = {loss.name: loss for loss in results if hasattr(loss, "name")}
        self.kept.append((step.output.detach() - base, terms["preservation"]))
        return results


def terms(
    backbone: Backbone,
    preservation: PredictionPreservation,
    prompt: str = "",
    subjects: list[Subject] | None = None,
) -> list[Any]:
    """Return, of each step, the difference to the base that reads ``prompt``, and the term."""
    kept: list[Any] = []
    uses = [Seen(kept=kept, prompt=prompt), LearnableToken(noise=0.5), LoRA(), preservation]
    recipe = make_recipe(uses, Phase("p", 3, batch={"subject": 2}, lr={"*": 0.05}))
    fit(recipe, subjects or [make_subject()], backbone)
    return kept


def test_the_value_is_the_mean_square_of_each_row(backbone: Backbone) -> None:
    """The base reads the caption with the noun, or the prompt that is given."""
    for settings, prompt in (({}, ""), ({"prompt": "a red {noun}"}, "a red ")):
        for away, term in terms(backbone, PredictionPreservation(**settings), prompt):
            right = away.square().flatten(1).mean(1)
            assert float(right.min()) > 0
            torch.testing.assert_close(term.value.detach(), right, rtol=1e-5, atol=0)


def test_on_the_background_only_what_no_concept_covers_counts(backbone: Backbone) -> None:
    subject = make_subject()
    left = torch.zeros(1, 32, 32)
    left[..., :16] = 1.0
    masked = replace(subject, masks={"fido": (left, left)})
    preservation = PredictionPreservation(region="background")
    for away, term in terms(backbone, preservation, subjects=[masked]):
        right = away.square()
        right[..., : right.shape[-1] // 2] = 0
        torch.testing.assert_close(term.value.detach(), right.flatten(1).mean(1), rtol=1e-5, atol=0)
    with pytest.raises(RecipeError, match="no picture has a mask of a concept"):
        terms(backbone, preservation)


def test_each_row_is_held_to_its_own_subjects_noun(backbone: Backbone) -> None:
    subjects = [make_subject(), make_subject("tom", token="<tom>", noun="cat", seed=1)]
    for away, term in terms(backbone, PredictionPreservation(), subjects=subjects):
        assert len(away) == 4
        torch.testing.assert_close(
            term.value.detach(), away.square().flatten(1).mean(1), rtol=1e-5, atol=0
        )


RECIPE = """[recipe]
id = "{id}"

[[use]]
technique = "weights.lora"

[[phase]]
name = "p"
steps = 12
lr = 0.05
batch = 2
"""
HELD = """
[[use]]
technique = "regularizers.prediction_preservation"
model = "{model}"

[[model]]
name = "teacher"
artifact = "teacher"
"""


@pytest.fixture(scope="module")
def teacher(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an artifact, ``teacher``, of weights far from the base."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "tutor.toml").write_text(RECIPE.format(id="tutor").replace("12", "1"))
    (made,) = fit(load_recipe(folder / "tutor.toml"), make_subject(), backbone)
    rng = torch.Generator().manual_seed(3)
    moved = {k: v + 0.3 * torch.randn(v.shape, generator=rng) for k, v in made.tensors.items()}
    save(replace(made, tensors=moved), folder / "teacher")
    return folder


def learned(backbone: Backbone, folder: Path, losses: str) -> Personalization:
    """Return a fit whose loss is the preservation alone, held to whom ``losses`` says."""
    path = folder / "student.toml"
    text = RECIPE.format(id="student") + f'losses = ["{losses}"]\n'
    path.write_text(text + HELD.format(model="teacher"))
    return fit(load_recipe(path), make_subject(), backbone)[0]


def test_a_teacher_is_learned_without_a_picture_of_what_it_knows(
    backbone: Backbone, teacher: Path
) -> None:
    """Held to it the distance falls; under the reconstruction alone it stays what it was."""
    taught, free = (learned(backbone, teacher, glob) for glob in ("preservation", "core.*"))
    start = free_distance(backbone, teacher)
    assert taught.losses["preservation"] < 0.5 * start
    assert free.losses.get("preservation", start) > 0.8 * start


def free_distance(backbone: Backbone, folder: Path) -> float:
    """Return the mean distance of the untrained student to its teacher."""
    seen: list[float] = []

    class Watch(Technique):
        """Keeps the term."""

        id = "test.watch"

        @hookimpl(wrapper=True)
        def regularize(self) -> Any:
            results = yield
            seen.extend(float(r.value.detach().mean()) for r in results if r.name == "preservation")
            return results

    model = FurtherModel("teacher", artifact=str(folder / "teacher"))
    recipe = make_recipe(
        [Watch(), LoRA(), PredictionPreservation(model="teacher")],
        Phase("p", 6, batch={"subject": 2}, lr={"*": 1e-9}),
    )
    fit(replace(recipe, models=(model,)), make_subject(), backbone)
    return sum(seen) / len(seen)


def test_the_model_is_a_word_and_the_masks_are(backbone: Backbone) -> None:
    words = PredictionPreservation(model="teacher", region="background").words()
    assert words.reads == ("model:teacher", "region:mask.concept.*")
    assert PredictionPreservation().words().reads == ()
