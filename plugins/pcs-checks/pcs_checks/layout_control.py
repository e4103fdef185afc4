"""Layout guidance: one move lowers the energy and brings the phrase's attention into its box."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

import torch
import torch.nn.functional as F

from pcs_checks.changes import changed, snapshot
from pcs_checks.variant import load
from pcs_core import Technique, fit, hookimpl, open_backbone, sample
from pcs_core.data import Box, Branch, Layout, Prediction, Run, SampleStep, Subject
from pcs_core.data.check import CheckReport, CheckRow

SYSTEM = "layout-control"
PROMPT = "a red car on the beach"
LAYOUT = Layout((Box("red car", (0.0, 0.0, 0.5, 1.0)),))
STEPS = 12
SITES = "mid_block.*|up_blocks.1.*"


class Witness(Technique):
    """Outside the guidance: counts its looks, and measures before and after its first moves."""

    id = "checks.witness"

    @hookimpl(wrapper=True)
    def sample(
        self, run: Run, step: SampleStep
    ) -> Generator[None, Prediction | None, Prediction | None]:
        """Stand between the guidance and the step."""
        seen, inner = step.scratch.setdefault(self.id, {"looks": []}), step.evaluate

        def counting(*args: Any, **options: Any) -> Any:
            seen["looks"].append(step.index)
            return inner(*args, **options)

        if step.index == 0:
            seen["before"] = _measure(run, step, inner)
        step.evaluate = counting
        prediction = yield
        if step.index == 0:
            seen["after"] = _measure(run, step, inner)
        if step.index == step.count - 1:
            FOUND.update(seen)
        return prediction


FOUND: dict[str, Any] = {}
"""What the witness saw in the last run."""


def check(neutral: bool = False) -> CheckReport:
    """Draw once on the tiny network with one move a step; ``neutral`` sets the weight to 0."""
    started = time.monotonic()
    backbone = open_backbone("tiny")
    before = snapshot(backbone)
    settings = ["guidance.layout.weight=0.0"] if neutral else []
    recipe = load(
        SYSTEM, overrides=[*settings, "guidance.layout.iterations=1", f"sample.steps={STEPS}"]
    )
    (artifact,) = fit(recipe, Subject("layout", concepts=()), backbone)
    energy, share = _watch(artifact, backbone)
    looks = FOUND["looks"]
    compare = CheckRow.compare
    return CheckReport.of(
        SYSTEM,
        [
            compare("change of the energy by one move", energy, "<", 0.0),
            compare("change of the attention inside the box", share, ">", 0.0),
            compare("sampling steps in which the energy is taken", len(set(looks)), "==", 10),
            compare("the last of them", max(looks, default=-1), "==", 9),
            compare("tensors in the artifact", len(artifact.tensors), "==", 0),
            compare("tensors of the backbone that changed", changed(before, backbone), "==", 0),
        ],
        seconds=time.monotonic() - started,
        backbone=backbone.card.id,
        note="neutral: the factor of the energy is 0",
    )


def _watch(artifact: Any, backbone: Any) -> tuple[float, float]:
    """Draw with a witness around the guidance; return what the first move changed."""
    from dataclasses import replace

    from pcs_core.data import Use

    recipe = replace(artifact.recipe, uses=(Use("witness", Witness()), *artifact.recipe.uses))
    FOUND.clear()
    sample(replace(artifact, recipe=recipe), backbone, PROMPT, layout=LAYOUT)
    (energy, share), (lower, higher) = FOUND["before"], FOUND["after"]
    return lower - energy, higher - share


@torch.no_grad()
def _measure(run: Run, step: SampleStep, evaluate: Any) -> tuple[float, float]:
    """Return the energy and the mean share of the phrase's attention inside the box."""
    cond = step.branch(Branch("positive"))
    sites = [s for s in run.sites(SITES) if s.kind == "cross"]
    tape = evaluate(step.latents, step.level, cond, record=[s.name for s in sites]).tape
    columns = [p for p in cond.spans["phrase.0"][0].tolist() if p >= 0]
    shares = []
    for site in sites:
        size = tuple(-(-side // site.scale) for side in step.latents.shape[-2:])
        mask = F.interpolate(cond.masks["box.0"], size, mode="area").flatten(1)[0]
        maps = tape[site.name][0][:, :, columns]
        shares.append((maps * mask[None, :, None]).sum(1) / maps.sum(1))
    inside = torch.stack(shares)
    return float((1 - inside).square().mean()), float(inside.mean())
