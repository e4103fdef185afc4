"""The colour cast that references share: the one the eye sees most, reached within the bound."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pcs_core import fit, fit_image, load_recipe
from pcs_core.backbone import Backbone
from pcs_core.data import Phase
from pcs_core.testing import make_recipe, make_subject
from pcs_defense.cast import HUES, SIZE, ColourCast, lab, strongest_cast
from pcs_defense.perturbation import Perturbation

DELTA = "defense.perturbation/pixels/delta"


def attacked(backbone: Backbone, weight: float, steps: int = 12) -> Any:
    phase = Phase(
        "attack",
        steps,
        batch={"subject": 4},
        lr={"*": 0.25},
        train=("defense.perturbation/*",),
        losses=("defense.adversarial", "defense.cast") if weight else ("defense.adversarial",),
        optimizer="pgd",
    )
    uses = [Perturbation(), ColourCast(weight=weight)]
    return fit(make_recipe(uses, phase), make_subject(images=2), backbone)[0]


@pytest.mark.parametrize(
    ("rgb", "wanted"),
    [  # published coordinates of sRGB colours under D65
        ((1.0, 1.0, 1.0), (100.0, 0.0, 0.0)),
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
        ((1.0, 0.0, 0.0), (53.24, 80.09, 67.20)),
        ((0.0, 1.0, 0.0), (87.73, -86.18, 83.18)),
        ((0.0, 0.0, 1.0), (32.30, 79.19, -107.86)),
    ],
)
def test_lab(rgb: tuple[float, ...], wanted: tuple[float, ...]) -> None:
    found = lab(torch.tensor(rgb).view(1, 3, 1, 1)).flatten()
    torch.testing.assert_close(found, torch.tensor(wanted), atol=0.05, rtol=0)


def test_the_cast_is_the_one_the_eye_sees_most() -> None:
    assert len(HUES) == 6
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    chosen = strongest_cast(images)
    moved = [
        float((lab((images + SIZE * c).clamp(0, 1)) - lab(images)).square().sum(1).sqrt().mean())
        for c in (chosen, *(torch.tensor(h).view(1, 3, 1, 1) for h in HUES))
    ]
    assert moved[0] == pytest.approx(max(moved[1:]))
    assert min(moved[1:]) < 0.8 * moved[0]
    # what cannot go further up is moved another way: white has no room for a green cast's green
    assert strongest_cast(torch.ones(1, 3, 4, 4)).flatten().tolist() != [-1.0, 1.0, 1.0]


def test_references_move_together(backbone: Backbone) -> None:
    images = torch.stack([fit_image(i, backbone.card.size) for i in make_subject(images=2).images])
    clean = backbone.moments(images)[0]
    cast = backbone.moments((images + SIZE * strongest_cast(images)).clamp(0, 1))[0]
    way = (cast - clean).mean(dim=(0, 2, 3))
    along = []
    for weight in (0.0, 1e4):
        person = attacked(backbone, weight)
        delta = person.tensors[DELTA]
        assert float(delta.abs().max()) <= 1.0
        moved = backbone.moments((images + 0.025 * delta).clamp(0, 1))[0] - clean
        along.append(moved.mean(dim=(2, 3)) @ way / way.square().sum())
    assert float(along[1].min()) > 1.0, "not as far as the plain cast of the same bound"
    assert float(along[0].max()) < 0.5, "without the loss they move that way too"
    # the loss tells the same distance, of the step before
    assert person.losses["defense.cast"] / -1e4 == pytest.approx(float(along[1].mean()), rel=0.3)


def test_no_weight_is_no_loss(backbone: Backbone) -> None:
    recipe = load_recipe("anti-dreambooth")
    cast = next(u.technique for u in recipe.uses if u.technique.id == "defense.cast")
    assert cast.settings()["weight"] == 0  # of no paper: off where the paper's settings hold
    assert "defense.cast" not in attacked(backbone, 0.0, steps=1).losses
