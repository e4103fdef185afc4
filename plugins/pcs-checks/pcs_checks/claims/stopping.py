"""Claims about fits that end by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from pcs_core.data.check import CheckRow

if TYPE_CHECKING:
    from pcs_checks.observe import Observation


def stops(
    seen: Observation, *, phase: str, use: str, window: int, bound: float
) -> Iterator[CheckRow]:
    """A phase ends before its last step: where the last ``window`` losses of ``use`` vary too little.

    Their variance is then less than ``bound`` of that of all losses, of which there is one a step.
    """
    stored = {
        n.rpartition("/")[2]: t for n, t in seen.artifact.tensors.items() if n.startswith(use)
    }
    nothing = torch.full((window,), torch.nan, dtype=torch.float64)
    last = stored.get("last", nothing)
    count, squares = (float(stored.get(name, nothing[0])) for name in ("count", "squares"))
    taken = sum(step.phase == phase for step in seen.notes.steps)
    planned = next(p.steps for p in seen.recipe.phases if p.name == phase)
    compare = CheckRow.compare
    yield compare(f"{phase}: steps taken of {planned}", taken, "<", planned)
    yield compare(f"{phase}: steps before the window is full", taken, ">=", window)
    yield compare(f"{phase}: losses that were compared", len(last), "==", window)
    yield compare(f"{phase}: losses of the frozen batch, one a step", count - taken, "==", 0)
    ratio = float(last.var(correction=0)) / (squares / count)
    yield compare(f"{phase}: variance of the last losses by that of all", ratio, "<", bound)
