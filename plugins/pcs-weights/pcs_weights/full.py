"""Fine-tuning of all weights, by owned copies swapped in (DreamBooth, arXiv:2208.12242, section 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from pcs_core import Technique, hookimpl
from pcs_core.data import Fusion, ReplaceEdit

if TYPE_CHECKING:
    from pcs_core.data import Run


class FullFinetune(Technique):
    """Train every weight of chosen parts. The artifact stores the difference to the base.

    No subject axis: several subjects are fitted one after the other.
    """

    id = "weights.full"
    rowwise = True
    catalogue = ("full-finetune",)
    weighs = ("*",)  # stored is the difference to the base
    stacks_subjects = False

    parts: Annotated[tuple[Literal["denoiser", "text"], ...], Field(min_length=1)] = ("denoiser",)
    """Networks whose weights train."""
    pattern: str = "*"
    """Glob over parameter paths: "*" is all of them."""

    @hookimpl
    def fuse(self, run: Run) -> Fusion | None:
        """Own a copy of every matching parameter."""
        return Fusion(
            edits=tuple(
                ReplaceEdit(part, run.parameters(part, self.pattern)) for part in self.parts
            )
        )
