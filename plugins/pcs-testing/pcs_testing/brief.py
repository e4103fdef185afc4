"""Recipes cut down to what a small network of random weights runs in seconds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pcs_core.data import Recipe


TINY = {
    "video": "tiny-video",
    "tokens": "tiny-tokens",
    "flux": "tiny-flux",
    "flux-kontext": "tiny-kontext",
}
"""Family -> its small network of random weights, of those that "tiny" does not stand for."""


def tiny_backbone(recipe: Recipe) -> str:
    """Return the id of the small network that ``recipe`` is tried on: "tiny", unless it is for others alone."""
    families = recipe.backbones
    return "tiny" if not families or "sd" in families else TINY[families[0]]


def brief_settings(recipe: Recipe, steps: int = 3) -> list[str]:
    """Return overrides (``KEY=VALUE``, as of ``--set``) with which ``recipe`` takes seconds.

    Every technique gets the settings that its class declares as ``tiny``; each phase trains for
    ``steps`` steps, in batches of two where it pre-trains, once; two steps draw a picture.
    """
    changes = [
        f"{use.name}.{key}={json.dumps(value)}"
        for use in recipe.uses
        for key, value in use.technique.tiny.items()
    ]
    changes += [f"{phase.name}.steps={steps}" for phase in recipe.phases]
    changes += [f"{phase.name}.batch=2" for phase in recipe.phases if phase.pretrain]
    return [*changes, "sample.steps=2", "fit.cycles=1"]
