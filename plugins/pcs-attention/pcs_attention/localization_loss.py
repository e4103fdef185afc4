"""Cross-attention of a concept's word is held to the concept's mask.

``match`` is Break-A-Scene's (arXiv:2305.16311, section 3.2), ``contrast`` FastComposer's
(arXiv:2305.10431, section 4.2, and the authors' `model.py`), ``unmix`` SVDiff's (arXiv:2303.11305, section
3.3), ``outside`` and ``split`` Mix-of-Show's (arXiv:2305.18292, the authors' `trainer_edlora.py`: five of six
configurations, and the sixth).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
        site_map = tape[site.name].float().mean(1).transpose(1, 2).unflatten(2, grids[site.scale])
        if site.scale != finest:
            site_map = F.interpolate(site_map, grids[finest], mode="bilinear", align_corners=False)
        maps.append(site_map)
    return torch.stack(maps).mean(0)


def together(group: Tensor) -> Tensor:
    """Return which rows [b b] are of one group [b]."""
    return group[:, None] == group[None, :]


def peak(maps: Tensor, group: Tensor | None = None) -> Tensor:
    """Return ``maps`` [b t y x] divided by each one's largest value, or by that of its group of rows [b]."""
    top = maps.amax(dim=(2, 3))
    if group is not None:
        others = torch.where(together(group)[..., None], top[None], -torch.inf)
        top = others.amax(1)
    return maps / top[..., None, None].clamp_min(1e-12)


def mean_where(values: Tensor, where: Tensor, group: Tensor | None = None) -> Tensor:
    """Return the mean [b t] of ``values`` [b t y x] weighted by ``where`` [b 1 y x].

    With a ``group`` [b], the mean over its rows of what is returned is that over all places of all rows.
    """
    size = where.sum((2, 3))
    if group is not None:
        same = together(group).to(size)
        size = (same @ size) / same.sum(1, keepdim=True)
    return (values * where).sum((2, 3)) / size.clamp_min(1e-6)


@dataclass(frozen=True, slots=True)
class Compared:
    """Maps of a concept's tokens, and the regions that they are held against.

    ``maps`` [b t y x], ``inside`` and ``elsewhere`` [b 1 y x] (the concept's region, the other concepts'),
    ``last`` [b t] marks the word's last token. ``group`` [b] numbers rows whose peaks and means are taken
    together; None: each row alone.
    """

    maps: Tensor
    inside: Tensor
    elsewhere: Tensor
    last: Tensor
    group: Tensor | None = None

    @property
    def peaked(self) -> Tensor:
        """The maps, their largest value 1."""
        return peak(self.maps, self.group)


def match(given: Compared) -> Tensor:
    """Return the squared distance [b t] of the peak-normalised map to the mask: the mean over all places."""
    return (given.peaked - given.inside).square().mean((2, 3))


def contrast(given: Compared) -> Tensor:
    """Return the mean outside the mask less the mean inside it [b t]."""
    return mean_where(given.maps, 1 - given.inside) - mean_where(given.maps, given.inside)


def unmix(given: Compared) -> Tensor:
    """Return the squared map [b t] where the other concepts are: the mean over all places."""
    return (given.maps * given.elsewhere).square().mean((2, 3))


def outside(given: Compared) -> Tensor:
    """Return the mean [b t] of the peak-normalised map over the places that the mask does not touch."""
    return mean_where(given.peaked, (given.inside == 0).to(given.maps), given.group)


def split(given: Compared) -> Tensor:
    """Return [b t]: the last row (the class) matches the mask, the others stay inside it."""
    return torch.where(given.last, match(given), outside(given))


MODES: dict[str, Callable[[Compared], Tensor]] = {
    "match": match,
    "contrast": contrast,
    "unmix": unmix,
    "split": split,
    "outside": outside,
}


