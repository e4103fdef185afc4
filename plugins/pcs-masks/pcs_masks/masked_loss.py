"""The reconstruction error counts where the concepts are (Break-A-Scene, arXiv:2305.16311, section 3.2)."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field

from pcs_core import Technique, hookimpl
from pcs_core.data import LOSS, VALID, Masks, Words, valid_cells

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from pcs_core.data import Batch, MaskQuery, Run


def union(batch: Batch, regions: str, spans: Mapping[str, Tensor] | None = None) -> Tensor | None:
    """Return the largest value of the batch's regions at each place [b 1 h w], or None without any.

    With ``spans`` the region "mask.concept.<k>" is empty in rows where ``spans["concept.<k>"]`` [b n] holds
    no position (all are negative).
    """
    matching = []
    for name, region in batch.regions.items():
        if not fnmatchcase(name, regions):
            continue
        concept = name.removeprefix("mask.")
        if spans is not None and concept.startswith("concept."):
            span = spans.get(concept)
            said = region.new_zeros(len(region)) if span is None else (span >= 0).any(1).to(region)
            region = region * said.view(-1, 1, 1, 1)
        matching.append(region)
    return torch.stack(matching).amax(0) if matching else None


def elsewhere(batch: Batch) -> Tensor | float:
    """Return the weights [b 1 h w] by which others multiply the error: of pictures on a ground around them.

    Each has a mean of 1. A region "mask.valid.<name>" that is empty is of a row without a ground around it.
    """
    product: Tensor | float = batch.masks.get(LOSS, 1.0)
    for name, covered in batch.regions.items():
        if name.startswith(VALID):
            valid = valid_cells(covered)
            mean = valid.mean(dim=(1, 2, 3), keepdim=True)
            product = product * torch.where(mean > 0, valid / mean.clamp_min(1e-12), 1.0)
    return product


class MaskedLoss(Technique):
    """Weigh the reconstruction error by the union of the regions that an example carries.

    An example without a region counts in full, and so do rows of other roles than the subject's.
    """

    id = "masks.masked_loss"
    catalogue = ("masked-loss",)
    neutral = {"background": 1.0}
    mask_moments = ("batch",)
    later = ("channels", "draw", "spoken")

    regions: str = "mask.concept.*"
    """Glob of the regions."""
    background: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Weight of the error outside the regions; 1 is the whole error."""
    normalise: bool = False
    """Whether a row's error is divided by the mean of its mask, so that small regions count as much: the mean
    over the region in place of the mean over the picture, also of a picture with a ground around it."""
    channels: Literal["mean", "sum"] = "mean"
    """Reduction over the channels of the latents. Mix-of-Show (arXiv:2305.18292, `trainer_edlora.py`) divides
    the sum over places and channels by the number of places alone: "sum", with a mask and without."""
    invert: bool = False
    """Whether the error counts outside the regions instead."""
    probability: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0
    """Share of the rows that are masked; FastComposer (arXiv:2305.10431) masks half of them."""
    draw: Literal["row", "step"] = "row"
    """Whether each row is masked or not by a draw of its own, or all rows of a step by one."""
    spoken: bool = False
    """Whether the region of a concept counts only where the text of the row holds the concept's word. A masked
    row without any then has no error at all, as in FastComposer's code, in place of the whole error."""

    def words(self) -> Words:
        """Return what it reads and writes."""
        return Words(reads=(f"region:{self.regions}",), writes=("mask:loss",))

    @hookimpl
    def mask(self, run: Run, query: MaskQuery) -> Masks | None:
        """Return the mask "loss" [b 1 h w] at the size of the latents."""
        if query.moment != "batch" or query.step is None or self.background == 1.0:
            return None
        step: Any = query.step
        batch = step.batch
        size = batch.latents.shape[1] if self.channels == "sum" else 1
        inside = union(batch, self.regions, step.cond.spans if self.spoken else None)
        if inside is None and size == 1:
            return None
        if inside is None:
            latents = batch.latents  # of a clip all frames have one mask
            inside = latents.new_zeros(len(latents), 1, *latents.shape[-2:])
        has = torch.full_like(inside[:, 0, 0, 0], self.spoken, dtype=torch.bool)
        has = has | (inside.flatten(1).amax(1) > 0)
        if self.invert:
            inside = 1 - inside
        weight = self.background + (1 - self.background) * inside
        if self.normalise:
            others = elsewhere(batch)
            weight = weight / (weight * others).mean(dim=(1, 2, 3), keepdim=True).clamp_min(1e-6)
        counts = has & batch.rows("subject") & self._drawn(run, query, len(has)).to(has.device)
        weight = torch.where(counts[:, None, None, None], weight, 1.0)
        # the error's mean is over channels too
        times = torch.where(batch.rows("subject"), float(size), 1.0)
        return Masks({LOSS: weight * times[:, None, None, None]})

    def _drawn(self, run: Run, query: MaskQuery, rows: int) -> Tensor:
        """Return which rows of this step are masked, the same after an interruption."""
        if self.probability == 1.0:
            return torch.ones(rows, dtype=torch.bool)
        step = query.step.index  # type: ignore[union-attr]
        rng = torch.Generator().manual_seed(run.seed * 1_000_003 + step)
        count = 1 if self.draw == "step" else rows
        return (torch.rand(count, generator=rng) < self.probability).expand(rows)
