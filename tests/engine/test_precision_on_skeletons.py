"""In low precision with checkpointing a fit of a release's layers has the loss curve of the exact one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pcs_core import load_recipe
from pcs_core.data import Concept, Subject
from pcs_diffusers.skeletons import sdxl
from pcs_engine import fit

WITHIN = 0.005
"""Share by which a loss in bf16 may differ from that in fp32, at each step; 0.0007 when it was written."""
STEPS = 6


def curve(monkeypatch: pytest.MonkeyPatch, **setting: Any) -> list[float]:
    """Return the loss after each step of a fit on a new skeleton of SDXL."""
    recipe = load_recipe("lora-dreambooth", backbone="tiny-sdxl", overrides=[f"tune.steps={STEPS}"])
    rng = torch.Generator().manual_seed(0)
    subject = Subject(
        name="thing",
        images=tuple(torch.rand(3, 64, 64, generator=rng) for _ in range(2)),
        concepts=(Concept(name="thing", token="<thing>", noun="dog"),),
    )
    losses: list[float] = []
    monkeypatch.setattr("pcs_engine.progress.REPORT_EVERY", 1)
    watch = [lambda progress: losses.append(progress.losses["core.denoise"])]
    fit(recipe, [subject], sdxl(), seed=0, watch=watch, **setting)
    return losses


@pytest.mark.slow
def test_bf16_with_checkpointing_has_the_loss_curve_of_fp32_on_the_skeleton_of_sdxl(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exact = curve(monkeypatch)
    low = curve(monkeypatch, precision="bf16", checkpointing=True)
    assert len(exact) == len(low) == STEPS
    assert len(set(exact)) == STEPS
    assert low != exact
    assert low == pytest.approx(exact, rel=WITHIN)
