"""About how long a fit takes, measured before it runs: what ``--dry-run`` says of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pcs_cli.fit_plan import FitPlan

BACKWARD = 3.0
"""Times that a training step takes of the network's forward: one forward, and two for the gradients."""


def time_lines(plan: FitPlan) -> list[str]:
    """Return about how long the steps take, by drawing a few with the untuned backbone; nothing without."""
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
    seconds = rows * row * BACKWARD
    return [
        f"time: about {duration(seconds)} for {steps}, as the network was measured now; what is drawn before "
        "and after them is on top"
    ]


def seconds_of_a_row(plan: FitPlan) -> float:
    """Return the seconds of one forward of one picture: of two more steps of a drawing."""
    from pcs_core.engine.sample import draw_base

    scheduler = plan.recipe.sample.scheduler

    def drawn(steps: int) -> float:
        begun = time.perf_counter()
        draw_base(plan.backbone, ["a photo"], seed=0, scale=1.0, steps=steps, scheduler=scheduler)
        return time.perf_counter() - begun

    drawn(1)  # whatever is made ready at the first call
    short, longer = drawn(1), drawn(3)
    return max((longer - short) / 2, longer / 30)


def duration(seconds: float) -> str:
    """Return seconds in words that claim no more than they know."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = seconds / 60
    return f"{round(minutes)} min" if minutes < 90 else f"{minutes / 60:.1f} h"
