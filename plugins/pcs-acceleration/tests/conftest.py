"""A tiny network of the real classes, and what it is asked: rows and FLOPs of each call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pcs_core import fit, open_backbone, sample
from pcs_core.backbone import Backbone
from pcs_core.data import Phase, SampleSettings
from pcs_testing import make_recipe, make_subject
from pcs_testing.probe import Probe


@dataclass
class Asked:
    """Rows and FLOPs of every call of the denoiser."""

    rows: list[int] = field(default_factory=list)
    flops: list[int] = field(default_factory=list)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return open_backbone("tiny")


@pytest.fixture
def asked(backbone: Any) -> Iterator[Asked]:
    counts, original = Asked(), backbone.denoise

    def counted(latents: Any, *given: Any, **named: Any) -> Any:
        with FlopCounterMode(display=False) as counter:
            output = original(latents, *given, **named)
        counts.rows.append(len(latents))
        counts.flops.append(counter.get_total_flops())
        return output

    backbone.denoise = counted
    yield counts
    del backbone.denoise


@pytest.fixture
def draw(backbone: Backbone, asked: Asked) -> Callable[..., torch.Tensor]:
    """Draw one picture of a fitted subject: techniques behind a trained probe, settings of the run."""

    def drawn(
        *techniques: Any,
        steps: int = 6,
        scale: float = 3.0,
        learned: float = 0.3,
        scheduler: str = "ddim",
        count: int = 1,
    ) -> torch.Tensor:
        asked.rows.clear()
        asked.flops.clear()
        settings = SampleSettings(steps=steps, scale=scale, scheduler=scheduler)
        phase = Phase("p", 1, lr={"*": learned})
        recipe = make_recipe([Probe(), *techniques], phase, sample=settings)
        (artifact,) = fit(recipe, make_subject(), backbone)
        asked.rows.clear()
        asked.flops.clear()
        return sample(artifact, backbone, "a photo of <fido> on the beach", count=count, seed=1)

    return drawn
