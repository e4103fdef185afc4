"""A fit ends where the loss on one frozen batch varies no more (DVAR, arXiv:2302.04841, and its code).

The loss of training says little about progress, since noise levels, noise and captions are drawn anew in
each step. On a batch whose pictures, latents, noise, levels and captions never change it is a smooth curve.
After each step t with a full window of the last w values L, a subject stops if
Var(L[t-w+1 .. t]) / Var(L[1 .. t]) < alpha.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field
from torch.utils import _pytree as pytree

from pcs_core import Technique, hookimpl
from pcs_core.data import Features, Fusion, HeadEdit

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import FitStep, Run, Subject

HEAD = "stopping"
LATENTS, NOISE, LEVELS = "stopping.latents", "stopping.noise", "stopping.levels"


class Losses(HeadEdit):
    """The last w losses of each subject, and count, mean and summed squares of all [S], in fp64.

    They are no part of what is learned, but a fit that goes on needs them.
    """

    count: Tensor
    mean: Tensor
    squares: Tensor
    last: Tensor

    def __init__(self, subjects: int, window: int) -> None:
        super().__init__(HEAD, mode="fit", stacked=True)
        for name in ("count", "mean", "squares"):
            self.register_buffer(name, torch.zeros(subjects, dtype=torch.float64))
        self.register_buffer("last", torch.zeros(subjects, window, dtype=torch.float64))

    @torch.no_grad()
    def ratio(self, subject: int, loss: Tensor) -> float | None:
        """Take note of a loss; return Var(window) / Var(all), or None while the window is not full.

        Both variances divide by the number of values. Of losses that never varied the ratio is 0.
        """
        window, value = self.last.shape[1], loss.double().to(self.last)
        self.last[subject, int(self.count[subject]) % window] = value
        self.count[subject] += 1
        away = value - self.mean[subject]
        self.mean[subject] += away / self.count[subject]
        self.squares[subject] += away * (value - self.mean[subject])
        if self.count[subject] < window:
            return None
        every = self.squares[subject] / self.count[subject]
        recent = self.last[subject].var(correction=0)
        return float(recent / every) if every > 0 else 0.0


class EarlyStopping(Technique):
    """Stop a subject's phase when the loss on a frozen batch of its own no longer varies.

    The batch is of its references, their mean latents, with noise, noise levels and captions that stay.
    Words that change with the noise level are read at that of the step's rows. Where several processes
    train, nothing can stop, and the engine says so.
    """

    id = "regularizers.early_stopping"
    catalogue = ("early-stopping",)
    reads = ("role:subject",)
    writes = (f"feature:{LATENTS}", f"feature:{NOISE}", f"feature:{LEVELS}", f"head:{HEAD}")
    neutral = {"alpha": 0.0}
    tiny = {"window": 2, "rows": 2, "alpha": 0.0}

    alpha: Annotated[float, Field(ge=0.0, le=1.0)] = 0.15
    """Share of the variance of all losses under which that of the last ones stops the fit; 0: it never does."""
    window: Annotated[int, Field(ge=2, le=100000)] = 310
    """How many of the last losses are compared; none stops before there are so many."""
    rows: Annotated[int, Field(ge=1, le=64)] = 4
    """Rows of the frozen batch."""
    every: Annotated[int, Field(ge=1)] = 1
    """Steps from one evaluation to the next."""
    captions: tuple[str, ...] = (
        "a photo of a {token}",
        "a rendering of a {token}",
        "a cropped photo of the {token}",
        "the photo of a {token}",
    )
    """Captions of the frozen rows, one after the other; ``{token}`` stands for the subject."""

    @hookimpl
    def extract(self, run: Run, subject: Subject, moment: str) -> Features | None:
        """Freeze latents [k c h w], noise of their shape, and levels [k] in [0, 1], no two of them alike."""
        shown = [e.image for e in run.features.examples if e.role == "subject"]
        if moment != "start" or not shown:
            return None
        chosen = torch.stack([shown[k % len(shown)] for k in range(self.rows)])
        with torch.no_grad():
            latents = run.encode(chosen).float().cpu()
        rng = torch.Generator().manual_seed(run.subject_rng(0, self.id).getrandbits(31))
        noise = torch.randn(latents.shape, generator=rng)
        levels = (torch.randperm(1000, generator=rng)[: self.rows] + 0.5) / 1000
        return Features(tensors={LATENTS: latents, NOISE: noise, LEVELS: levels})

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion | None:
        """Keep the losses in a head of the fit."""
        return Fusion(edits=(Losses(features.subjects, self.window),))

    @hookimpl
    def regularize(self, run: Run, step: FitStep) -> None:
        """Evaluate the frozen batch of each subject in the step, and stop those that are done."""
        if LATENTS not in run.features.tensors or step.index % self.every:
            return
        head: Any = run.heads[HEAD]
        for subject in step.batch.subject.unique().tolist():
            ratio = head.ratio(subject, self.loss(run, step, subject))
            if ratio is not None and ratio < self.alpha:
                run.log(f"stops after {step.index + 1} steps of {step.phase!r}: {ratio:.3f}")
                step.stop(subject)

    @torch.no_grad()
    def loss(self, run: Run, step: FitStep, subject: int) -> Tensor:
        """Return the mean error of the subject's frozen batch by the network as it is."""
        process, device = run.backbone.process, step.noisy.device  # type: ignore[attr-defined]
        tensors = (
            run.features.tensors[name][subject].to(device) for name in (LATENTS, NOISE, LEVELS)
        )
        latents, noise, fractions = tensors
        level = process.level(process.at(fractions))
        noisy = process.corrupt(latents, noise, level)
        row = (step.batch.subject == subject).nonzero()[:1, 0]
        (concept, *_) = run.features.concepts[subject]
        texts = [self.captions[k % len(self.captions)] for k in range(self.rows)]
        read = [step.encode(t.replace("{token}", concept.token)).rows_at(row) for t in texts]
        joined = pytree.tree_map(lambda *parts: torch.cat(parts), *read)
        cond = joined.with_(time=process.fraction(level))
        output = step.evaluate(noisy, level, cond).output
        error: Tensor = process.error(output, process.target(latents, noise, level), noisy)
        return error.mean()
