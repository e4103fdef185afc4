"""The moving average that a phase ends with."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pcs_core.backbone import Backbone
from pcs_core.data import Phase
from pcs_core.hookspecs import hookimpl
from pcs_core.technique import Technique
from pcs_engine import fit
from pcs_engine.averages import Averages
from pcs_testing import make_recipe, make_subject
from pcs_testing.probe import Probe

WALK: list[Any] = []


class Walk(Technique):
    """Notes where the first parameter of the probe is at the beginning of each step."""

    id = "test.walk"

    @hookimpl
    def regularize(self, run: Any, step: Any) -> None:
        WALK.append(PROBES[-1].detach().clone())


PROBES: list[Any] = []


class NotedProbe(Probe):
    """A probe whose first parameter can be looked at."""

    id = "test.noted_probe"

    @hookimpl
    def fuse(self, run: Any, features: Any) -> Any:
        from pcs_core.data import Fusion
        from pcs_testing.probe import OutputScale

        edits = tuple(OutputScale(site, features.subjects) for site in run.sites(self.sites))
        PROBES.append(edits[0].scale)
        return Fusion(edits=edits)


def average_of(start: torch.Tensor, values: list[torch.Tensor], decay: float) -> torch.Tensor:
    mean = start
    for n, value in enumerate(values, start=1):
        d = min(decay, n / (9 + n))
        mean = d * mean + (1 - d) * value
    return mean


@pytest.mark.parametrize("decay", [0.3, 0.999])
def test_the_phase_ends_with_the_average_of_its_steps(backbone: Backbone, decay: float) -> None:
    def run(ema: float) -> tuple[torch.Tensor, list[torch.Tensor]]:
        WALK.clear()
        # the second phase shows where the first one ended
        phases = [Phase("a", 5, lr={"*": 0.1}, ema=ema), Phase("b", 1, lr={"*": 1e-9})]
        recipe = make_recipe([NotedProbe(), Walk()], *phases)
        fit(recipe, make_subject(), backbone)
        return WALK[0], WALK[1:6]

    start, plain = run(0.0)
    _, averaged = run(decay)
    assert all(torch.equal(a, b) for a, b in zip(plain[:4], averaged[:4], strict=True))
    assert torch.allclose(averaged[4], average_of(start, plain, decay), atol=1e-7)
    assert not torch.allclose(averaged[4], plain[4], atol=1e-4)


def test_a_look_along_the_way_sees_the_average(backbone: Backbone) -> None:
    seen: list[torch.Tensor] = []

    def keep(artifacts: Any) -> list[bool]:
        seen.append(next(iter(artifacts[0].tensors.values())))
        return [False]

    WALK.clear()
    recipe = make_recipe([NotedProbe(), Walk()], Phase("a", 4, lr={"*": 0.1}, ema=0.9))
    fit(recipe, make_subject(), backbone, keep=keep, checkpoints=2)
    assert torch.allclose(seen[0], average_of(WALK[0], WALK[1:3], 0.9)[0], atol=1e-7)


def test_what_stands_in_goes_back() -> None:
    param = torch.nn.Parameter(torch.zeros(2))
    averages = Averages({"p": param}, 0.5)
    with torch.no_grad():
        param += 1
    averages.update()
    with averages.in_place():
        assert torch.allclose(param, torch.full((2,), 0.9))
    assert torch.equal(param, torch.ones(2))
