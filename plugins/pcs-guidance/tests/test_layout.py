"""Latents follow the gradient of the box energy, in the first steps, until it is low."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import pytest
import torch

from pcs_core import Technique, fit, hookimpl, sample
from pcs_core.backbone import Backbone
from pcs_core.data import Box, Conditioning, Layout, SampleSettings, Site, Subject
from pcs_core.errors import CapabilityError, InputError
from pcs_guidance.layout import LayoutGuidance, box_energy, shares
from pcs_testing import make_recipe

LEFT = Layout((Box("red car", (0.0, 0.0, 0.5, 1.0)),))
PROMPT = "a red car on the beach"
SEEN: list[Any] = []


class Watch(Technique):
    id = "test.watch"

    @hookimpl(wrapper=True)
    def sample(self, step: Any) -> Generator[None, Any, Any]:
        prediction = yield
        SEEN[:] = step.scratch.get("guidance.layout", [])
        return prediction


def draw(
    backbone: Backbone,
    layout: Layout | None = LEFT,
    prompts: Sequence[str] = (PROMPT,),
    **settings: Any,
) -> torch.Tensor:
    SEEN.clear()
    recipe = make_recipe(
        [Watch(), LayoutGuidance(**{"threshold": 0.0, **settings})],
        sample=SampleSettings(steps=4, scale=2.0, scheduler="ddim"),
    )
    (artifact,) = fit(recipe, Subject("s", concepts=()), backbone)
    return sample(artifact, backbone, prompts, layout=layout)


def test_the_energy_falls_within_a_step(backbone: Backbone) -> None:
    draw(backbone, iterations=3, steps=1)
    energies = [float(e) for _, e in SEEN]
    assert len(energies) == 3
    assert energies == sorted(energies, reverse=True)
    assert energies[-1] < energies[0]


def test_it_looks_in_the_first_steps_only(backbone: Backbone) -> None:
    draw(backbone, iterations=2, steps=3)
    assert [i for i, _ in SEEN] == [0, 0, 1, 1, 2, 2]


def test_a_low_energy_is_left_alone(backbone: Backbone) -> None:
    plain = draw(backbone, layout=None)
    assert torch.equal(draw(backbone, threshold=1.0), plain)
    assert [i for i, _ in SEEN] == [0, 1, 2, 3]  # looked at, not moved
    assert (draw(backbone) - plain).abs().max() > 1e-4


def test_a_picture_without_the_phrase_is_not_moved(backbone: Backbone) -> None:
    prompts = (PROMPT, "a blue toy")
    guided = draw(backbone, prompts=prompts, threshold=0.01)
    plain = draw(backbone, layout=None, prompts=prompts)
    moved = (guided - plain).abs().flatten(1).amax(1)
    assert moved[0] > 1e-4
    assert moved[1] < 1e-6


def test_each_picture_is_moved_until_its_own_energy_is_low(backbone: Backbone) -> None:
    prompts = (PROMPT, "a red car in a forest at night")
    draw(backbone, prompts=prompts, steps=1, iterations=1)
    energies = SEEN[0][1].tolist()
    low, high = sorted((0, 1), key=lambda i: energies[i])
    between = sum(energies) / 2
    assert energies[low] < between < energies[high]
    guided = draw(backbone, prompts=prompts, steps=1, iterations=1, threshold=between)
    plain = draw(backbone, layout=None, prompts=prompts)
    moved = (guided - plain).abs().flatten(1).amax(1)
    assert moved[high] > 1e-4
    assert moved[low] < 1e-6


def test_shares_and_energy_are_those_of_the_paper() -> None:
    maps = torch.zeros(1, 2, 4, 3)  # two heads, a grid of 2 x 2, three tokens
    maps[0, 0, :, 1] = torch.tensor([0.4, 0.1, 0.4, 0.1])
    maps[0, 1, :, 1] = torch.tensor([0.2, 0.2, 0.2, 0.2])
    box = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])
    inside, counts = shares(maps, torch.tensor([[1, -1]]), box)
    torch.testing.assert_close(inside[0, :, 0], torch.tensor([0.8, 0.5]))
    assert counts.tolist() == [[True, False]]
    cond = Conditioning(
        text=torch.zeros(1, 3, 1),
        spans={"phrase.0": torch.tensor([[1, -1]])},
        masks={"box.0": box},
    )
    site = Site("here", "denoiser", "cross")
    energy = box_energy({"here": maps}, [site], cond, 1)
    assert float(energy) == pytest.approx((0.2**2 + 0.5**2) / 2)


def test_no_site_is_refused(backbone: Backbone) -> None:
    with pytest.raises(CapabilityError, match="no cross-attention site matches 'nowhere'"):
        draw(backbone, sites="nowhere")


def test_a_system_that_reads_no_layout_refuses_one(backbone: Backbone) -> None:
    box = Layout(boxes=(Box("car", (0.0, 0.0, 0.5, 0.5)),))
    with pytest.raises(InputError, match="the untuned backbone reads no layout"):
        sample(None, backbone, "a car on the beach", layout=box, steps=1)
