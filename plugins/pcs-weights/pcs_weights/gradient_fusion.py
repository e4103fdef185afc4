"""Gradient fusion of several personalizations' low-rank updates (Mix-of-Show, arXiv:2305.18292, section 3.3).

For each layer W = argmin sum_i ||(W0 + dW_i) X_i - W X_i||_F^2 over the inputs X_i that the layer met in the
i-th personalization, by L-BFGS from W0. The sum is a quadratic form in the Gram matrices X_i X_i^T, so these
are all that is recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field
from torch import nn

from pcs_core import Technique, hookimpl
from pcs_core.data import Fusion, WeightEdit

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Conditioning, Features, Run, Site


class LayerDelta(WeightEdit):
    """The fused difference W - W0 [out in] of one linear layer."""

    def __init__(self, site: Site, strength: float) -> None:
        super().__init__(site)
        self.strength = strength
        self.delta = nn.Parameter(torch.zeros(site.shape))

    def residual(self, x: Tensor, y: Tensor, cond: Conditioning | None) -> Tensor:
        """Return strength * x delta^T."""
        return (self.strength * (x.to(self.delta.dtype) @ self.delta.T)).to(y.dtype)


class GradientFusion(Technique):
    """A personalization fused from others: its deltas were solved for, nothing is trained."""

    id = "weights.gradient_fusion"
    catalogue = ("gradient-fusion",)
    stacks_subjects = False
    neutral = {"strength": 0.0}

    sites: str = "attention.*.q|attention.*.k|attention.*.v|attention.*.out"
    """Globs of the denoiser's linear layers that were fused."""
    text_sites: str = ""
    """Globs of the text encoder's; empty: none."""
    strength: Annotated[float, Field(ge=0.0, le=2.0)] = 1.0
    """Factor of the deltas."""

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion | None:
        """Put one delta on each layer."""
        sites = [*run.sites(self.sites, "linear", "denoiser")]
        sites += run.sites(self.text_sites, "linear", "text") if self.text_sites else []
        return Fusion(edits=tuple(LayerDelta(site, self.strength) for site in sites))


def solve(gram: Sequence[Tensor], deltas: Sequence[Tensor], iterations: int) -> Tensor:
    """Return W - W0 [out in] that minimises sum_i tr((D_i - D) G_i (D_i - D)^T), fp64 inside.

    ``gram`` G_i [in in], ``deltas`` D_i [out in]; ``iterations`` of L-BFGS with a strong Wolfe search.
    """
    grams, targets = (
        torch.stack([g.double() for g in gram]),
        torch.stack([d.double() for d in deltas]),
    )
    grams = grams / grams.diagonal(dim1=1, dim2=2).mean().clamp_min(1e-12)
    delta = torch.zeros_like(targets[0], requires_grad=True)
    search = torch.optim.LBFGS(
        [delta],
        lr=1.0,
        max_iter=iterations,
        history_size=25,
        tolerance_grad=1e-12,
        tolerance_change=1e-15,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        search.zero_grad()
        off = targets - delta
        loss = ((off @ grams) * off).sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        search.step(closure)  # type: ignore[no-untyped-call]
    return delta.detach().to(deltas[0].dtype)
