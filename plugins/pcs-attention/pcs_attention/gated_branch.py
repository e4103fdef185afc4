"""A branch that draws the plain prompt lends its attention where the subject is not (DCI, ECCV 2024, section
3.2).

Divide, Conquer, then Integrate: in the first part of a drawing a second picture is drawn beside each, of the
prompt with the class noun, from a noise of its own. What cross-attention gives the first is mixed with what it
gives the second, place by place, by where each one attends to its subject.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field

from pcs_attention.branch_factors import branch_factors
from pcs_core import Technique, hookimpl
from pcs_core.data import AttnEdit, Branch, Fusion, Prediction, concatenate
from pcs_core.errors import CapabilityError

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import AttnState, Conditioning, Level, Run, SampleStep, Site

PARTNER = "gated_branch.partner"
"""In ``Conditioning.extra``: the row [b] of the picture beside a row's own, or -1."""
LATENTS = "gated_branch.latents"
"""In the scratch of a drawing: latents [b c h w] of the pictures beside."""


class Gated(AttnEdit):
    """Mixes what a row reads with what its partner reads, by a gate of each head and place."""

    claims = ("out",)

    def __init__(self, site: Site, auxiliary: float, temperature: float, gain: float) -> None:
        super().__init__(site, mode="sample")
        self.auxiliary, self.temperature, self.gain = auxiliary, temperature, gain

    def out(self, state: AttnState, cond: Conditioning) -> AttnState:
        """Change the rows that have a partner."""
        partner = cond.extra.get(PARTNER)
        if partner is None:
            return state
        assert state.probs is not None
        assert state.out is not None
        # all rows at once: which of them have a partner is known to the device alone
        beside = partner.clamp_min(0).long()
        share = self.share(state.probs, cond.spans["concept.0"])
        mine = self.heads_of(state.out)
        gate = self.gate(share, 1 - share[beside])[..., None].to(mine)
        mixed = gate * mine + (1 - gate) * mine[beside]
        has = (partner >= 0)[:, None, None]
        state.out = torch.where(has, mixed.transpose(1, 2).flatten(2), state.out)
        return state

    def share(self, maps: Tensor, span: Tensor) -> Tensor:
        """Return the share [b h n] that positions ``span`` [b k] have of a row's maps [b h n m].

        Of maps made sharper by the temperature, without the text's first position.
        """
        sharp = (self.temperature * maps.float()[..., 1:]).softmax(-1)
        places = torch.zeros(len(maps), maps.shape[-1], device=maps.device)
        places.scatter_add_(1, span.clamp_min(0), (span >= 0).float())
        return torch.einsum("bhnm,bm->bhn", sharp, places[:, 1:].clamp_max(1.0))

    def gate(self, subject: Tensor, plain: Tensor) -> Tensor:
        """Return how much [b h n] stays of a row's own, of shares [b h n]."""
        mine, other = (
            self.gain * (self.temperature * share).softmax(-1) for share in (subject, plain)
        )
        return torch.sigmoid(mine - self.auxiliary * other)

    def heads_of(self, out: Tensor) -> Tensor:
        """Return ``out`` [b n hd] by heads [b h n d]."""
        return out.unflatten(2, (self.site.heads, -1)).transpose(1, 2)


