"""About how long a fit takes, measured before it runs: what ``--dry-run`` says of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pcs_cli.fit_plan import FitPlan

BACKWARD = 3.0
"""Times that a training step takes of the network's forward: one forward, and two for the gradients."""


QUICK = 1.0
"""Seconds below which a first forward is mostly what is made ready for it: a second one is measured."""


def time_lines(plan: FitPlan) -> list[str]:
    """Return about how long the steps take, by one forward of the untuned network, and what that rests on."""
    phases = [p for p in plan.recipe.phases if p.steps and not p.pretrain]
    if not phases:
        return []
    try:
        row = seconds_of_a_row(plan)
    except Exception:  # whatever a backbone raises that cannot draw so: the steps alone are said
        row = None
    most = max((len(subject.images) for subject in plan.subjects), default=1)
    rows = sum(
        p.steps * p.accumulate * sum(n if n >= 0 else most for n in p.batch.values())
        for p in phases
    )
    rows *= max(1, len(plan.subjects))
    steps = " and ".join(f"{p.steps} steps of {p.name!r}" for p in phases)
    if row is None:
        return [f"time: {steps}; a step of this backbone was not measured"]
    height, width = plan.backbone.card.size
    seconds = duration(rows * row * BACKWARD)
    return [
        f"time: about {seconds} for {steps}: {rows} rows, each {BACKWARD:g} times the {row:.2g} s that one "
        f"forward of {width} x {height} took now on {plan.device}; what is drawn before and after is on top"
    ]


def seconds_of_a_row(plan: FitPlan) -> float:
    """Return the seconds of one forward of the denoiser on one picture; of the second where that is quick."""
    import torch

    from pcs_core.backbone import Attachment
    from pcs_core.data import Branch, Fusion, Recipe, SampleSettings
    from pcs_engine.guidance import Guidance
    from pcs_engine.run import EngineRun

    backbone = plan.backbone
    run = EngineRun(Recipe(id="base"), backbone)
    latents = torch.zeros(1, *backbone.latent_shape, device=backbone.device)
    with Attachment(backbone, Fusion()) as net, torch.no_grad():
        middle = backbone.process.at(torch.full((1,), 0.5, device=backbone.device))
        level = backbone.process.level(middle)
        guide = Guidance(run, net, ["a photo"], SampleSettings(scale=1.0))
        cond = guide.branch(Branch("positive"), level, 0.5)

        def forward() -> float:
            begun = time.perf_counter()
            net.evaluate(latents, level, cond, progress=0.5)
            if backbone.device.type == "cuda":
                torch.cuda.synchronize(backbone.device)
            return time.perf_counter() - begun

        first = forward()
        return forward() if first < QUICK else first


def duration(seconds: float) -> str:
    """Return seconds in words that claim no more than they know."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = seconds / 60
    return f"{round(minutes)} min" if minutes < 90 else f"{minutes / 60:.1f} h"
