"""Guidance between branches: what tuning adds, and what the text adds (StyleDrop, arXiv:2306.00983, 3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from pcs_core import Technique, hookimpl
from pcs_core.data import Branch, Fusion, GuidanceTerm

if TYPE_CHECKING:
    from pcs_core.data import Run


class BranchGuidance(Technique):
    """Add ``tuned * (tuned - base)`` and ``text * (base - null)`` to the tuned prediction.

    The base is the same network without edits, "null" the base under the negative prompt. The weights
    of a recipe replace ``[sample] scale``, which is then 1. With tuned = -1 and text = 0 the base
    remains, with both 0 the tuned network.
    """

    id = "guidance.branches"
    catalogue = ("branch-guidance",)
    neutral = {"tuned": 0.0, "text": 0.0}

    tuned: Annotated[float, Field(ge=-1.0, le=100.0)] = 2.0
    """Weight of what tuning changed: the strength of the style or subject."""
    text: Annotated[float, Field(ge=0.0, le=100.0)] = 5.0
    """Weight of what the prompt changes in the base."""
    edits: str = "*"
    """Globs of the uses whose edits make the tuned branch of the first term."""
    start: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Where in the sampling it begins, 0 = pure noise."""
    stop: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0
    """Where it ends, 1 = the picture."""

    @hookimpl
    def fuse(self, run: Run) -> Fusion | None:
        """Return the two terms; branches they share are evaluated once."""
        base, null = Branch(model="base"), Branch("negative", model="base")
        terms = (
            GuidanceTerm(Branch(edits=self.edits), base, self.tuned, self.start, self.stop),
            GuidanceTerm(base, null, self.text, self.start, self.stop),
        )
        return Fusion(guidance=tuple(term for term in terms if term.weight))
