"""Hooks are seams, not pipes: how often they are called is counted, whatever a technique does."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from pcs_core import fit, recipe_from_document, sample
from pcs_core.backbone import Backbone
from pcs_engine import run as run_module
from pcs_testing import make_subject

STEPS = 4


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    counted: Counter[str] = Counter()
    make = run_module.run_manager

    def monitored() -> Any:
        manager = make()
        manager.add_hookcall_monitoring(
            before=lambda name, impls, kwargs: counted.update([name]),
            after=lambda outcome, name, impls, kwargs: None,
        )
        return manager

    monkeypatch.setattr(run_module, "run_manager", monitored)
    return counted


def recipe(*techniques: str) -> Any:
    return recipe_from_document(
        {
            "recipe": {"id": "made-for-a-test"},
            "use": [{"technique": t} for t in techniques],
            "phase": [{"name": "p", "steps": STEPS, "lr": 1e-3}],
            "fit": {},
            "sample": {"steps": STEPS, "scale": 2.0},
        }
    )


@pytest.mark.parametrize(
    "techniques", [("weights.lora",), ("tokens.learnable", "weights.kv", "weights.lora")]
)
def test_calls_do_not_grow_with_techniques_or_layers(
    backbone: Backbone, calls: Counter[str], techniques: tuple[str, ...]
) -> None:
    (artifact,) = fit(recipe(*techniques), make_subject(), backbone)
    per_step = (calls["regularize"] + calls["mask"] - 1) / STEPS
    assert calls["regularize"] == STEPS
    assert per_step <= 3
    assert calls["fuse"] == 1
    assert calls["extract"] <= 2
    calls.clear()
    sample(artifact, backbone, "a photo of <fido>")
    assert calls["sample"] == STEPS
    assert calls["regularize"] == calls["mask"] == 0