class GatedBranch(Technique):
    """Draw the plain prompt beside each picture for a while, and let a gate mix their cross-attention.

    The picture beside begins with the picture's own noise, its numbers in another order, and goes the
    deterministic way. Trains nothing.
    """

    id = "attention.gated_branch"
    takes_clips = False
    catalogue = ("branch-guidance", "attention-injection")
    neutral = {"stop": 0.0}

    sites: str = "cross"
    """Cross-attention layers that are mixed."""
    stop: Annotated[float, Field(ge=0.0, le=1.0)] = 0.3
    """Part of the sampling at which it ends, 1 = the picture; 0: nothing is drawn beside."""
    auxiliary: Annotated[float, Field(ge=-10.0, le=10.0)] = 0.0
    """Lambda: how much the branch of the plain prompt weighs in the gate, typically from -2 to 2."""
    temperature: Annotated[float, Field(gt=0.0, le=1000.0)] = 10.0
    """What maps, and shares of them, are multiplied by before each softmax."""
    gain: Annotated[float, Field(gt=0.0)] = 500.0
    """What a share's softmax over places is multiplied by before the gate."""
    shared: bool = True
    """Whether both are guided against the picture's own negative branch; else the one beside has its own."""

    @hookimpl
    def fuse(self, run: Run) -> Fusion | None:
        """Bind the gate.

        Raises
        ------
        CapabilityError
            No cross-attention layer matches.
        """
        if self.stop == 0.0:
            return None
        sites = [site for site in run.sites(self.sites) if site.kind == "cross"]
        if not sites:
            raise CapabilityError(f"{self.id}: no cross-attention matches {self.sites!r}")
        gates = (Gated(s, self.auxiliary, self.temperature, self.gain) for s in sites)
        return Fusion(edits=tuple(gates))

    @hookimpl
    def sample(self, run: Run, step: SampleStep) -> Prediction | None:
        """Return the guided x0 of the pictures, and take those beside them a step on."""
        if step.progress >= self.stop:
            return None
        beside = step.scratch.get(LATENTS)
        if beside is None:
            beside = shuffled(step.latents)
        names = [site.name for site in run.sites(self.sites) if site.kind == "cross"]
        answers = self._both(step, beside, names)
        count = len(step.latents)
        picture = noise_of(step.latents, answers[:count], step.level)
        other = noise_of(beside, answers[count:], step.level)
        total, plain = torch.zeros_like(picture), torch.zeros_like(other)
        for branch, factor in branch_factors(step.terms, step.progress, self.id).items():
            if branch == Branch("positive"):
                total, plain = total + factor * picture, plain + factor * other
                continue
            said = noise_of(step.latents, step.predicted(branch), step.level)
            total = total + factor * said
            plain = plain + factor * (said if self.shared else self._alone(step, beside, branch))
        if step.next_level is not None:
            step.scratch[LATENTS] = moved(beside, plain, step.level, step.next_level)
        return Prediction(clean_of(step.latents, total, step.level))

    def _both(self, step: SampleStep, beside: Tensor, names: list[str]) -> Tensor:
        """Return the x0 [2b c h w] of pictures and of those beside them, in one batch."""
        conds = (step.branch(Branch("positive")), step.branch(Branch("positive", model="base")))
        cond = concatenate(conds)
        count = len(beside)
        partner = torch.full((2 * count,), -1, device=beside.device)
        partner[:count] = torch.arange(count, 2 * count, device=beside.device)
        cond = cond.with_(extra={**cond.extra, PARTNER: partner})
        level = type(step.level)(*(t.repeat(2) for t in step.level))
        return step.evaluate(torch.cat([step.latents, beside]), level, cond, record=names).x0

    def _alone(self, step: SampleStep, beside: Tensor, branch: Branch) -> Tensor:
        """Return the noise that a branch sees in the pictures beside."""
        answer = step.evaluate(
            beside, step.level, step.branch(branch), model=branch.model, edits=branch.edits
        )
        return noise_of(beside, answer.x0, step.level)


def shuffled(latents: Tensor) -> Tensor:
    """Return noise [b c h w] with the numbers of each row in another order, the same for all rows."""
    rng = torch.Generator().manual_seed(0)
    order = torch.randperm(latents[0].numel(), generator=rng).to(latents.device)
    return latents.flatten(1)[:, order].view_as(latents)


def noise_of(x: Tensor, x0: Tensor, level: Level) -> Tensor:
    """Return the noise in ``x`` [b c h w] whose clean part is ``x0``."""
    alpha, sigma = level.like(x)
    return (x.float() - alpha * x0) / sigma


def clean_of(x: Tensor, noise: Tensor, level: Level) -> Tensor:
    """Return the clean part of ``x`` [b c h w] with this noise in it."""
    alpha, sigma = level.like(x)
    return (x.float() - sigma * noise) / alpha


def moved(x: Tensor, noise: Tensor, level: Level, following: Level) -> Tensor:
    """Return ``x`` [b c h w] at another level, without any new noise."""
    alpha, sigma = following.like(x)
    return (alpha * clean_of(x, noise, level) + sigma * noise).to(x.dtype)
