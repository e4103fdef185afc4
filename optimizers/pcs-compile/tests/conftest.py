"""A tiny network of the real classes, random subjects, and what two engines draw of one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pcs_core import open_backbone, sample
from pcs_core.backbone import Backbone
from pcs_core.data import Concept, Subject


@pytest.fixture(scope="session")
def backbone() -> Backbone:
    return open_backbone("tiny")


@pytest.fixture(scope="session")
def subject() -> Callable[[int], Subject]:
    """A subject of one random picture, by seed."""

    def make(seed: int) -> Subject:
        picture = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(seed))
        concept = Concept("one", "<one>", "dog")
        return Subject("one", (concept,), images=(picture,), captions=(None,))

    return make


@pytest.fixture(scope="session")
def trajectory() -> Callable[..., list[Tensor]]:
    """The latents after each step, and the pictures."""

    def draw(artifact, on, prompt="a photo of <one> on the beach", **options) -> list[Tensor]:
        latents: list[Tensor] = []
        watch = (lambda progress: latents.append(progress.latents.clone()),)
        given = {"count": 2, "seed": 3, "steps": 2, "scale": 3.0, **options}
        pictures = sample(artifact, on, prompt, watch=watch, **given)
        return [*latents, pictures]

    return draw


@pytest.fixture(scope="session")
def apart() -> Callable[[list[Tensor], list[Tensor]], float]:
    """The largest relative difference of two trajectories, over steps and pictures."""

    def measure(one: list[Tensor], other: list[Tensor]) -> float:
        pairs = zip(one, other, strict=True)
        return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)

    return measure
