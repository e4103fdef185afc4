"""Numbers that a paper or its authors' code gives, in the recipe itself and not only on one backbone."""

from __future__ import annotations

from typing import Any

import pytest

from pcs_core import load_recipe

NUMBERS: dict[str, dict[str, Any]] = {
    "dreamfusion": {
        "three_d.score_distillation.scale": 101.0,
        "three_d.score_distillation.weighting": "sigma2",
        "three_d.score_distillation.levels": [0.02, 0.98],
        "three_d.renderable.shaded_from": pytest.approx(1000 / 15000, abs=1e-4),
        "three_d.renderable.shaded": 0.75,
        "three_d.renderable.textureless": 0.5,
        "pictures.clip": 1.0,
        "pictures.steps": 500,
        "pictures.lr": {"*": 1e-4},
        "render.steps": 15000,
    },
    "dreambooth": {
        "tokens.rare.templates": ["a {token}"],
        "regularizers.prior_preservation.prompt": "a {noun}",
        "regularizers.prior_preservation.weight": 1.0,
        "regularizers.prior_preservation.count": 200,
        "tune.steps": 1000,
        "tune.lr": {"*": 5e-6},
        "tune.clip": 1.0,
        "tune.weight_decay": 1e-2,
        "tune.schedule": "constant",
    },
    "lora-dreambooth": {
        "tokens.rare.templates": ["a photo of {token}"],
        "weights.lora.rank": 4,
        "tune.steps": 500,
        "tune.lr": {"*": 1e-4},
        "tune.clip": 1.0,
        "tune.weight_decay": 1e-2,
    },
    "styledrop": {
        "data.captions.templates": ["{content} in {token} style"],
        "weights.bottleneck.hidden": 32,
        "guidance.branches.tuned": 2.0,
        "guidance.branches.text": 5.0,
        "tune.steps": 1000,
        "tune.lr": {"*": 3e-5},
        "tune.weight_decay": 0.0,
    },
    "layout-control": {
        "guidance.layout.weight": 30.0,
        "guidance.layout.threshold": 0.2,
        "guidance.layout.steps": 10,
        "guidance.layout.iterations": 5,
    },
}


@pytest.mark.parametrize("system", NUMBERS)
def test_numbers(system: str) -> None:
    recipe = load_recipe(system)
    numbers: dict[str, Any] = {
        f"{u.name}.{k}": v for u in recipe.uses for k, v in u.technique.settings().items()
    }
    numbers |= {
        f"{p.name}.{k}": getattr(p, k)
        for p in recipe.phases
        for k in ("clip", "weight_decay", "schedule", "steps", "lr")
    }
    assert {k: numbers[k] for k in NUMBERS[system]} == NUMBERS[system]
