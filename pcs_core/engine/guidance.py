"""Guidance terms: the branches of each step, evaluated at most once and combined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.backbone import Attachment, tokenise
from pcs_core.data import (
    Branch,
    Conditioning,
    GuidanceTerm,
    Masks,
    SampleSettings,
    SampleStep,
    concatenate,
)

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Evaluation, Level


class Guidance:
    """Branches of the guidance terms, each evaluated at most once per step, in one batch."""

    def __init__(self, net: Attachment, texts: Sequence[str], settings: SampleSettings) -> None:
        self.net, self.texts, self.settings = net, list(texts), settings
        self.terms: tuple[GuidanceTerm, ...] = net.fusion.guidance
        if settings.scale != 1.0:
            classifier_free = GuidanceTerm(
                Branch("positive"), Branch("negative"), settings.scale - 1.0
            )
            self.terms = (classifier_free, *self.terms)
        self._encoded: dict[tuple[str, str, str], Conditioning] = {}

    def branch(self, branch: Branch) -> Conditioning:
        """Return the conditioning of a branch, encoded once per sampling run."""
        key = (branch.prompt, branch.model, branch.edits)
        if key not in self._encoded:
            prompts = {
                "positive": self.texts,
                "negative": [self.settings.negative] * len(self.texts),
            }.get(branch.prompt, [branch.prompt] * len(self.texts))
            fusion = self.net.fusion
            subject = torch.zeros(len(prompts), dtype=torch.long, device=self.net.backbone.device)
            tokens = tokenise(
                prompts, self.net.backbone.tokenizer, words=fusion.words, tokens=fusion.tokens
            )
            text, pooled = self.net.encode_text(
                tokens, subject, model=branch.model, edits=branch.edits
            )
            self._encoded[key] = Conditioning(text=text, pooled=pooled, subject=subject)
        return self._encoded[key]

    def coefficients(self, progress: float) -> dict[Branch, float]:
        """Return the factor of each branch at ``progress``; those that cancel are left out."""
        factors: dict[Branch, float] = {Branch("positive"): 1.0}
        for term in self.terms:
            if term.start <= progress < term.stop:
                factors[term.plus] = factors.get(term.plus, 0.0) + term.weight
                factors[term.minus] = factors.get(term.minus, 0.0) - term.weight
        return {branch: factor for branch, factor in factors.items() if factor != 0.0}

    def step(
        self,
        index: int,
        count: int,
        latents: Tensor,
        level: Level,
        following: Level | None,
        rng: Any,
        scratch: dict[str, Any],
    ) -> SampleStep:
        """Return the step shown to the ``sample`` hook."""
        progress = index / count
        factors = self.coefficients(progress)

        def evaluate(x: Tensor, at: Level, cond: Conditioning, **options: Any) -> Evaluation:
            return self.net.evaluate(x, at, cond, progress=progress, **options)

        def predict(x: Tensor) -> Tensor:
            return self._predict(x, level, factors, evaluate)

        return SampleStep(
            index=index,
            count=count,
            latents=latents,
            level=level,
            next_level=following,
            terms=self.terms,
            masks=Masks(),
            branch=self.branch,
            predict=predict,
            evaluate=evaluate,
            rng=rng,
            scratch=scratch,
        )

    def _predict(
        self,
        latents: Tensor,
        level: Level,
        factors: dict[Branch, float],
        evaluate: Callable[..., Evaluation],
    ) -> Tensor:
        groups: dict[tuple[str, str], list[Branch]] = {}
        for branch in sorted(factors, key=lambda b: b.prompt):  # negative before positive
            groups.setdefault((branch.edits, branch.model), []).append(branch)
        total: Tensor | None = None
        for (edits, model), branches in groups.items():
            n = len(branches)
            cond = concatenate(tuple(self.branch(b) for b in branches))
            repeated = type(level)(*(t.repeat(n) for t in level))
            x0 = evaluate(latents.repeat(n, 1, 1, 1), repeated, cond, model=model, edits=edits).x0
            for branch, part in zip(branches, x0.chunk(n), strict=True):
                term = factors[branch] * part
                total = term if total is None else total + term
        assert total is not None
        return total
