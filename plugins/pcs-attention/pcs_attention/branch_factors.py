"""What each branch of guidance counts, for techniques that ask the branches themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pcs_core.data import Branch
from pcs_core.errors import CapabilityError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pcs_core.data import GuidanceTerm


def branch_factors(
    terms: Sequence[GuidanceTerm], progress: float, name: str
) -> dict[Branch, float]:
    """Return the factor of each branch of the guidance terms that act; those that cancel are left out."""
    factors = {Branch("positive"): 1.0}
    for term in terms:
        if not term.start <= progress < term.stop:
            continue
        if term.mask is not None:
            raise CapabilityError(f"{name}: it cannot draw with guidance that a mask weighs")
        for side, weight in ((term.plus, term.weight), (term.minus, -term.weight)):
            factors[side] = factors.get(side, 0.0) + weight
    return {branch: factor for branch, factor in factors.items() if factor}
