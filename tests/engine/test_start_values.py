"""A start value that is rebuilt and not stored is the one that was trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from pcs_core import Technique, fit, hookimpl, open_backbone, sample
from pcs_core.backbone import gather
from pcs_core.data import AttnEdit, Features, Fusion, Phase, Run
from pcs_testing import make_recipe, make_subject

DRAWN: list[torch.Tensor] = []


class Projected(AttnEdit):
    """A trained factor of a fixed random direction, as VeRA's frozen matrices are."""

    def __init__(self, site: Any, direction: torch.Tensor) -> None:
        super().__init__(site, stacked=True)
        self.register_buffer("direction", direction, persistent=False)
        self.scale = nn.Parameter(torch.zeros(1, 1))

    def out(self, state: Any, cond: Any) -> Any:
        state.out = state.out + gather(self.scale, cond.subject)[:, None] * self.direction
        return state


class RandomDirection(Technique):
    id = "test.random_direction"

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion:
        site = run.sites("cross")[0]
        direction = torch.randn(site.width, generator=run.init_rng(0, self.id))
        with run.seeded("module"):
            DRAWN.append(torch.cat([direction, torch.randn(3)]))
        return Fusion(edits=(Projected(site, direction),))


def test_sampling_starts_where_the_fit_started_whatever_its_seed() -> None:
    backbone = open_backbone("tiny")
    recipe = make_recipe([RandomDirection()], Phase("p", 1, lr={"*": 1.0}))
    DRAWN.clear()
    (artifact,) = fit(recipe, make_subject(), backbone, seed=5)
    for seed in (0, 1, 5):
        sample(artifact, backbone, "a photo of <fido>", seed=seed, steps=1)
        backbone.__dict__.pop("_restored", None)
    assert len(DRAWN) == 4
    assert all(torch.equal(DRAWN[0], again) for again in DRAWN[1:])
    fit(recipe, make_subject(), backbone, seed=6)
    assert not torch.equal(DRAWN[0], DRAWN[-1])
