"""The field and its pictures: geometry, gradients, losses and captions."""

from __future__ import annotations

import pytest
import torch

from pcs_core import fit
from pcs_core.backbone import Backbone
from pcs_core.data import Concept, Phase, Subject
from pcs_testing import build_fusion, make_recipe, make_subject
from pcs_three_d.cameras import Camera, rays, view
from pcs_three_d.field import Field
from pcs_three_d.renderable import Renderable

SMALL = {"size": 16, "cells": 8, "samples": 12}


def painted() -> Field:
    """Return a solid ball, red in front (+x) and blue behind, green above and dark below."""
    field = Field(16, torch.full((3, 16, 16, 16), -6.0), radius=0.6)
    at = torch.linspace(-1, 1, 16)
    z, _, x = torch.meshgrid(at, at, at, indexing="ij")
    with torch.no_grad():
        field.colour[0][x > 0.1] = 6.0
        field.colour[2][x < -0.1] = 6.0
        field.colour[1][z > 0.25] = 6.0
        field.background.fill_(6.0)
        field.density += 20.0 * (field.grid()[0, 0] > 0)
    return field


def middle(field: Field, camera: Camera) -> list[bool]:
    image = field.look([camera], 17, 64).image[0]
    return (image[:, 8, 8] > 0.5).tolist()


def test_each_side_shows_its_own_colour() -> None:
    field = painted()
    assert middle(field, Camera(0, 0)) == [True, False, False]
    assert middle(field, Camera(180, 0)) == [False, False, True]
    assert middle(field, Camera(0, 90))[1]
    front = field.look([Camera(0, 0)], 33, 64).image[0]
    assert front[1, 10, 16] > 0.5 > front[1, 22, 16]  # green is up in the picture
    assert (front[:, 0, 0] > 0.9).all()  # the background, where nothing is
    side = field.look([Camera(90, 0)], 33, 64).image[0]
    # from +y the front (+x) lies on the right hand's other side
    assert side[0, 18, 10] > 0.5 > side[0, 18, 22] or side[0, 18, 22] > 0.5 > side[0, 18, 10]
    assert (side[0, 18, 22] > 0.5) == (rays([Camera(90, 0)], 33)[1][0, 18, 22, 0] > 0)


def test_a_field_starts_grey_with_colours_slightly_mixed() -> None:
    technique = Renderable(cells=16)
    mixed, grey = technique.field(torch.Generator().manual_seed(0)), technique.field()
    assert not grey.colour.any()
    assert float(mixed.colour.mean()) == pytest.approx(0.0, abs=0.01)
    assert float(mixed.colour.std()) == pytest.approx(0.1, abs=0.01)


def test_rays_look_at_the_middle() -> None:
    for camera in (Camera(30, 20), Camera(-100, -10), Camera(0, 90)):
        origin, direction = rays([camera], 5)
        ahead = direction[0, 2, 2]
        torch.testing.assert_close(
            origin[0, 0, 0] + camera.distance * ahead, torch.zeros(3), atol=1e-5, rtol=0
        )
        torch.testing.assert_close(direction.norm(dim=-1), torch.ones(1, 5, 5))


@pytest.mark.parametrize(
    ("azimuth", "elevation", "expected"),
    [(0, 0, 0), (44, 0, 0), (-100, 0, 1), (90, 0, 1), (170, 0, 2), (-170, 10, 2), (0, 70, 3)],
)
def test_views_are_named_by_their_angle(azimuth: float, elevation: float, expected: int) -> None:
    assert view(Camera(azimuth, elevation)) == expected


def test_light_and_backgrounds() -> None:
    field, camera = painted(), Camera(0, 0)
    plain = field.look([camera], 17, 64)
    lit = field.look([camera], 17, 64, light=[0.9])
    bare = field.look([camera], 17, 64, light=[0.9], textureless=[True])
    assert torch.allclose(plain.opacity, lit.opacity)
    ratio = (lit.image / plain.image).detach()[0, 0, 8]
    assert ratio[5] < ratio[8]  # the rim is darker than the middle
    torch.testing.assert_close(bare.image[0, 0], bare.image[0, 2])
    green = field.look([camera], 17, 64, backgrounds=torch.tensor([[0.0, 1.0, 0.0]])).image[0]
    torch.testing.assert_close(green[:, 0, 0], torch.tensor([0.0, 1.0, 0.0]))


def test_the_orientation_loss_turns_surfaces_to_the_camera() -> None:
    field = painted()
    assert field.look([Camera(0, 0)], 17, 64).orientation.item() < 0.05
    hollow = Field(16, torch.zeros(3, 16, 16, 16), ball=-10.0)  # its walls face inwards
    assert hollow.look([Camera(0, 0)], 17, 64).orientation.item() > 0.2
    inside_out = Field(16, torch.zeros(3, 16, 16, 16), ball=0.0)
    at = torch.linspace(-1, 1, 16)
    with torch.no_grad():  # density grows along the ray: every surface faces away from -x
        inside_out.density += 3 * at[None, None, None, :]
    towards, away = (
        inside_out.look([Camera(a, 0)], 17, 64).orientation.item() for a in (0.0, 180.0)
    )
    assert away < towards


def test_every_parameter_has_a_gradient() -> None:
    field = Field(8, torch.randn(3, 8, 8, 8, generator=torch.Generator().manual_seed(0)))
    field.look([Camera(10, 10)], 16, 16).image.square().mean().backward()
    for name, param in field.named_parameters():
        assert param.grad is not None, name
        assert bool(param.grad.abs().max() > 0), name


def test_captions_name_what_is_known(backbone: Backbone) -> None:
    recipe = make_recipe([Renderable.from_settings(SMALL)])
    pictured, bare = make_subject(), Subject("it", (Concept("dog", "<dog>", "dog"),))
    for subject, start in ((pictured, "a photo of <fido>"), (bare, "a photo of a dog")):
        source = build_fusion(recipe, [subject], backbone).source
        assert source is not None
        assert next(iter(source.captions)) == f"{start}, front view"
        drawn = source.render(8, torch.Generator().manual_seed(0), 0.5)
        assert set(drawn.captions) <= set(source.captions)
        assert len(set(drawn.captions)) > 1
        assert drawn.images.shape == (8, 3, *backbone.card.size)


def test_its_own_losses_train_it(backbone: Backbone) -> None:
    phase = Phase("c", 3, batch={"rendered": 2}, lr={"*": 0.5}, losses=("three_d.*",))
    renderable = Renderable.from_settings({**SMALL, "opacity": 1.0})
    (artifact,) = fit(make_recipe([renderable], phase), make_subject(), backbone)
    density = artifact.tensors["three_d.renderable/field/density"]
    assert float(density.mean()) < 0
    assert artifact.losses["three_d.opacity"] > 0
