"""ASPL written down again from the paper and the authors' script, and what the system does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from pcs_core import Technique, fit, hookimpl, load_recipe
from pcs_core.backbone import Backbone
from pcs_core.data import ALL, Subject, Use
from pcs_core.errors import CapabilityError
from pcs_defense.clean_set import CleanSet
from pcs_defense.perturbation import Delta
from pcs_defense.pgd import ProjectedSign
from pcs_testing import make_picture, make_subject

FEW = [
    "fit.cycles=1",
    "surrogate.steps=2",
    "attack.steps=2",
    "adapt.steps=1",
    "regularizers.prior_preservation.count=1",
    "sample.steps=2",
]


def test_sign_steps_are_those_of_the_script() -> None:
    """x' = clip(x + clip(x' + a sign(g) - x, -e, e), -1, 1), pixels in [-1, 1], a = 5e-3, e = 5e-2."""
    recipe = load_recipe("anti-dreambooth")
    attack = recipe.phases[1]
    eps = next(u.technique for u in recipe.uses if u.name == "defense.perturbation").eps  # type: ignore[attr-defined]
    assert (attack.optimizer, attack.steps, attack.batch) == ("pgd", 6, {"subject": ALL})
    rng = torch.Generator().manual_seed(0)
    pixels = torch.rand(2, 3, 6, 6, generator=rng) * 1.6 - 0.8  # off the ends of their range
    target = torch.randn(2, 3, 6, 6, generator=rng)
    edit = Delta(2, (6, 6), eps / 2)
    optimizer = ProjectedSign(edit.parameters(), lr=attack.lr["*"])
    theirs = pixels.clone()
    for _ in range(14):  # past the bound
        optimizer.zero_grad()
        mine = 2 * edit.input((pixels + 1) / 2, torch.arange(2)) - 1
        (
            -(mine - target).square().mean()
        ).backward()  # ascent of the error: descent of its negative
        optimizer.step()
        gradient = 2 * (theirs - target)
        stepped = theirs + 5e-3 * gradient.sign()
        theirs = (pixels + (stepped - pixels).clamp(-5e-2, 5e-2)).clamp(-1, 1)
        now = 2 * edit.input((pixels + 1) / 2, torch.arange(2)) - 1
        torch.testing.assert_close(now.detach(), theirs, rtol=1e-5, atol=1e-5)
    assert float((theirs - pixels).abs().max()) == pytest.approx(5e-2, abs=1e-6)


def test_numbers_of_the_authors_script() -> None:
    recipe = load_recipe("anti-dreambooth")
    settings = {u.name: u.technique.settings() for u in recipe.uses}
    assert recipe.cycles == 50
    for phase in (recipe.phases[0], recipe.phases[2]):
        assert (phase.steps, phase.clip, phase.weight_decay) == (3, 1.0, 1e-2)
        assert (phase.optimizer, dict(phase.lr), phase.schedule) == (
            "adamw",
            {"*": 5e-7},
            "constant",
        )
    assert settings["tokens.rare"]["templates"] == ["a photo of {token}"]
    assert settings["regularizers.prior_preservation"]["prompt"] == "a photo of {noun}"
    assert settings["weights.full"]["parts"] == ["denoiser", "text"]


def test_no_system_of_a_paper_shifts_colours() -> None:
    for backbone in (None, "mini"):
        recipe = load_recipe("anti-dreambooth", backbone=backbone)
        assert "defense.cast" not in {u.technique.id for u in recipe.uses}
    colour_shift = load_recipe("colour-shift-protection", backbone="mini")
    assert "defense.cast" in {u.technique.id for u in colour_shift.uses}
    from pcs_core import installed

    assert "survey" not in installed().heads()["colour-shift-protection"].table


class Spy(Technique):
    """Keeps what each step showed."""

    id = "test.spy"

    @hookimpl
    def regularize(self, step: Any) -> None:
        SEEN.append((step.phase, step.batch, step.cond))


SEEN: list[Any] = []


def run(backbone: Backbone, subject: Subject) -> None:
    SEEN.clear()
    recipe = load_recipe("anti-dreambooth", overrides=FEW)
    recipe = replace(recipe, uses=(*recipe.uses, Use("test.spy", Spy())))
    fit(recipe, subject, backbone)


def test_the_surrogate_learns_from_the_clean_set_alone(backbone: Backbone) -> None:
    """Not from the pictures that it is attacked on."""
    subject = make_subject(images=2)
    apart = tuple(make_picture(90 + i) for i in range(2))
    run(backbone, replace(subject, others={"clean": apart}))
    batches = [b for phase, b, _ in SEEN if phase == "surrogate"]
    assert {r for b in batches for r in b.roles} == {"clean", "prior"}
    from pcs_core import fit_image

    kept = torch.stack([fit_image(i, backbone.card.size) for i in apart])
    latents = backbone.moments(kept)[0]
    for batch in batches:
        shown = batch.latents[batch.rows("clean")][0]
        assert min(float((shown - encoded).abs().max()) for encoded in latents) < 1e-5
        assert all(i == -1 for i in batch.index)
    attacked = next(b for phase, b, _ in SEEN if phase == "attack")
    assert attacked.index == (0, 1), "a sign step shows every picture to protect"


def test_without_a_clean_set_copies_stand_in_and_this_is_told() -> None:
    said: list[str] = []
    run_ = type("R", (), {"image_size": (32, 32), "log": staticmethod(said.append)})()
    subject = make_subject(images=2)
    features: Any = CleanSet().extract(run=run_, subject=subject, moment="start")  # type: ignore[arg-type]
    assert len(features.examples) == 2
    assert "no clean set of its own" in said[0]
    assert all(e.captions == (f"a photo of {subject.concept.token}",) for e in features.examples)


@pytest.mark.parametrize(
    "system",
    [
        "anti-dreambooth",
        "custom-diffusion",
        "dreamfusion",
        "fastcomposer",
        "ip-adapter",
        "style-aligned",
    ],
)
def test_systems_of_pictures_refuse_clips_before_weights_are_read(system: str) -> None:
    with pytest.raises(
        CapabilityError, match=f"{system!r} takes pictures, and backbone 'tiny-video'"
    ):
        load_recipe(system, backbone="tiny-video")
