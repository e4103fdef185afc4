"""Two concepts stitched into one training picture (SVDiff's Cut-Mix, arXiv:2303.11305, section 3.3).

The stitched pictures are made before the loop as a finite pool, each with a caption that names both
concepts and a region mask for each.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from pcs_core import Technique, hookimpl, how_to_name_concepts
from pcs_core.data import VALID, Example, Features, region_name
from pcs_core.errors import InputError
from pcs_data.valid import loss_where_valid

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import MaskQuery, Masks, Run, Subject

REGION = f"{VALID}cut_mix"

CAPTIONS: tuple[str, ...] = (
    "a photo of {left} on the left and {right} on the right",
    "a photo of {left} next to {right}",
    "{left} and {right} side by side",
)


class CutMix(Technique):
    """Add pictures with one concept on the left half and another on the right.

    Needs a subject of two or more concepts whose references say which one they show: by a caption
    that names one token, or by masks of one concept. With a single concept it adds nothing.
    """

    id = "data.cut_mix"
    rowwise = True
    reads = ("role:subject", "region:mask.concept.*")
    writes = ("role:subject", "region:mask.concept.*", f"region:{REGION}", "mask:loss")
    catalogue = ("cut-mix",)
    mask_moments = ("batch",)
    neutral = {"share": 0.0}

    share: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.6
    """Share of the rows of role "subject" that are stitched."""
    layout: Literal["halves", "scaled"] = "halves"
    """"halves": the middle of each picture fills its half; "scaled": the whole picture at half its
    size, at a random height, on its own mean colour, where the reconstruction error does not count."""
    captions: Annotated[tuple[str, ...], Field(min_length=1)] = CAPTIONS
    """Captions of stitched pictures; ``{left}`` and ``{right}`` stand for the tokens."""

    @hookimpl
    def extract(self, run: Run, subject: Subject, moment: str) -> Features | None:
        """Stitch so many pictures that, drawn at random, ``share`` of them are stitched."""
        if moment != "start" or self.share == 0.0 or len(subject.concepts) < 2:
            return None
        references = [e for e in run.features.examples if e.role == "subject"]
        shown = pictures_of(subject, references)
        count = max(2, round(len(references) * self.share / (1.0 - self.share)))
        rng = run.subject_rng(references[0].subject, self.id)
        return Features(examples=tuple(self._stitch(subject, shown, rng) for _ in range(count)))

    @hookimpl
    def mask(self, run: Run, query: MaskQuery) -> Masks | None:
        """Count the error of "scaled" halves on the pictures alone."""
        return loss_where_valid(query, REGION)

    def _stitch(
        self, subject: Subject, shown: Sequence[Sequence[Example]], rng: random.Random
    ) -> Example:
        slots = rng.sample(range(len(shown)), 2)
        halves, shown_at, regions = [], [], {}
        for side, slot in enumerate(slots):
            image = rng.choice(shown[slot]).image
            height, width = image.shape[-2:]
            half_width = width // 2 if side == 0 else width - width // 2
            piece, covered = half(image, half_width, rng if self.layout == "scaled" else None)
            halves.append(piece)
            shown_at.append(covered)
            region = torch.zeros(1, height, width)
            region[..., :half_width] = 1.0
            regions[region_name(slot)] = region if side == 0 else region.flip(-1)
        if self.layout == "scaled":
            regions[REGION] = torch.cat(shown_at, dim=-1)
        tokens = [subject.concepts[slot].token for slot in slots]
        named = [
            c.replace("{left}", tokens[0]).replace("{right}", tokens[1]) for c in self.captions
        ]
        return Example(
            image=torch.cat(halves, dim=-1),
            captions=tuple(named),
            concepts=tuple(subject.concepts[slot].name for slot in slots),
            regions=regions,
        )


def pictures_of(subject: Subject, references: Sequence[Example]) -> list[list[Example]]:
    """Return the references of each concept.

    Raises
    ------
    InputError
        A concept has none: names it, and says how to tell.
    """
    by_concept: list[list[Example]] = []
    for concept in subject.concepts:
        pictures = [e for e in references if e.concepts == (concept.name,)]
        if not pictures:
            raise InputError(
                f"subject {subject.name!r}: no picture is known to show {concept.token!r} alone: "
                f"{how_to_name_concepts(subject)}"
            )
        by_concept.append(pictures)
    return by_concept


def half(image: Tensor, width: int, rng: random.Random | None) -> tuple[Tensor, Tensor]:
    """Return the [3 h width] half made of ``image`` [3 h w], and where it shows the picture [1 h width].

    The picture's middle, or with ``rng`` all of it, smaller, on its mean colour.
    """
    height, full = image.shape[-2:]
    if rng is None:
        left = (full - width) // 2
        return image[..., left : left + width], torch.ones(1, height, width)
    size = (max(1, round(height * width / full)), width)
    small = F.interpolate(
        image[None], size=size, mode="bilinear", antialias=True, align_corners=False
    )[0].clamp(0, 1)
    stitched = image.mean(dim=(-2, -1), keepdim=True).expand(-1, height, width).clone()
    covered = torch.zeros(1, height, width)
    top = rng.randint(0, height - size[0])
    stitched[:, top : top + size[0]] = small
    covered[:, top : top + size[0]] = 1.0
    return stitched, covered
