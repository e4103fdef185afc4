"""Flips, crops and rescaling with size words (Custom Diffusion, arXiv:2212.04488, section 4).

Variants are drawn before the loop as a finite pool, so that each is encoded once. What is set around a picture
that was made smaller is no reference: the reconstruction error does not count there ("We only backpropagate the
loss on valid regions", section 4; :mod:`pcs_data.valid`).
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import AfterValidator, Field

from pcs_core import Technique, hookimpl
from pcs_core.data import VALID, Features
from pcs_data.valid import loss_where_valid

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Example, MaskQuery, Masks, Run, Subject

REGION = f"{VALID}augment"


def _ordered(scales: tuple[float, float]) -> tuple[float, float]:
    if scales[0] > scales[1]:
        raise ValueError("give the smaller factor first")
    return scales


Factor = Annotated[float, Field(ge=0.1, le=4.0)]
Factors = Annotated[tuple[Factor, Factor], AfterValidator(_ordered)]


class Augment(Technique):
    """Add augmented variants of the references to the pool."""

    id = "data.augment"
    takes_clips = False
    rowwise = True
    reads = ("role:subject", "region:mask.concept.*")
    writes = ("role:subject", f"region:{REGION}", "mask:loss")
    catalogue = ("reference-augmentation",)
    mask_moments = ("batch",)
    neutral = {"variants": 0}
    tiny = {"variants": 2, "crop": 0.2, "rescale": [0.5, 1.3]}

    variants: Annotated[int, Field(ge=0, le=256)] = 8
    """Variants per reference, beside the reference itself; 0 adds nothing."""
    flip: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    """Probability of a horizontal flip."""
    crop: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0
    """Largest part of the side that a random crop removes."""
    rescale: Factors | None = None
    """Range of random scale factors, 0.1 to 4, e.g. [0.4, 1.4]. Below 1 the picture is set somewhere on a plain
    ground (``fill``), where the reconstruction error does not count; above 1 it is a part of itself."""
    close_ups: Factors | None = None
    """Range of the factors of close-ups: where given, ``close_share`` of the variants draw theirs from it, the
    others from ``rescale``."""
    close_share: Annotated[float, Field(ge=0.0, le=1.0)] = 1 / 3
    """Share of the variants that are close-ups, where ``close_ups`` is given."""
    whole: bool = False
    """Whether a factor from ``below`` to 1 leaves the picture at its size, as in the authors' code."""
    fill: Literal["mean", "grey"] = "mean"
    """Ground around a smaller picture: its own mean colour, or middle grey (0.5) as in the authors' code."""
    size_words: bool = True
    """Whether a rescaled variant's caption begins with one of ``small_words`` or ``large_words``."""
    below: Annotated[float, Field(ge=0.0)] = 0.6
    """Scale under which a caption begins with one of ``small_words``."""
    above: Annotated[float, Field(ge=0.0)] = 1.0
    """Scale above which a caption begins with one of ``large_words``."""
    small_words: Annotated[tuple[str, ...], Field(min_length=1)] = ("a far away", "very small")
    """What is said of a small picture; one of them is drawn each time the variant is shown."""
    large_words: Annotated[tuple[str, ...], Field(min_length=1)] = ("zoomed in", "close up")
    """What is said of a close-up; likewise."""
    caption: str = "a photo of {token}"
    """What size words are put before, where nobody wrote a caption beside the picture."""

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

    @hookimpl
    def mask(self, run: Run, query: MaskQuery) -> Masks | None:
        """Count the error of a smaller picture on that picture alone: summed there, divided by its cells."""
        return loss_where_valid(query, REGION)

    def _vary(self, example: Example, rng: random.Random) -> Example:
        image, captions = example.image, example.captions
        masks = dict(example.regions)
        if example.mask is not None:
            masks[""] = example.mask
        if rng.random() < self.flip:
            image = image.flip(-1)
            masks = {k: m.flip(-1) for k, m in masks.items()}
        if self.crop:
            keep = 1.0 - rng.random() * self.crop
            corner = rng.random(), rng.random()
            image = _crop(image, keep, corner)
            masks = {k: _crop(m, keep, corner) for k, m in masks.items()}
        if (factor := self._factor(rng)) != 1.0:
            corner = rng.random(), rng.random()
            if factor < 1.0:
                masks[REGION] = torch.ones(1, *image.shape[-2:])
            grey = torch.full((1, 1, 1), 0.5) if self.fill == "grey" else None
            image = _rescale(image, factor, corner, fill=grey)
            empty = torch.zeros(1, 1, 1)
            masks = {k: _rescale(m, factor, corner, fill=empty) for k, m in masks.items()}
            captions = self._with_size(factor, captions)
        mask = masks.pop("", None)
        return example.with_(image=image.contiguous(), mask=mask, captions=captions, regions=masks)

    def _factor(self, rng: random.Random) -> float:
        if self.close_ups is not None and rng.random() < self.close_share:
            return rng.uniform(*self.close_ups)
        factor = 1.0 if self.rescale is None else rng.uniform(*self.rescale)
        return 1.0 if self.whole and self.below <= factor <= 1.0 else factor

    def _with_size(self, factor: float, captions: tuple[str, ...]) -> tuple[str, ...]:
        words: tuple[str, ...] = ()
        if self.size_words and factor < self.below:
            words = self.small_words
        elif self.size_words and factor > self.above:
            words = self.large_words
        if not words:
            return captions
        return tuple(f"{word} {c}" for word in words for c in (captions or (self.caption,)))


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
        top, left = round((sh - h) * corner[0]), round((sw - w) * corner[1])
        return scaled[:, top : top + h, left : left + w]
    around = image.mean(dim=(-2, -1), keepdim=True) if fill is None else fill.to(image)
    padded = around.expand(image.shape[0], h, w).clone()
    top, left = round((h - sh) * corner[0]), round((w - sw) * corner[1])
    padded[:, top : top + sh, left : left + sw] = scaled
    return padded


def _resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(
        image[None], size=size, mode="bilinear", antialias=True, align_corners=False
    )[0].clamp(0, 1)


__all__ = ["Augment"]
