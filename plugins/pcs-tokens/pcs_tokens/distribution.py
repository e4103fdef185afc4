"""A distribution of prompts, of which each picture draws its own (DreamDistribution, arXiv:2312.14216).

K sets of learned rows stand at the placeholder in turn. What the text encoder says of a prompt with each
has a mean and a standard deviation at every position and channel: those of the Gaussian that conditions the
denoiser. Read from the authors' `prompt_learner.py`, `train.py` and `generate.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal
from zlib import crc32

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from pcs_core import Technique, hookimpl
from pcs_core.data import PICTURE, READINGS, SEED, Features, Fusion, Loss, TokenEdit, Words
from pcs_core.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from pcs_core.data import Concept, Conditioning, FitStep, Run, Subject

SPREAD = "distribution.spread"
"""Strength: what the standard deviation is multiplied by when drawing."""


class PromptRows(TokenEdit):
    """Rows [S K n d] for K readings of a text; the text is one of the Gaussian that they span."""

    def __init__(self, start: Tensor, tokens: list[str], hosts: list[str]) -> None:
        super().__init__(tokens, count=start.shape[2], hosts=hosts, stacked=True)
        self.readings = start.shape[1]
        self.rows = nn.Parameter(start.clone())

    def vocabulary(self) -> Tensor:
        """Return the rows of all readings."""
        return self.rows

    def joined(self, said: Tensor, cond: Conditioning) -> Tensor:
        """Return the mean of what was said [b K ...]; in a drawing, of a text [b K l d], each picture's draw.

        A pooled state is the mean's in both.
        """
        mean, deviation = gaussian(said)
        seeds, spread = cond.extra.get(PICTURE), cond.extra.get(SPREAD)
        if self.training or seeds is None or spread is None or mean.dim() < 3:
            return mean
        return mean + spread.view(-1, 1, 1).to(mean) * deviation * drawn(
            seeds.tolist(), mean, self.name
        )


def gaussian(said: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (of a sample: divided by K - 1) over axis 1 of [b K ...]."""
    return said.mean(dim=1), said.std(dim=1)


def drawn(seeds: Sequence[int], like: Tensor, name: str) -> Tensor:
    """Return standard Gaussian noise of the shape of ``like`` [b ...], from each row's seed and ``name``.

    Rows of one seed draw one after the other, so that a subject draws alike alone and among others.
    """
    salt = crc32(name.encode()) << 30
    rngs = {
        s: torch.Generator().manual_seed((s ^ salt) & (2**62 - 1)) for s in dict.fromkeys(seeds)
    }
    return torch.stack([torch.randn(like.shape[1:], generator=rngs[s]) for s in seeds]).to(like)


