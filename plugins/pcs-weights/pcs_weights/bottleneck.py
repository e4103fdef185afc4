"""Bottleneck adapters on layer outputs: y + U gelu(D y), U zero at the start.

After attention and feed-forward layers. StyleDrop tunes Muse by such adapters after cross-attention and
feed-forward layers (arXiv:2306.00983, section 3.2 and appendix B.1.1); the form is that of adapters,
arXiv:1902.00751.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from pcs_core import Technique, hookimpl
from pcs_core.backbone import batched_linear
from pcs_core.data import Fusion, WeightEdit
from pcs_core.errors import RecipeError

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Conditioning, Features, Run, Site


class Bottleneck(WeightEdit):
    """Stacked projections D [S, hidden, width] and U [S, width, hidden] on one layer's output."""

    def __init__(self, site: Site, start: Tensor, strength: float, activation: str) -> None:
        super().__init__(site, stacked=True)
        self.strength, self.activation = strength, activation
        self.down = nn.Parameter(start)
        self.up = nn.Parameter(torch.zeros(start.shape[0], start.shape[2], start.shape[1]))

    def residual(self, x: Tensor, y: Tensor, cond: Conditioning | None) -> Tensor:
        """Return strength * U f(D y), each row with its own subject's projections."""
        subject = None if cond is None else cond.subject
        flat = y.to(self.down.dtype)  # the adapters stay in fp32 whatever the network's dtype
        flat = flat if y.dim() == 3 else flat.reshape(y.shape[0], -1, y.shape[-1])
        hidden = getattr(F, self.activation)(batched_linear(flat, self.down, subject))
        added = batched_linear(hidden, self.up, subject) * self.strength
        return added.to(y.dtype).reshape(y.shape)


class BottleneckAdapter(Technique):
    """Small down-up modules behind chosen linear layers; they alone train, and start as a no-op."""

    id = "weights.bottleneck"
    rowwise = True
    catalogue = ("bottleneck-adapter",)
    neutral = {"strength": 0.0}
    weighs = ("*/up",)

    hidden: Annotated[int, Field(ge=1, le=4096)] = 32
    """Width of the bottleneck."""
    sites: str = "*.to_out.0|*.ff.net.2"
    """Globs over linear layers whose output is adapted, joined by ``|``: attention and feed-forward."""
    activation: Literal["gelu", "relu", "silu"] = "gelu"
    """What stands between the two projections."""
    strength: Annotated[float, Field(ge=0.0, le=10.0)] = 1.0
    """Factor of what is added; 0 is the base network."""
    part: Literal["denoiser", "text"] = "denoiser"
    """Which network gets them."""

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion | None:
        """Put one adapter behind each matching layer."""
        sites = run.sites(self.sites, "linear", self.part)
        if not sites:
            raise RecipeError(
                f"{self.id}: no linear layer of part {self.part!r} matches {self.sites!r}"
            )
        edits = []
        for site in sites:
            width = site.shape[0]
            start = torch.stack(
                [
                    torch.randn(self.hidden, width, generator=run.init_rng(s, f"{self.id}/{site}"))
                    / width**0.5
                    for s in range(features.subjects)
                ]
            )
            edits.append(Bottleneck(site, start, self.strength, self.activation))
        return Fusion(edits=tuple(edits))
