"""Low-rank adaptation: y + (alpha / r) B A x (LoRA, arXiv:2106.09685, section 4.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from pcs_core import Technique, hookimpl
from pcs_core.backbone import batched_linear, gather
from pcs_core.data import Fusion, WeightEdit

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Conditioning, Features, Run, Site


Mode = Literal["fit", "sample", "both"]


class LowRank(WeightEdit):
    """Stacked factors A [S, r, in] and B [S, out, r] on one linear or convolution layer."""

    PADDED = {"A": 1, "B": 2}
    FACTORS = ("scale",)
    scale: Tensor

    def __init__(self, site: Site, start: Tensor, scale: float, mode: Mode = "both") -> None:
        super().__init__(site, stacked=True, mode=mode)
        # of the recipe: nothing an artifact needs to hold
        self.register_buffer("scale", torch.tensor(scale), persistent=False)
        self.A = nn.Parameter(start)
        self.B = nn.Parameter(torch.zeros(start.shape[0], site.shape[0], start.shape[1]))

    def residual(self, x: Tensor, y: Tensor, cond: Conditioning | None) -> Tensor:
        """Return scale * B A x, each row with its own subject's factors."""
        subject = None if cond is None else cond.subject
        low = x.to(self.A.dtype)  # the factors stay in fp32 whatever the network's dtype
        if len(self.site.shape) == 4:
            stride = -(-x.shape[-1] // y.shape[-1])
            return (self._convolution(low, subject, stride) * self.scale).to(y.dtype)
        flat = low if x.dim() == 3 else low.reshape(x.shape[0], -1, x.shape[-1])
        added = batched_linear(batched_linear(flat, self.A, subject), self.B, subject)
        return (added * self.scale).to(y.dtype).reshape(y.shape)

    def _convolution(self, x: Tensor, subject: Tensor | None, stride: int) -> Tensor:
        _, inner, kernel, _ = self.site.shape
        a = gather(self.A, subject).unflatten(2, (inner, kernel, kernel))
        b = gather(self.B, subject)
        if a.shape[0] == 1:
            low = F.conv2d(x, a[0], stride=stride, padding=kernel // 2)
            return F.conv2d(low, b[0, :, :, None, None])
        n = x.shape[0]
        if a.shape[0] != n:  # frames or views folded into the batch
            a, b = (t.repeat_interleave(n // t.shape[0], dim=0) for t in (a, b))
        # rows folded into groups: one grouped convolution for all subjects
        low = F.conv2d(
            x.reshape(1, n * inner, *x.shape[2:]),
            a.flatten(0, 1),
            stride=stride,
            padding=kernel // 2,
            groups=n,
        )
        side = low.shape[-2:]
        return torch.bmm(b, low.reshape(n, b.shape[2], -1)).unflatten(2, side)


class LoRA(Technique):
    """Rank-``rank`` residuals on chosen layers; B starts at zero, so step 0 is the base."""

    id = "weights.lora"
    catalogue = ("lora",)
    neutral = {"alpha": 0.0}

    rank: Annotated[int, Field(ge=1, le=1024)] = 4
    """Rank r of the update."""
    alpha: Annotated[float, Field(ge=0.0)] | None = None
    """Numerator of the scale alpha / r; the rank itself when not given."""
    sites: str = "attention.*.q|attention.*.k|attention.*.v|attention.*.out"
    """Globs over layer names, joined by ``|``."""
    kind: Literal["linear", "conv", "*"] = "linear"
    """Kind of layers taken among the matches."""
    part: Literal["denoiser", "text"] = "denoiser"
    """Which network gets the update."""
    mode: Mode = "both"
    """Where it acts. "fit": it takes up what another use shall not learn, and is left out of sampling."""

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion | None:
        """Put one low-rank residual on each matching layer."""
        scale = (self.rank if self.alpha is None else self.alpha) / self.rank
        edits = []
        for site in run.sites(self.sites, self.kind, self.part):
            if site.kind not in ("linear", "conv"):
                continue
            fan_in = int(torch.tensor(site.shape[1:]).prod())
            rank = min(self.rank, site.shape[0], fan_in)
            start = torch.stack(
                [
                    torch.randn(rank, fan_in, generator=run.init_rng(s, f"{self.id}/{site}"))
                    / self.rank
                    for s in range(features.subjects)
                ]
            )
            edits.append(LowRank(site, start, scale, self.mode))
        return Fusion(edits=tuple(edits))
