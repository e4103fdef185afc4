"""Control branches: networks beside the denoiser."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pcs_core.edits.edit import Edit

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data.conditioning import Conditioning


class BranchEdit(Edit):
    """A control branch: a network beside the denoiser whose residuals are added to its blocks.

    Residuals of all branches add up. ``name`` is the part its own sites carry (``branch:<name>``).
    """

    STAGES = ("residuals",)
    LISTED = 80

    def sole_names(self) -> Iterable[tuple[str, str]]:
        """Return the branch."""
        return [("control branch", self.name)]

    def residuals(
        self, latents: Tensor, time: Tensor, cond: Conditioning
    ) -> tuple[Sequence[Tensor], Tensor] | None:
        """Return residuals of the down blocks (in order) and of the middle block; None adds nothing."""
        raise NotImplementedError
