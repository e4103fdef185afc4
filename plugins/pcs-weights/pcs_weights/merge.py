"""Key/value deltas that were solved for, not trained (Custom Diffusion, arXiv:2212.04488, section 3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from pcs_core import Technique, hookimpl
from pcs_core.data import Features, Fusion
from pcs_weights.kv import ProjectionDelta

if TYPE_CHECKING:
    from pcs_core.data import Run


class ClosedFormMerge(Technique):
    """A personalization merged from others: its deltas were solved for, nothing is trained."""

    id = "weights.merge"
    catalogue = ("weight-merge-closed-form",)
    stacks_subjects = False
    neutral = {"strength": 0.0}
    weighs = ("*",)
    merges_by = "closed-form"

    sites: str = "cross"
    """Attention sites that were merged."""
    strength: Annotated[float, Field(ge=0.0, le=2.0)] = 1.0
    """Factor of the merged delta."""

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion | None:
        """Put the merged deltas where the originals were."""
        return Fusion(
            edits=tuple(
                ProjectionDelta(site, ("k", "v"), 1, self.strength)
                for site in run.sites(self.sites)
                if site.kind == "cross"
            )
        )
