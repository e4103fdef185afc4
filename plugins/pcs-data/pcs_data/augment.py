"""Flips, crops and rescaling with size words (Custom Diffusion, arXiv:2212.04488, section 4).

Variants are drawn before the loop as a finite pool, so that each is encoded once.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Annotated

import torch
import torch.nn.functional as F
from pydantic import AfterValidator, Field

from pcs_core import Technique, hookimpl
from pcs_core.data import Features

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Example, Run, Subject


def _ordered(scales: tuple[float, float]) -> tuple[float, float]:
    if scales[0] > scales[1]:
        raise ValueError("give the smaller factor first")
    return scales


Factor = Annotated[float, Field(ge=0.1, le=4.0)]
Factors = Annotated[tuple[Factor, Factor], AfterValidator(_ordered)]


class Augment(Technique):
    """Add augmented variants of the references to the pool."""

    id = "data.augment"
    reads = ("role:subject", "region:mask.concept.*")
    writes = ("role:subject",)
    catalogue = ("reference-augmentation",)
    neutral = {"variants": 0}
    tiny = {"variants": 2, "crop": 0.2, "rescale": [0.5, 1.3]}

    variants: Annotated[int, Field(ge=0, le=256)] = 8
    """Variants per reference, beside the reference itself; 0 adds nothing."""
    flip: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    """Probability of a horizontal flip."""
    crop: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0
    """Largest part of the side that a random crop removes."""
    rescale: Factors | None = None
    """Range of random scale factors, 0.1 to 4, e.g. [0.4, 1.4]; below 1 the picture is set on its own mean."""
    size_words: bool = True
    """Whether a rescaled variant's caption says so (``below``, ``above``)."""
    below: Annotated[float, Field(ge=0.0)] = 0.6
    """Scale under which a caption says "far away very small"."""
    above: Annotated[float, Field(ge=0.0)] = 1.0
    """Scale above which a caption says "zoomed in close up"."""

    @hookimpl
    def extract(self, run: Run, subject: Subject, moment: str) -> Features | None:
        """Draw the variants of this subject's references."""
        if moment != "start" or self.variants == 0:
            return None
        references = [e for e in run.features.examples if e.role == "subject"]
        if not references:
            return None
        # its own draws, the same alone or among others
        rng = run.subject_rng(references[0].subject, self.id)
        drawn = [self._vary(e, rng) for e in references for _ in range(self.variants)]
        return Features(examples=tuple(drawn))

    def _vary(self, example: Example, rng: random.Random) -> Example:
        image = example.image
        masks = dict(example.regions)
        if example.mask is not None:
            masks[""] = example.mask
        words = ""
        if rng.random() < self.flip:
            image = image.flip(-1)
            masks = {k: m.flip(-1) for k, m in masks.items()}
        if self.crop:
            keep = 1.0 - rng.random() * self.crop
            corner = rng.random(), rng.random()
            image = _crop(image, keep, corner)
            masks = {k: _crop(m, keep, corner) for k, m in masks.items()}
        if self.rescale is not None:
            factor = rng.uniform(*self.rescale)
            corner = rng.random(), rng.random()
            image = _rescale(image, factor, corner)
            empty = torch.zeros(1, 1, 1)
            masks = {k: _rescale(m, factor, corner, fill=empty) for k, m in masks.items()}
            if self.size_words:
                words = self._words(factor)
        captions = example.captions
        if words:
            captions = tuple(f"{words} {c}" for c in (captions or ("a photo of {token}",)))
        mask = masks.pop("", None)
        return example.with_(image=image.contiguous(), mask=mask, captions=captions, regions=masks)

    def _words(self, factor: float) -> str:
        if factor < self.below:
            return "far away very small"
        return "zoomed in close up" if factor > self.above else ""


def _crop(image: Tensor, keep: float, corner: tuple[float, float]) -> Tensor:
    h, w = image.shape[-2:]
    ch, cw = max(1, round(h * keep)), max(1, round(w * keep))
    top, left = round((h - ch) * corner[0]), round((w - cw) * corner[1])
    return _resize(image[:, top : top + ch, left : left + cw], (h, w))


def _rescale(
    image: Tensor, factor: float, corner: tuple[float, float], fill: Tensor | None = None
) -> Tensor:
    h, w = image.shape[-2:]
    scaled = _resize(image, (max(1, round(h * factor)), max(1, round(w * factor))))
    sh, sw = scaled.shape[-2:]
    if factor >= 1.0:
        top, left = (sh - h) // 2, (sw - w) // 2
        return scaled[:, top : top + h, left : left + w]
    around = image.mean(dim=(-2, -1), keepdim=True) if fill is None else fill.to(image)
    canvas = around.expand(-1, h, w).clone()
    top, left = round((h - sh) * corner[0]), round((w - sw) * corner[1])
    canvas[:, top : top + sh, left : left + sw] = scaled
    return canvas


def _resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(
        image[None], size=size, mode="bilinear", antialias=True, align_corners=False
    )[0].clamp(0, 1)


__all__ = ["Augment"]