class LocalizationLoss(Technique):
    """Penalise attention of a concept's word that leaves the concept's region.

    Regions are those that examples carry ("mask.concept.<k>"). A row without the word or without a region
    of its concept says nothing. A row's value is what ``concepts`` makes of its concepts, the sum over grids
    where ``grids`` is "each", the mean over sites where it is "site"; over the tokens of a word it is what
    ``tokens`` says.
    """

    id = "attention.localization_loss"
    rowwise = True
    catalogue = ("attention-localization-loss",)
    neutral = {"weight": 0.0}
    tiny = {"scale": 1}
    later = ("grids", "tokens", "peaks", "masks", "concepts")

    mode: Literal["match", "contrast", "unmix", "split", "outside"] = "match"
    """What is compared: see the module."""
    weight: Annotated[float, Field(ge=0.0)] = 0.01
    """Factor of the term."""
    sites: str = "cross"
    """Globs of the cross-attention sites whose maps count."""
    scale: Annotated[int, Field(ge=0)] | None = None
    """Downsampling of the grid of the maps against the latents; None or 0 takes all grids. Maps of 16 x 16 in
    Stable Diffusion have scale 4."""
    grids: Literal["finest", "each", "site"] = "finest"
    """Several grids: brought to the finest and averaged, or a term each, summed (Mix-of-Show), or a term for
    each site on its own grid, averaged (FastComposer)."""
    tokens: Literal["mean", "sum", "last"] = "mean"
    """Reduction over the tokens of a word, or its last token alone (FastComposer)."""
    concepts: Literal["sum", "mean"] = "sum"
    """Reduction over the concepts of a row: their mean is over those that the row holds (FastComposer)."""
    peaks: Literal["row", "batch"] = "row"
    """Where the largest value and the mean outside are taken ("split", "outside", "match"): in each row
    alone, or in all rows of a subject in a step at once (Mix-of-Show)."""
    masks: Literal["area", "nearest", "bilinear"] = "area"
    """How a region of the latents' size comes to a map's grid: the mean of the area, the nearest value, or
    linearly with antialiasing (FastComposer)."""
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
        cross = [s for s in run.sites(self.sites) if s.kind == "cross"]
        chosen = [s for s in cross if not self.scale or s.scale == self.scale]
        if not chosen:
            scales = ", ".join(str(s) for s in sorted({s.scale for s in cross})) or "none"
            raise CapabilityError(
                f"{self.id}: no cross-attention site matches {self.sites!r} at scale {self.scale} "
                f"(scales there: {scales})"
            )
        return chosen

    @hookimpl
    def regularize(self, run: Run, step: FitStep) -> Loss | None:
        """Return the term: one value a row."""
        cond = step.cond
        numbers = [int(n.rpartition(".")[2]) for n in cond.spans if n.startswith("concept.")]
        slots = [k for k in sorted(numbers) if f"{self.regions}{k}" in step.batch.regions]
        if self.weight == 0.0 or not slots:
            return None
        sites = self._sites(run)
        size: Any = tuple(step.noisy.shape[-2:])
        scales = sorted({site.scale for site in sites})
        if self.grids == "each":
            maps = [
                mean_map(step.tape, [s for s in sites if s.scale == scale], size, scale)
                for scale in scales
            ]
        elif self.grids == "site":
            maps = [mean_map(step.tape, [site], size, site.scale) for site in sites]
        else:
            maps = [mean_map(step.tape, sites, size, scales[0])]
        value = torch.stack([self._on_grid(step, one, slots) for one in maps]).sum(0)
        value = value / len(maps) if self.grids == "site" else value
        speaks = step.batch.rows("subject")
        return Loss("localization", value, weight=self.weight, rows=speaks)

    def _on_grid(self, step: FitStep, maps: Tensor, slots: Sequence[int]) -> Tensor:
        """Return the value [b] of the maps [b m y x] of one grid, its concepts joined."""
        batch, grid = step.batch, tuple(maps.shape[2:])
        masks = {
            k: F.interpolate(
                batch.regions[f"{self.regions}{k}"].float(),
                grid,
                mode=self.masks,
                antialias=self.masks == "bilinear",
            )
            for k in slots
        }
        value, speaks = maps.new_zeros(len(maps)), batch.rows("subject")
        shown = maps.new_zeros(len(maps))
        for k in slots:
            span = self._span(step.cond.spans[f"concept.{k}"])
            others = [masks[j] for j in slots if j != k]
            present = span >= 0
            index = span.clamp_min(0)[:, :, None, None].expand(-1, -1, *grid)
            counts = present & (batch.regions[f"{self.regions}{k}"].flatten(1).amax(1) > 0)[:, None]
            group = None
            if self.peaks == "batch":  # a row that says nothing is a group of its own
                alone = -1 - torch.arange(len(maps), device=maps.device)
                group = torch.where(counts.any(1) & speaks, batch.subject, alone)
            terms = MODES[self.mode](
                Compared(
                    maps=maps.gather(1, index),
                    inside=masks[k],
                    elsewhere=torch.stack(others).amax(0) if others else torch.zeros_like(masks[k]),
                    last=present & (present.cumsum(1) == present.sum(1, keepdim=True)),
                    group=group,
                )
            )
            total = (terms * counts).sum(1)
            value = value + (total / counts.sum(1).clamp_min(1) if self.tokens == "mean" else total)
            shown = shown + counts.any(1).to(shown)
        return value / shown.clamp_min(1) if self.concepts == "mean" else value

    def _span(self, span: Tensor) -> Tensor:
        """Return the positions [b n] that count, -1 where there is none."""
        if self.tokens != "last":
            return span
        follows = (span[:, None, :] == span[:, :, None] + 1).any(2)  # the next token is its too
        return span.masked_fill(follows, -1)
