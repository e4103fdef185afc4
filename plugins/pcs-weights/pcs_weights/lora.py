"""Low-rank adaptation: y + (alpha / r) B A x (LoRA, arXiv:2106.09685, section 4.1).

One update for each reference, thrown-out elements and whole steps without the update are MotionDirector's
(arXiv:2310.08465, section 3.2, and MotionDirector_train.py of its authors).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from pcs_core import Technique, hookimpl
from pcs_core.backbone import batched_linear, gather
from pcs_core.data import REFERENCE, Features, Fusion, WeightEdit, Words
from pcs_weights.random_parts import dropped, off_rows, seeds_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Generator, Tensor

    from pcs_core.data import Conditioning, Run, Site, Subject


Mode = Literal["fit", "sample", "both"]
COUNT = "lora.references"
"""Feature: how many references there are, [1], where each has an update of its own."""


class LowRank(WeightEdit):
    """Stacked factors A [S, r, in] and B [S, out, r] on one linear or convolution layer."""

    PADDED: ClassVar[Mapping[str, int]] = {"A": 1, "B": 2}
    FACTORS = ("scale",)
    scale: Tensor

    def __init__(
        self,
        site: Site,
        start: Tensor,
        scale: float,
        mode: Mode = "both",
        *,
        dropout: float = 0.0,
        off: float = 0.0,
    ) -> None:
        super().__init__(site, stacked=True, mode=mode)
        self.dropout, self.off = dropout, off
        # of the recipe: nothing an artifact needs to hold
        self.register_buffer("scale", torch.tensor(scale), persistent=False)
        self.A = nn.Parameter(start)
        self.B = nn.Parameter(torch.zeros(start.shape[0], site.shape[0], start.shape[1]))

    def residual(self, x: Tensor, y: Tensor, cond: Conditioning | None) -> Tensor:
        """Return scale * B A x, each row with its own subject's factors."""
        subject = None if cond is None else cond.subject
        added = self._added(x, y, self.A, self.B, subject) * self.scale
        return self._thinned(added, cond).to(y.dtype)

    def low_rank(self) -> tuple[Tensor, Tensor, float] | None:
        """Return the first subject's factors and their scale."""
        return self.A[0], self.B[0], float(self.scale)

    def _added(self, x: Tensor, y: Tensor, a: Tensor, b: Tensor, which: Tensor | None) -> Tensor:
        """Return B A x in the shape of ``y``, by the factors a [n r in] and b [n out r] at ``which`` [b]."""
        low = x.to(a.dtype)  # the factors stay in fp32 whatever the network's dtype
        if len(self.site.shape) == 4:
            return self._convolution(low, a, b, which, -(-x.shape[-1] // y.shape[-1]))
        flat = low if x.dim() == 3 else low.reshape(x.shape[0], -1, x.shape[-1])
        return batched_linear(batched_linear(flat, a, which), b, which).reshape(y.shape)

    def _thinned(self, added: Tensor, cond: Conditioning | None) -> Tensor:
        """Return what is added while fitting: without its dropped elements, and in no step that is off."""
        if not self.training or not (self.dropout or self.off):
            return added
        seeds = seeds_of(cond, f"the update of the use {self.owner!r}")
        if self.off:
            on = [0.0 if off else 1.0 for off in off_rows(seeds, self.owner, self.off)]
            if not any(on):
                return torch.zeros_like(added)  # without a gradient: what is off learns nothing
            rows = added.new_tensor(on).repeat_interleave(len(added) // len(on))
            added = added * rows.view(-1, *[1] * (added.dim() - 1))
        if self.dropout:
            added = dropped(added, seeds, f"{self.owner}/{self.name}", self.dropout)
        return added

    def _convolution(
        self, x: Tensor, a: Tensor, b: Tensor, subject: Tensor | None, stride: int
    ) -> Tensor:
        _, inner, kernel, _ = self.site.shape
        a = gather(a, subject).unflatten(2, (inner, kernel, kernel))
        b = gather(b, subject)
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


class ReferenceLowRank(LowRank):
    """Factors A [S, N, r, in] and B [S, N, out, r]: one update for each of N references.

    A row of a fit has that of the reference it comes from, one that comes from none has none; a row of no fit
    has all of them, summed. ``counts`` [S] are the references of each subject: what goes beyond trains nothing
    and is not stored.
    """

    PADDED: ClassVar[Mapping[str, int]] = {"A": 2, "B": 3}

    def __init__(
        self,
        site: Site,
        start: Tensor,
        scale: float,
        mode: Mode,
        counts: Sequence[int],
        **options: float,
    ) -> None:
        super().__init__(site, start.flatten(0, 1), scale, mode, **options)
        subjects, most = start.shape[:2]
        self.counts = tuple(counts)
        self.A = nn.Parameter(start)
        self.B = nn.Parameter(self.B.detach().unflatten(0, (subjects, most)))

    def residual(self, x: Tensor, y: Tensor, cond: Conditioning | None) -> Tensor:
        """Return scale * B A x, each row with the factors of its reference."""
        subject = None if cond is None else cond.subject
        index = None if cond is None else cond.extra.get(REFERENCE)
        if index is None:  # sum_n B_n A_n is one update of N times the rank
            a = self.A.flatten(1, 2)
            b = self.B.transpose(1, 2).flatten(2, 3)
            return (self._added(x, y, a, b, subject) * self.scale).to(y.dtype)
        subjects = torch.zeros_like(index) if subject is None else subject
        which = subjects * self.A.shape[1] + index.clamp_min(0)
        added = self._added(x, y, self.A.flatten(0, 1), self.B.flatten(0, 1), which) * self.scale
        known = (index >= 0).to(added.dtype).repeat_interleave(len(added) // len(index))
        added = added * known.view(-1, *[1] * (added.dim() - 1))
        return self._thinned(added, cond).to(y.dtype)

    def low_rank(self) -> tuple[Tensor, Tensor, float] | None:
        """Return the sum of the first subject's updates, as one of N times the rank, and the scale."""
        return self.A[0].flatten(0, 1), self.B[0].transpose(0, 1).flatten(1, 2), float(self.scale)

    def stored(self, key: str, tensor: Tensor, subject: int = 0) -> Tensor:
        """Return the factors of the subject's own references."""
        return super().stored(key, tensor, subject)[: self.counts[subject]]


class LoRA(Technique):
    """Rank-``rank`` residuals on chosen layers; B starts at zero, so step 0 is the base."""

    id = "weights.lora"
    rowwise = True
    catalogue = ("lora",)
    neutral = {"alpha": 0.0}
    weighs = ("*/B",)
    later = ("per_reference", "dropout", "off")

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
    per_reference: bool = False
    """One update for each reference, which a step of the fit has where it shows that reference. A drawing
    with mode "both" has the sum of all."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the elements of what an update adds that are left out, anew in each step of a fit."""
    off: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the steps of a fit in which all updates of this use are off, each subject's at random: it learns
    nothing there, so something else must train in the phase."""

    def weighed(self) -> tuple[str, ...]:
        """Return one of the two factors, where it acts in a drawing."""
        return () if self.mode == "fit" else self.weighs

    def words(self) -> Words:
        """Return that it counts references where each has its own update."""
        return Words(writes=(f"feature:{COUNT}",)) if self.per_reference else Words()

    @hookimpl
    def extract(self, subject: Subject, moment: str) -> Features | None:
        """Count the references where each has its own update: sampling builds these again without them."""
        if moment != "start" or not self.per_reference:
            return None
        return Features(tensors={COUNT: torch.tensor([len(subject.images)])}, keep=(COUNT,))

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
            rngs = [run.init_rng(s, f"{self.id}/{site}") for s in range(features.subjects)]
            edits.append(self._edit(site, (rank, fan_in), scale, rngs, features))
        return Fusion(edits=tuple(edits))

    def _edit(
        self,
        site: Site,
        size: tuple[int, int],
        scale: float,
        rngs: Sequence[Generator],
        features: Features,
    ) -> LowRank:
        """Return the update of one layer: A from a normal distribution of deviation 1 / rank, B zero."""
        options = {"dropout": self.dropout, "off": self.off}
        if not self.per_reference:
            start = torch.stack([torch.randn(*size, generator=r) / self.rank for r in rngs])
            return LowRank(site, start, scale, self.mode, **options)
        counts = features.get(COUNT, self.id)[:, 0].long().tolist()
        most = max(max(counts), 1)
        start = torch.stack([torch.randn(most, *size, generator=r) / self.rank for r in rngs])
        return ReferenceLowRank(site, start, scale, self.mode, counts, **options)
