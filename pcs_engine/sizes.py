"""Examples at the size of a phase: smaller pictures first, the backbone's own size later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from pcs_core.backbone import Backbone
from pcs_core.data import RENDERED, BranchEdit, Example, Features, Fusion, Phase
from pcs_core.data.later import Later, changed
from pcs_core.errors import CapabilityError, RecipeError

CORNER = "picture.corner"
"""What a network is told of a crop is in pixels of the scaled picture: it is scaled with it."""


def phase_size(phase: Phase, backbone: Backbone) -> tuple[int, int]:
    """Return height and width of the phase's pictures: its ``size`` is the shorter side, 0 the backbone's own.

    Raises
    ------
    RecipeError
        Larger than the backbone's pictures, or no multiple of what one latent covers.
    """
    height, width = backbone.card.size
    shorter = min(height, width)
    if phase.size in (0, shorter):
        return height, width
    if phase.size > shorter:
        raise RecipeError(
            f"phase {phase.name!r}: size {phase.size} is larger than the {height} x {width} pixels that "
            f"{backbone.card.id!r} draws: leave it out, or take at most {shorter}"
        )
    size = round(height * phase.size / shorter), round(width * phase.size / shorter)
    per_latent = height // backbone.latent_shape[-2]
    if any(side % per_latent for side in size):
        raise RecipeError(
            f"phase {phase.name!r}: pictures of {size[0]} x {size[1]} pixels cannot be encoded, sides must "
            f"be multiples of {per_latent} on {backbone.card.id!r}"
        )
    return size


def check_sizes(phases: Sequence[Phase], fusion: Fusion, backbone: Backbone) -> None:
    """Refuse sizes of phases that cannot be had, before anything trains.

    Raises
    ------
    RecipeError
        As :func:`phase_size`; or the phase renders its pictures, whose size is the renderable's business.
    CapabilityError
        A control branch reads pictures of the backbone's own size.
    """
    for phase in phases:
        if phase_size(phase, backbone) == tuple(backbone.card.size):
            continue
        if RENDERED in phase.batch:
            raise RecipeError(
                f"phase {phase.name!r} renders its pictures: leave its size out, the technique that "
                "renders has a size of its own"
            )
        if branches := fusion.of(BranchEdit):
            raise CapabilityError(
                f"phase {phase.name!r} has a size of its own, but the control branch of "
                f"{branches[0].owner!r} reads pictures of the backbone's: leave the size out"
            )


class SizedExamples:
    """Scales examples, and keeps what it scaled: phases of one size share their pictures' latents."""

    def __init__(self) -> None:
        self._images: dict[tuple[int, tuple[int, int]], tuple[Any, Any]] = {}

    def at(self, features: Sequence[Features], size: tuple[int, int]) -> list[Features]:
        """Return the features with the images [3 h w] and corners of their examples at ``size`` [pixels].

        Masks and regions stay as they are: they are scaled to the latents anyway.
        """
        return [
            replace(f, examples=tuple(self._one(e, size) for e in f.examples)) for f in features
        ]

    def _one(self, example: Example, size: tuple[int, int]) -> Example:
        height = example.picture.shape[-2]
        if tuple(example.picture.shape[-2:]) == size:
            return example
        extra = dict(example.extra)
        if CORNER in extra:
            extra[CORNER] = extra[CORNER] * (size[0] / height)
        return example.with_(image=self._scaled(example.picture, size), extra=extra)

    def _scaled(self, image: Any, size: tuple[int, int]) -> Any:
        key = place_of(image), size
        if key not in self._images:
            small = changed(image, (*image.shape[:-2], *size), lambda t: _scaled(t, size))
            # the picture too, so that nothing else comes to stand at its place
            self._images[key] = image, small
        return self._images[key][1]


def place_of(picture: Any) -> int:
    """Return where a picture stands: that of its pixels, or of what reads them."""
    return id(picture) if isinstance(picture, Later) else int(picture.data_ptr())


def _scaled(image: Tensor, size: tuple[int, int]) -> Tensor:
    frames = image.transpose(0, 1) if image.dim() == 4 else image[None]
    scaled = F.interpolate(
        frames, size=size, mode="bicubic", antialias=True, align_corners=False
    ).clamp(0, 1)
    return scaled.transpose(0, 1).contiguous() if image.dim() == 4 else scaled[0]