class PromptDistribution(Technique):
    """Replace the placeholder by rows of a distribution of prompts, of which each picture draws another.

    A phase that trains it names its terms "distribution.*" (``losses``): the plain error, which reads the mean
    prompt, is none of them. A step takes ``samples`` forwards and reads each text ``prompts`` times.
    """

    id = "tokens.distribution"
    rowwise = False  # rows of a subject draw their noise one after the other
    catalogue = ("prompt-distribution", "orthogonality")
    tiny = {"prompts": 3, "samples": 2}

    vectors: Annotated[int, Field(ge=1, le=64)] = 4
    """Rows that a placeholder takes in each of the prompts."""
    prompts: Annotated[int, Field(ge=2, le=256)] = 32
    """Sets of rows, K: the readings of a text."""
    init: Literal["random", "noun"] = "random"
    """Start value: Gaussian noise of ``std``, or that noise around the noun's mean row."""
    std: Annotated[float, Field(gt=0.0, le=1.0)] = 0.02
    """Standard deviation of each element's start."""
    samples: Annotated[int, Field(ge=1, le=64)] = 4
    """Prompts that a row of a fit step draws: the term "distribution.denoise" is the mean error over them."""
    orthogonality: Annotated[float, Field(ge=0.0)] = 1e-3
    """Factor of the mean squared cosine of any two readings of a text, where it ends
    ("distribution.orthogonality"): it keeps prompts apart. 0: there is none."""
    spread: Annotated[float, Field(ge=0.0, le=10.0)] = 1.0
    """Factor of the deviation when drawing (the strength ``distribution.spread``); 0 draws the mean."""
    templates: tuple[str, ...] = ("{token}",)
    """Captions of references that have none; ``{token}`` stands for the subject."""

    def implements(self) -> tuple[str, ...]:
        """Return what the settings make of it: nothing is held apart without the term."""
        return self.catalogue if self.orthogonality else self.catalogue[:1]

    def words(self) -> Words:
        """Return the strength that it writes."""
        return Words(writes=(f"strength:{SPREAD}",))

    @hookimpl
    def extract(self, run: Run, subject: Subject, moment: str) -> Features | None:
        """Give the references neutral captions."""
        return Features(captions=self.templates) if moment == "start" else None

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion | None:
        """Put a stacked block of prompts for each concept slot into the vocabulary."""
        edits = []
        for slot in range(max(len(c) for c in features.concepts)):
            concepts = [c[min(slot, len(c) - 1)] for c in features.concepts]
            start = torch.stack([self._start(run, c, s) for s, c in enumerate(concepts)])
            edits.append(PromptRows(start, [c.token for c in concepts], [c.noun for c in concepts]))
        return Fusion(edits=tuple(edits), strengths={SPREAD: self.spread})

    def _start(self, run: Run, concept: Concept, subject: int) -> Tensor:
        """Return the rows [K n d] that a concept starts from."""
        noun = run.embed_words(concept.noun).mean(dim=0).cpu()
        rng = run.init_rng(subject, f"{self.id}/{concept.name}")
        noise = self.std * torch.randn(self.prompts, self.vectors, len(noun), generator=rng)
        return noise + noun if self.init == "noun" else noise

    @hookimpl
    def regularize(self, run: Run, step: FitStep) -> list[Loss]:
        """Return the error over drawn prompts, and how alike the readings are: a value for each row."""
        cond, speaks = step.cond, step.batch.rows("subject")
        said = cond.extra.get(READINGS)
        if said is None:
            raise RecipeError(
                f"{self.id}: no caption of this step names the subject: write {{token}}"
            )
        mean, deviation = gaussian(said)
        errors, seeds = [], cond.extra[SEED].tolist()
        for number in range(self.samples):
            noise = drawn(seeds, mean, f"{self.id}/{number}")
            text = mean + deviation * noise
            output = step.evaluate(step.noisy, step.level, cond.with_(text=text)).output
            error = step.compute_error(output, step.target)
            errors.append(error.flatten(1).mean(1))
        losses = [Loss("distribution.denoise", torch.stack(errors).mean(0), rows=speaks)]
        if self.orthogonality:
            owners = step.batch.subject.tolist()
            ends = torch.tensor(
                [self._end(run, *of) for of in zip(step.batch.captions, owners, strict=True)]
            )
            pooled = said[torch.arange(len(said)), :, ends.to(said.device)]
            value = likeness(pooled)
            losses.append(
                Loss("distribution.orthogonality", value, self.orthogonality, rows=speaks)
            )
        return losses

    def _end(self, run: Run, caption: str, subject: int) -> int:
        """Return at which position the end of a subject's caption stands, behind its start and its tokens."""
        pieces: Sequence[str] = [caption]
        for concept in run.features.concepts[subject]:
            pieces = [part for piece in pieces for part in piece.split(concept.token)]
        tokens = sum(len(run.embed_words(piece)) for piece in pieces if piece.strip())
        return 1 + tokens + (len(pieces) - 1) * self.vectors


def likeness(pooled: Tensor) -> Tensor:
    """Return the mean squared cosine [b] of any two of a row's states [b K d]: 0 where all are orthogonal."""
    unit = F.normalize(pooled.float(), dim=-1)
    count = unit.shape[1]
    cosines = unit @ unit.transpose(1, 2) * (1 - torch.eye(count, device=unit.device))
    return cosines.square().sum((1, 2)) / (count * (count - 1))
