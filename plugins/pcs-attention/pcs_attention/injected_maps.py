"""The tuned network attends by the base's maps (Infusion, arXiv:2404.14007; after arXiv:2208.01626).

Of the same noisy latents the base is asked first, and the maps of its attention are written down. The tuned
network then attends as the base does: where things stand is the base's, what they look like is learned.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field

from pcs_attention.branch_factors import branch_factors
from pcs_core import Technique, hookimpl
from pcs_core.backbone import substitute
from pcs_core.data import LOSS, AttnEdit, Branch, Fusion, Loss, Prediction, Word
from pcs_core.errors import CapabilityError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from pcs_core.data import AttnState, Conditioning, FitStep, Run, SampleStep, Site

MAPS = "injected_maps."
"""Beginning of the names in ``Conditioning.extra`` under which maps [b h n m] go to their site."""


class Injected(AttnEdit):
    """Attends by the maps that the conditioning holds for this site; without any, by its own."""

    claims = ("probs",)

    def probs(self, state: AttnState, cond: Conditioning) -> AttnState:
        """Put the lent maps in place of those of this pass."""
        lent = cond.extra.get(f"{MAPS}{self.site.name}")
        if lent is None:
            return state
        assert state.probs is not None
        if lent.shape != state.probs.shape:
            raise CapabilityError(
                f"{self.site}: lent maps of {tuple(lent.shape)} do not fit those of "
                f"{tuple(state.probs.shape)}: both passes must read texts of one length"
            )
        state.probs = lent.to(state.probs)
        return state


def with_maps(cond: Conditioning, tape: Mapping[str, Tensor]) -> Conditioning:
    """Return a conditioning whose sites attend by the maps of a tape."""
    lent = {f"{MAPS}{name}": maps.detach() for name, maps in tape.items()}
    return cond.with_(extra={**cond.extra, **lent})


class InjectedMaps(Technique):
    """Let the tuned network attend by the maps that the base has of the same latents.

    In a fit it gives the error of that pass ("injected.denoise"), where the recipe's masks say; a phase that
    trains so names it in place of the plain one (``losses``). A drawing asks the base first, then the tuned
    network, for each branch of guidance.
    """

    id = "attention.injected_maps"
    rowwise = True
    takes_clips = False
    catalogue = ("attention-injection",)
    neutral = {"stop": 0.0}

    sites: str = "cross"
    """Attention sites whose maps are lent: "cross", "self", both ("attention"), or globs."""
    start: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Part of the sampling at which it begins, 0 = pure noise. A fit lends in every step."""
    stop: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0
    """Part of the sampling at which it ends, 1 = the picture; 0: maps are lent nowhere, in no fit either."""

    def _sites(self, run: Run) -> list[Site]:
        sites = [s for s in run.sites(self.sites) if s.kind in ("cross", "self")]
        if not sites:
            raise CapabilityError(f"{self.id}: no cross- or self-attention matches {self.sites!r}")
        return sites

    @hookimpl
    def fuse(self, run: Run) -> Fusion | None:
        """Let the sites take maps."""
        if self.stop == 0.0:
            return None
        return Fusion(edits=tuple(Injected(site) for site in self._sites(run)))

    @hookimpl
    def regularize(self, run: Run, step: FitStep) -> Loss | None:
        """Return the error [b] of the tuned network with the base's maps."""
        if self.stop == 0.0:
            return None
        with torch.no_grad():
            cond = step.encode(_plain(run, step), model="base")
            names = [site.name for site in self._sites(run)]
            lent = step.evaluate(step.noisy, step.level, cond, record=names, model="base").tape
        output = step.evaluate(step.noisy, step.level, with_maps(step.cond, lent)).output
        error, weights = step.compute_error(output, step.target), step.masks.get(LOSS)
        error = error if weights is None else error * weights
        return Loss("injected.denoise", error.flatten(1).mean(1))

    @hookimpl
    def sample(self, run: Run, step: SampleStep) -> Prediction | None:
        """Return the guided prediction, each branch with the base's maps of its own text."""
        if not self.start <= step.progress < self.stop:
            return None
        factors = branch_factors(step.terms, step.progress, self.id)
        names = [site.name for site in self._sites(run)]
        total: Tensor | float = 0.0
        for branch, factor in factors.items():
            total = total + factor * self._answer(step, branch, names)
        assert not isinstance(total, float)  # the positive branch is among them
        return Prediction(total)

    def _answer(self, step: SampleStep, branch: Branch, names: Sequence[str]) -> Tensor:
        """Return the x0 [b c h w] of a branch."""
        base = step.branch(replace(branch, model="base"))
        asked = step.evaluate(step.latents, step.level, base, record=names, model="base")
        if branch.model == "base":
            return asked.x0
        cond = with_maps(step.branch(branch), asked.tape)
        return step.evaluate(
            step.latents, step.level, cond, model=branch.model, edits=branch.edits
        ).x0


def _plain(run: Run, step: FitStep) -> list[str]:
    """Return the rows' captions with each concept's noun in the place of its word."""
    texts = []
    for caption, subject in zip(step.batch.captions, step.batch.subject.tolist(), strict=True):
        words = [Word(c.token, c.noun, c.noun) for c in run.features.concepts[subject]]
        texts.append(substitute(caption, words))
    return texts
