"""Cross-attention of a concept's word is held to the concept's mask.

``match`` is Break-A-Scene's (arXiv:2305.16311, section 3.2), ``contrast`` FastComposer's
(arXiv:2305.10431, section 4.2), ``unmix`` SVDiff's (arXiv:2303.11305, section 3.3), ``split`` Mix-of-Show's
(arXiv:2305.18292, the authors' code).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from pcs_core import Technique, hookimpl
from pcs_core.data import Fusion, Loss, Words
from pcs_core.errors import CapabilityError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from pcs_core.data import FitStep, Run, Site


def mean_map(
    tape: Mapping[str, Tensor], sites: Sequence[Site], size: tuple[int, int], finest: int
) -> Tensor:
    """Return the maps [b m y x] averaged over heads and sites, on the grid of scale ``finest``.

    ``tape`` holds [b h n m] per site; ``size`` is that of the latents.
    """
    grids = {s.scale: tuple(-(-side // s.scale) for side in size) for s in sites}
    maps = []
    for site in sites:
        found = tape[site.name].float().mean(1).transpose(1, 2).unflatten(2, grids[site.scale])
        if site.scale != finest:
            found = F.interpolate(found, grids[finest], mode="bilinear", align_corners=False)
        maps.append(found)
    return torch.stack(maps).mean(0)


def peak(maps: Tensor) -> Tensor:
    """Return ``maps`` [b t y x] divided by each one's largest value."""
    return maps / maps.amax(dim=(2, 3), keepdim=True).clamp_min(1e-12)


def mean_where(values: Tensor, where: Tensor) -> Tensor:
    """Return the mean [b t] of ``values`` [b t y x] weighted by ``where`` [b 1 y x]."""
    return (values * where).sum((2, 3)) / where.sum((2, 3)).clamp_min(1e-6)


def match(maps: Tensor, inside: Tensor, elsewhere: Tensor, last: Tensor) -> Tensor:
    """Return the squared distance [b t] of the peak-normalised map to the mask."""
    return (peak(maps) - inside).square().mean((2, 3))


def contrast(maps: Tensor, inside: Tensor, elsewhere: Tensor, last: Tensor) -> Tensor:
    """Return the mean outside the mask less the mean inside it [b t]."""
    return mean_where(maps, 1 - inside) - mean_where(maps, inside)


def unmix(maps: Tensor, inside: Tensor, elsewhere: Tensor, last: Tensor) -> Tensor:
    """Return the squared map [b t] where the other concepts are."""
    return (maps * elsewhere).square().mean((2, 3))


def split(maps: Tensor, inside: Tensor, elsewhere: Tensor, last: Tensor) -> Tensor:
    """Return [b t]: the last row (the class) matches the mask, the others stay inside it."""
    leak = mean_where(peak(maps), 1 - inside)
    return torch.where(last, match(maps, inside, elsewhere, last), leak)


MODES = {"match": match, "contrast": contrast, "unmix": unmix, "split": split}


class LocalizationLoss(Technique):
    """Penalise attention of a concept's word that leaves the concept's region.

    Regions are those that examples carry ("mask.concept.<k>"). A row without the word or without a region
    of its concept says nothing.
    """

    id = "attention.localization_loss"
    catalogue = ("attention-localization-loss",)
    neutral = {"weight": 0.0}
    tiny = {"scale": 2}

    mode: Literal["match", "contrast", "unmix", "split"] = "match"
    """What is compared: see the module."""
    weight: Annotated[float, Field(ge=0.0)] = 0.01
    """Factor of the term."""
    sites: str = "cross"
    """Globs of the cross-attention sites whose maps count."""
    scale: Annotated[int, Field(ge=1)] | None = None
    """Downsampling of the grid of the maps against the latents; None takes all grids, brought to the
    finest. Maps of 16 x 16 in Stable Diffusion have scale 4."""
    regions: str = "mask.concept."
    """What the names of the regions begin with; the concept's number follows."""

    def words(self) -> Words:
        """Return what it reads and writes."""
        return Words(reads=(f"region:{self.regions}*", "place:concept.*"))

    @hookimpl
    def fuse(self, run: Run) -> Fusion | None:
        """Ask for the maps of the sites."""
        if self.weight == 0.0:
            return None
        return Fusion(records=tuple(site.name for site in self._sites(run)))

    def _sites(self, run: Run) -> list[Site]:
        found = [s for s in run.sites(self.sites) if s.kind == "cross"]
        chosen = [s for s in found if self.scale in (None, s.scale)]
        if not chosen:
            scales = ", ".join(str(s) for s in sorted({s.scale for s in found})) or "none"
            raise CapabilityError(
                f"{self.id}: no cross-attention site matches {self.sites!r} at scale {self.scale} "
                f"(scales there: {scales})"
            )
        return chosen

    @hookimpl
    def regularize(self, run: Run, step: FitStep) -> Loss | None:
        """Return the sum over concepts of the mean over each one's tokens."""
        batch, cond = step.batch, step.cond
        numbers = [int(n.rpartition(".")[2]) for n in cond.spans if n.startswith("concept.")]
        slots = [k for k in sorted(numbers) if f"{self.regions}{k}" in batch.regions]
        if self.weight == 0.0 or not slots:
            return None
        sites = self._sites(run)
        size: Any = tuple(step.noisy.shape[-2:])
        finest = min(site.scale for site in sites)
        maps = mean_map(step.tape, sites, size, finest)
        masks = {
            k: F.interpolate(
                batch.regions[f"{self.regions}{k}"].float(), maps.shape[2:], mode="area"
            )
            for k in slots
        }
        value, speaks = maps.new_zeros(len(maps)), batch.rows("subject")
        for k in slots:
            span = cond.spans[f"concept.{k}"]
            others = [masks[j] for j in slots if j != k]
            elsewhere = torch.stack(others).amax(0) if others else torch.zeros_like(masks[k])
            present = span >= 0
            last = present & (present.cumsum(1) == present.sum(1, keepdim=True))
            index = span.clamp_min(0)[:, :, None, None].expand(-1, -1, *maps.shape[2:])
            terms = MODES[self.mode](maps.gather(1, index), masks[k], elsewhere, last)
            counts = present & (masks[k].flatten(1).amax(1) > 0)[:, None]
            value = value + (terms * counts).sum(1) / counts.sum(1).clamp_min(1)
        return Loss("localization", value, weight=self.weight, rows=speaks)
