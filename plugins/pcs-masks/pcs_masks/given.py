"""The masks that the user laid beside the pictures, by concept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from pcs_core import Technique, hookimpl
from pcs_core.data import Masks
from pcs_core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import MaskQuery


def cover(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Return ``mask`` [1 h w] scaled so that it covers ``size``, then centre-cropped to it."""
    height, width = size
    scale = max(height / mask.shape[1], width / mask.shape[2])
    target = (max(height, round(mask.shape[1] * scale)), max(width, round(mask.shape[2] * scale)))
    scaled = F.interpolate(mask[None].float(), size=target, mode="bilinear", antialias=True)[0]
    top, left = (target[0] - height) // 2, (target[1] - width) // 2
    return scaled[:, top : top + height, left : left + width].clamp(0, 1)


class GivenMasks(Technique):
    """Hand the user's masks to other techniques, one [n 1 h w] per concept under its name.

    A picture without a mask of a concept has zeros there.
    """

    id = "masks.given"
    writes = ("region:mask.concept.*",)
    catalogue = ("subject-mask",)
    tiny_unseen = (
        "masks that the user laid beside the pictures reach a fit without it; it can demand them"
    )

    required: bool = False
    """Whether a subject with a picture that has no mask at all is refused."""

    @hookimpl
    def mask(self, query: MaskQuery) -> Masks | None:
        """Return the masks of the subject at the size of the backbone's pictures."""
        subject, size = query.subject, query.size
        if query.moment != "subject" or subject is None or size is None:
            return None
        if self.required:
            for i in range(len(subject.images)):
                if all(m[i] is None for m in subject.masks.values()):
                    file = subject.files[i] if i < len(subject.files) else f"picture {i}"
                    stem, many = file.rpartition(".")[0] or file, len(subject.concepts) > 1
                    name = f"{stem}.mask.<concept>.png" if many else f"{stem}.mask.png"
                    raise InputError(
                        f"subject {subject.name!r}: {file} has no mask: lay {name} beside it, "
                        "white where the concept is"
                    )
        by_concept = {}
        for concept in subject.concepts:
            masks = subject.masks.get(concept.name, ())
            if any(m is not None for m in masks):
                resized = [torch.zeros(1, *size) if m is None else cover(m, size) for m in masks]
                by_concept[concept.name] = torch.stack(resized)
        return Masks(by_concept) if by_concept else None
