"""The colour cast that references share: chosen by what surrogates draw, reached within the bound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pcs_core import fit, fit_image, installed, load_recipe, sample
from pcs_core.backbone import Backbone
from pcs_core.data import Phase
from pcs_core.errors import UnknownNameError
from pcs_defense.cast import CASTS, SIZE, ColourCast, furthest_cast
from pcs_defense.perturbation import Perturbation
from pcs_engine.run import EngineRun
from pcs_testing import make_recipe, make_subject

DELTA = "defense.perturbation/pixels/delta"
PROMPT = "a photo of <fido> in a forest"
SEED = 1


@pytest.fixture
def quick(tmp_path: Path) -> str:
    """A surrogate of two steps."""
    path = tmp_path / "quick.toml"
    path.write_text(
        '[recipe]\nid = "quick"\nextends = "textual-inversion"\n\n'
        '[[phase]]\nname = "token"\nsteps = 2\n\n[sample]\nsteps = 2\n'
    )
    return str(path)


def attack(*losses: str, steps: int) -> Phase:
    return Phase(
        "attack",
        steps,
        batch={"subject": 4},
        lr={"*": 0.25},
        train=("defense.perturbation/*",),
        losses=losses,
        optimizer="pgd",
    )


def attacked(backbone: Backbone, weight: float, *surrogates: str, steps: int = 12) -> Any:
    losses = ("defense.adversarial", "defense.cast") if weight else ("defense.adversarial",)
    phase = attack(*losses, steps=steps)
    cast = ColourCast(
        weight=weight,
        surrogates=surrogates,
        prompts=(PROMPT.replace("<fido>", "{token}"),),
        count=2,
        encoder="tiny.image",
    )
    return fit(
        make_recipe([Perturbation(), cast], phase), make_subject(images=2, seed=SEED), backbone
    )[0]


class MeanColours:
    """An encoder of nothing but the mean colour, less grey."""

    def pooled(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3)) - 0.5


def test_the_cast_goes_on_where_drawings_err() -> None:
    assert len(CASTS) == 8
    references = torch.full((2, 3, 4, 4), 0.5)
    references[:, 0] = 0.8
    for error in (0.1, -0.1):  # red things, drawn with some green, or with too little
        drawn = references.clone()
        drawn[:, 1] += error
        chosen = furthest_cast(drawn, references, MeanColours())
        assert chosen.shape == (1, 3, 1, 1)
        assert chosen.flatten()[:2].tolist() == [-1.0, 1.0 if error > 0 else -1.0]


def test_references_move_together_as_drawings_say(backbone: Backbone, quick: str) -> None:
    subject = make_subject(images=2, seed=SEED)
    images = torch.stack([fit_image(i, backbone.card.size) for i in subject.images])
    (artifact,) = fit(quick, subject, backbone)
    drawn = sample(artifact, backbone, PROMPT, count=2)
    run = EngineRun(load_recipe("anti-dreambooth"), backbone)
    assert torch.equal(run.draw_personalized(quick, subject, [PROMPT] * 2, seed=0), drawn)
    encoder = installed().get("feature_models", "tiny.image")()
    cast = furthest_cast(drawn, images, encoder)
    clean = backbone.moments(images)[0]
    way = (backbone.moments((images + SIZE * cast).clamp(0, 1))[0] - clean).mean(dim=(0, 2, 3))
    along = []
    for weight in (0.0, 1e4):
        artifact = attacked(backbone, weight, quick)
        delta = artifact.tensors[DELTA]
        assert float(delta.abs().max()) <= 1.0
        moved = backbone.moments((images + 0.025 * delta).clamp(0, 1))[0] - clean
        along.append(moved.mean(dim=(2, 3)) @ way / way.square().sum())
    assert float(along[1].min()) > 1.0, "not as far as the plain cast of the same bound"
    assert float(along[0].max()) < 0.5, "without the loss they move that way too"
    # the loss tells the same distance, of the step before
    assert artifact.losses["defense.cast"] / -1e4 == pytest.approx(float(along[1].mean()), rel=0.3)


def test_other_pictures_are_fitted_anew(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[str] = []

    def drawn(self: Any, system: str, *_: Any, **__: Any) -> Tensor:
        fitted.append(system)
        return torch.zeros(1, 3, 32, 32)

    monkeypatch.setattr(EngineRun, "draw_personalized", drawn)
    memory: dict[str, Any] = {}
    cast = ColourCast(weight=1.0, surrogates=("dreambooth",), encoder="tiny.image")
    recipe = make_recipe([Perturbation(), cast], attack("defense.adversarial", steps=1))
    for seed in (1, 1, 2):
        fit(recipe, make_subject(seed=seed), backbone, memory=memory)
    assert len(fitted) == 2


def test_a_wrong_surrogate_is_told_before_any_is_fitted(
    backbone: Backbone, quick: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EngineRun, "draw_personalized", lambda *_, **__: pytest.fail("fitted"))
    with pytest.raises(UnknownNameError, match=r"dreamboth.*dreambooth"):
        attacked(backbone, 1.0, quick, "dreamboth", steps=1)


def test_no_weight_is_no_loss_and_no_surrogate(backbone: Backbone) -> None:
    # a surrogate that does not exist is not missed
    assert "defense.cast" not in attacked(backbone, 0.0, "no-such-system", steps=1).losses


def test_drawings_are_seen_as_pictures_also_under_a_cast() -> None:
    """A black drawing has no channel below zero, and a white one none above one."""
    seen: list[Tensor] = []

    class Watching(MeanColours):
        def pooled(self, images: Tensor) -> Tensor:
            seen.append(images)
            return super().pooled(images)

    drawn = torch.stack([torch.zeros(3, 4, 4), torch.ones(3, 4, 4)])
    furthest_cast(drawn, torch.full((1, 3, 4, 4), 0.4), Watching())
    assert len(seen) == 1 + len(CASTS)
    assert all(float(s.min()) >= 0.0 and float(s.max()) <= 1.0 for s in seen)
    assert any(float(s[0].max()) > 0.0 for s in seen[1:])


def test_the_direction_is_one_for_as_far_as_the_cast_moves(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = make_subject(images=2, seed=SEED)
    images = torch.stack([fit_image(i, backbone.card.size) for i in subject.images])
    drawn = lambda *_, **__: images.clone()  # noqa: E731
    monkeypatch.setattr(EngineRun, "draw_personalized", drawn)
    technique = ColourCast(weight=1.0, surrogates=("dreambooth",), encoder="tiny.image")
    run = EngineRun(make_recipe([Perturbation(), technique]), backbone)
    features = technique.extract(run=run, subject=subject, moment="start")
    assert features is not None
    encoder = installed().get("feature_models", "tiny.image")()
    cast = furthest_cast(torch.cat([images] * len(technique.prompts)), images, encoder)
    moved = backbone.moments((images + SIZE * cast).clamp(0, 1))[0] - backbone.moments(images)[0]
    way, direction = moved.mean(dim=(0, 2, 3)), features.tensors["defense.cast"]
    assert float(way @ direction) == pytest.approx(1.0, rel=1e-4)
    torch.testing.assert_close(direction, way / (way @ way), rtol=1e-6, atol=0.0)
