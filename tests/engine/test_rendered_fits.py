"""Fits that render their pictures: without references, with a timestep sampler, with a text of their own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pcs_core import Technique, fit, hookimpl
from pcs_core.backbone import Backbone
from pcs_core.data import Concept, Fusion, HeadEdit, Loss, Phase, Rendered, Subject
from pcs_core.errors import InputError, RecipeError
from pcs_testing import make_recipe, make_subject
from pcs_testing.probe import Probe

SEEN: list[Any] = []


class Sheet(HeadEdit):
    """One trainable picture."""

    def __init__(self) -> None:
        super().__init__("sheet")
        self.pixels = nn.Parameter(torch.full((3, 32, 32), 0.5))

    @property
    def captions(self) -> tuple[str, ...]:
        return ("a picture of <it>",)

    def render(self, count: int, rng: Any, progress: float) -> Rendered:
        return Rendered(self.pixels.expand(count, 3, 32, 32), self.captions * count)


class Drawing(Technique):
    """A renderable of one picture, judged at one noise level."""

    id = "test.drawing"

    @hookimpl
    def fuse(self) -> Fusion:
        sheet = Sheet()
        drawn = lambda rng, shape, progress: (torch.full((shape[0],), 0.5), None)  # noqa: E731
        return Fusion(edits=(sheet,), source=sheet, timestep_sampler=drawn)

    @hookimpl
    def regularize(self, step: Any) -> Loss:
        SEEN.append(step)
        return Loss("test.sharp", -step.batch.latents.square().mean(dim=(1, 2, 3)))


PICTURES = Phase("pictures", 2, train=("testing.probe/*",), edits=("testing.probe",))
RENDERED = Phase("render", 2, batch={"rendered": 2}, train=("test.drawing/*",))


@pytest.fixture(autouse=True)
def _clean() -> None:
    SEEN.clear()


def test_pictures_first_and_then_the_renderable(backbone: Backbone) -> None:
    recipe = make_recipe([Probe(), Drawing()], PICTURES, RENDERED)
    (artifact,) = fit(recipe, make_subject(), backbone)
    assert [s.phase for s in SEEN] == ["pictures"] * 2 + ["render"] * 2
    assert SEEN[-1].batch.roles == ("rendered",) * 2
    sheet = artifact.tensors["test.drawing/sheet/pixels"]
    assert not torch.equal(sheet, torch.full_like(sheet, 0.5))


def test_without_pictures_only_the_renderable_trains(backbone: Backbone) -> None:
    subject = Subject("it", concepts=(Concept("toy", "<it>", "toy"),))
    recipe = make_recipe([Probe(), Drawing()], PICTURES, RENDERED)
    (artifact,) = fit(recipe, subject, backbone)
    assert [s.phase for s in SEEN] == ["render"] * 2
    probe = [t for n, t in artifact.tensors.items() if n.startswith("testing.probe/")]
    assert probe
    assert all(bool((t == 0).all()) for t in probe)
    with pytest.raises(InputError, match="has no image"):
        fit(make_recipe([Probe()], PICTURES), subject, backbone)


def test_a_timestep_sampler_acts_where_its_use_does(backbone: Backbone) -> None:
    fit(make_recipe([Probe(), Drawing()], PICTURES, RENDERED), make_subject(), backbone)
    half = backbone.process.at(torch.tensor([0.5]))
    assert all(bool((s.level.time == half).all()) for s in SEEN if s.phase == "render")
    assert not any(bool((s.level.time == half).all()) for s in SEEN if s.phase == "pictures")


def test_a_step_encodes_a_text_for_each_row(backbone: Backbone) -> None:
    fit(make_recipe([Probe(), Drawing()], PICTURES, RENDERED), make_subject(), backbone)
    step = SEEN[-1]
    with torch.no_grad():
        again, other = step.encode("a picture of <it>"), step.encode("")
    torch.testing.assert_close(again.text, step.cond.text)
    assert other.text.shape == step.cond.text.shape
    assert not torch.equal(other.text, step.cond.text)
    assert other.time is step.cond.time


def test_a_renderable_is_alone_in_its_batch(backbone: Backbone) -> None:
    phase = Phase("both", 1, batch={"rendered": 1, "subject": 1}, train=("test.drawing/*",))
    with pytest.raises(RecipeError, match="must be alone"):
        fit(make_recipe([Drawing()], phase), make_subject(), backbone)
