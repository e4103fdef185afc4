"""A tiny network of the real classes, random subjects, and what two engines draw of one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pcs_core import open_backbone, sample
from pcs_core.backbone import Backbone
from pcs_core.data import Concept, Record, Subject


@pytest.fixture(scope="session")
def backbone() -> Backbone:
    return open_backbone("tiny")


@pytest.fixture(scope="session")
def subject() -> Callable[..., Subject]:
    """A subject of random pictures, one if no more are asked for, by seed."""

    def make(seed: int, count: int = 1) -> Subject:
        rng = torch.Generator().manual_seed(seed)
        pictures = tuple(torch.rand(3, 32, 32, generator=rng) for _ in range(count))
        concept = Concept("one", "<one>", "dog")
        return Subject("one", (concept,), images=pictures, captions=(None,) * count)

    return make


@pytest.fixture(scope="session")
def trajectory() -> Callable[..., list[Tensor]]:
    """The latents after each step, and the pictures."""

    def draw(artifact, on, prompt="a photo of <one> on the beach", **options) -> list[Tensor]:
        latents: list[Tensor] = []
        watch = (lambda progress: latents.append(progress.latents.clone()),)
        pictures = sample(
            artifact, on, prompt, count=2, seed=3, steps=3, scale=3.0, watch=watch, **options
        )
        return [*latents, pictures]

    return draw


@pytest.fixture(scope="session")
def apart() -> Callable[[list[Tensor], list[Tensor]], float]:
    """The largest relative difference of two trajectories, over steps and pictures."""

    def measure(one: list[Tensor], other: list[Tensor]) -> float:
        pairs = zip(one, other, strict=True)
        return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)

    return measure


class Records:
    """Random pictures with captions, references and key points."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Record:
        rng = torch.Generator().manual_seed(10 * self.seed + index)
        picture, reference = torch.rand(2, 3, 32, 32, generator=rng)
        return Record(
            image=picture,
            caption="a photo of a dog",
            phrases=("dog",),
            references=((reference,),),
            masks=(torch.ones(1, 32, 32),),
            extra={"points": torch.rand(5, 2, generator=rng)},
        )


@pytest.fixture(scope="session")
def records() -> type[Records]:
    """Data sets of a pre-training, by seed."""
    return Records
