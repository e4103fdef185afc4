"""A claim about drawings in which one pass attends by the maps of another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pcs_core import Technique, hookimpl
from pcs_core.backbone import select_sites
from pcs_core.data import SampleStep, Use
from pcs_core.data.check import CheckRow

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_checks.observe import Observation

_SEEN: list[list[tuple[str, Mapping[str, Tensor]]]] = []
"""Of the drawing in force, each pass that a technique asked for: its network and the maps that it had."""


class MapsOfPasses(Technique):
    """Writes down the maps of each pass that a step is asked for, and changes nothing."""

    id = "checks.maps_of_passes"

    @hookimpl(wrapper=True, tryfirst=True)
    def sample(self, run: Any, step: SampleStep) -> Any:
        """Record the attention of what is asked inside."""
        asked = step.evaluate

        def evaluate(x: Tensor, level: Any, cond: Any, **options: Any) -> Any:
            answer = asked(x, level, cond, **{**options, "record": ("cross", "self")})
            _SEEN[-1].append((options.get("model", "self"), answer.tape))
            return answer

        step.evaluate = evaluate
        return (yield)


def lends_maps(seen: Observation, *, sites: str) -> Iterator[CheckRow]:
    """In each step of a drawing the tuned network attends at ``sites`` by the base's maps, bit for bit."""
    watched = (*seen.artifact.recipe.uses, Use(MapsOfPasses.id, MapsOfPasses()))
    _SEEN.append([])
    try:
        seen.draw(replace(seen.artifact, recipe=replace(seen.artifact.recipe, uses=watched)))
    finally:
        passes = _SEEN.pop()
    names = [site.name for site in select_sites(seen.backbone.sites, sites)]
    tuned = [at for at, (model, _) in enumerate(passes) if model == "self"]
    steps = seen.artifact.recipe.sample.steps
    branches = 1 if seen.artifact.recipe.sample.scale == 1.0 else 2
    yield CheckRow.compare("passes of the tuned network", len(tuned), "==", steps * branches)
    lent = [at for at in tuned if at and passes[at - 1][0] == "base"]
    yield CheckRow.compare("those without one of the base before", len(tuned) - len(lent), "==", 0)
    away = max(
        (
            float((passes[at][1][name] - passes[at - 1][1][name]).abs().max())
            for at in lent
            for name in names
        ),
        default=float("nan"),
    )
    yield CheckRow.compare("largest difference of a map from the base's", away, "==", 0.0)


def draws_beside(seen: Observation, *, rows: Sequence[int]) -> Iterator[CheckRow]:
    """In each step of a drawing the network is asked about as many rows as ``rows`` says, of one picture."""
    backbone: Any = seen.backbone
    counted: list[tuple[float, int]] = []
    denoise = backbone.denoise

    def noting(latents: Tensor, time: Tensor, *given: Any, **more: Any) -> Tensor:
        counted.append((float(time.flatten()[0]), len(latents)))
        answer: Tensor = denoise(latents, time, *given, **more)
        return answer

    backbone.denoise = noting
    try:
        seen.draw()
    finally:
        del backbone.denoise
    by_time: dict[float, int] = {}
    for time, count in counted:
        by_time[time] = by_time.get(time, 0) + count
    yield CheckRow.compare("steps of a drawing", len(by_time), "==", len(rows))
    wrong = sum(a != b for a, b in zip(by_time.values(), rows, strict=False))
    yield CheckRow.compare("steps of other rows than the method's", wrong, "==", 0)
