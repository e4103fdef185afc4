"""Layout guidance: latents follow the gradient of a box energy (arXiv:2304.03373, section 4.2).

For a phrase with the cross-attention map A over places u and a box B,
E = (1 - sum_{u in B} A_u / sum_u A_u)^2, mean over the phrase's tokens, heads, sites and phrases.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field

from pcs_core import Technique, hookimpl
from pcs_core.data import Branch, Prediction
from pcs_core.errors import CapabilityError

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from torch import Tensor

    from pcs_core.data import Conditioning, Fusion, Run, SampleStep, Site


def shares(maps: Tensor, span: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the part of each token's attention inside the mask [b h t], and which tokens count [b t].

    ``maps`` [b h n m] of one site, ``span`` [b t] positions of the phrase (-1: none), ``mask``
    [b 1 y x] with y * x = n.
    """
    counts = span >= 0
    index = span.clamp_min(0)[:, None, None].expand(-1, maps.shape[1], maps.shape[2], -1)
    attention = maps.float().gather(3, index)
    inside = (attention * mask.flatten(1)[:, None, :, None]).sum(2)
    return inside / attention.sum(2).clamp_min(1e-12), counts


def box_energy(
    tape: Mapping[str, Tensor], sites: Sequence[Site], cond: Conditioning, boxes: int
) -> Tensor:
    """Return the energy E [b] in [0, 1] of the recorded maps; rows without any phrase have 0."""
    total: Any = 0.0
    for k in range(boxes):
        span, box = cond.spans[f"phrase.{k}"], cond.masks[f"box.{k}"]
        for site in sites:
            size = tuple(-(-side // site.scale) for side in box.shape[-2:])
            inside, counts = shares(tape[site.name], span, F.interpolate(box, size, mode="area"))
            missed = (1 - inside).square().mean(1) * counts
            total = total + missed.sum(1) / counts.sum(1).clamp_min(1)
    energy: Tensor = total / (boxes * len(sites))
    return energy


class LayoutGuidance(Technique):
    """Move the latents until each phrase of the layout attends inside its box. Trains nothing.

    Acts where the pictures are drawn with a layout (``pcs sample ... --layout FILE``).
    """

    id = "guidance.layout"
    reads = ("place:phrase.*", "place:box.*")
    catalogue = ("gradient-guidance",)
    reads_layout = True
    neutral = {"weight": 0.0}

    weight: Annotated[float, Field(ge=0.0)] = 30.0
    """Factor of the energy; the step is also scaled by the variance of the noise in the latents."""
    steps: Annotated[int, Field(ge=0, le=1000)] = 10
    """Sampling steps, from the first, in which the latents are moved."""
    iterations: Annotated[int, Field(ge=1, le=100)] = 5
    """Largest number of moves in one step."""
    threshold: Annotated[float, Field(ge=0.0, le=1.0)] = 0.2
    """A picture whose energy is below this is not moved further."""
    sites: str = "cross"
    """Globs of the cross-attention sites whose maps count."""

    @hookimpl
    def fuse(self, run: Run) -> Fusion | None:
        """Plug nothing in, but refuse a backbone without such sites before anything is drawn."""
        if self.weight:
            run.sites(self.sites)
        return None

    @hookimpl(wrapper=True)
    def sample(
        self, run: Run, step: SampleStep
    ) -> Generator[None, Prediction | None, Prediction | None]:
        """Move ``step.latents`` before the prediction is made."""
        boxes = len(run.layout.boxes) if run.layout else 0
        if boxes and self.weight and step.index < self.steps:
            sites = [s for s in run.sites(self.sites) if s.kind == "cross"]
            if not sites:
                raise CapabilityError(
                    f"guidance.layout: no cross-attention site matches {self.sites!r}"
                )
            self._move(step, sites, boxes)
        return (yield)

    def _move(self, step: SampleStep, sites: Sequence[Site], boxes: int) -> None:
        cond = step.branch(Branch("positive"))
        # the network sees variance-preserving latents z / sqrt(1 + s^2); in these the authors' step
        # of s^2 (their latents z, s the noise to signal ratio) is one of sigma^2
        _, sigma = step.level.like(step.latents)
        for _ in range(self.iterations):
            with torch.enable_grad():
                latents = step.latents.detach().float().requires_grad_(True)
                shown = latents.to(step.latents.dtype)
                names = tuple(site.name for site in sites)
                tape = step.evaluate(shown, step.level, cond, record=names).tape
                energy = box_energy(tape, sites, cond, boxes)
                step.scratch.setdefault(self.id, []).append((step.index, energy.detach()))
                open_ = energy.detach() >= self.threshold
                if not open_.any():
                    return
                (gradient,) = torch.autograd.grad((energy * open_).sum(), latents)
            moved = latents.detach() - sigma.square() * self.weight * gradient
            step.latents = moved.to(step.latents.dtype)
