"""A brief fit and a picture of it, kept with the evidence: does changed code still draw the same?

Evidence counts for the code that it was observed with. Where code changes and nothing else does (a
name, an order of lines), an hour of fits would be repeated for nothing. A probe costs seconds: two
steps of each phase and four of sampling, every number else the recipe's own. Equal probes carry
evidence over to the changed code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pcs_core.backbone import Backbone
    from pcs_core.data import Recipe, Subject

GRID = 4
"""The picture is kept as means over a grid of 4 by 4 cells and 3 colours: 48 numbers in [0, 1]."""
DIGITS = 6
CLOSE = 2e-5
"""Largest difference of two equal probes: the rounding of the file and of other orders of adding."""
FEW = {"count": 2, "steps": 2, "variants": 1}
"""Settings of any technique that only say how much is prepared, and the most a probe prepares."""


def brief(recipe: Recipe) -> list[str]:
    """Return the overrides that make ``recipe`` brief."""
    overrides = [f"{phase.name}.steps={min(phase.steps, 2)}" for phase in recipe.phases]
    for use in recipe.uses:
        for name, most in FEW.items():
            value = use.technique.settings().get(name)
            if isinstance(value, int) and not isinstance(value, bool) and value > most:
                overrides.append(f"{use.name}.{name}={most}")
    return [*overrides, "fit.cycles=1", "sample.steps=4"]


def probe(system: str, backbone: Backbone, subject: Subject, **drawing: Any) -> tuple[float, ...]:
    """Return the picture of a brief fit of ``system`` on ``subject``, as 48 rounded numbers."""
    import torch.nn.functional as F

    from pcs_core import fit, load_recipe, sample

    overrides = brief(load_recipe(system, backbone=backbone))
    recipe = load_recipe(system, backbone=backbone, overrides=overrides)
    (artifact,) = fit(recipe, subject, backbone, seed=0)
    prompt = f"a photo of {subject.concept.token} on the beach"
    picture = sample(artifact, backbone, prompt, seed=1, **drawing)[0]
    cells = F.adaptive_avg_pool2d(picture, GRID)
    return tuple(round(value, DIGITS) for value in cells.flatten().tolist())


def equal(before: Sequence[float], now: Sequence[float]) -> bool:
    """Return whether two probes show the same picture."""
    return len(before) == len(now) and all(
        abs(a - b) <= CLOSE for a, b in zip(before, now, strict=True)
    )
