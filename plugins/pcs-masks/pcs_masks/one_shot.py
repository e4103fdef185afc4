"""Masks of all pictures from the mask of one (PerSAM, arXiv:2305.03048, and its code, ``persam.py``).

The mean of SAM's features under the one mask is what the subject looks like. In another picture the most and
the least similar places are a point on the subject and one beside it; the map of similarities biases the
decoder's attention, the mean feature joins its tokens, and two more passes refine what it says: by the mask
itself, and by the mask and the box around it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from pcs_core import Technique, hookimpl
from pcs_core.data import Masks
from pcs_core.errors import InputError
from pcs_masks.given import cover

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import MaskQuery, Run, Subject
    from pcs_masks.segmenter import Segmenter


class OneShotMasks(Technique):
    """Give each picture without a mask one that SAM makes from the first picture that has a mask.

    Masks that the user laid beside pictures stay. A picture in which nothing is recognised gets no mask; the
    log names it.
    """

    id = "masks.one_shot"
    writes = ("region:mask.concept.*",)
    catalogue = ("subject-mask",)
    takes_clips = False
    tiny = {"model": "tiny.sam", "required": False}
    tiny_unseen = "masks reach a fit by another technique that reads them"

    model: str = "sam"
    """Feature model that segments by points, boxes and masks: Segment Anything, named by PCS_SAM."""
    required: bool = True
    """Whether a subject without any mask is refused; else the log says that its pictures count whole."""

    @hookimpl
    def mask(self, run: Run, query: MaskQuery) -> Masks | None:
        """Return the masks of each concept [n 1 h w] at the size of the backbone's pictures."""
        subject, size = query.subject, query.size
        if query.moment != "subject" or subject is None or size is None or not subject.images:
            return None
        made = {}
        for concept in subject.concepts:
            masks = list(subject.masks.get(concept.name, (None,) * len(subject.images)))
            first = next((i for i, m in enumerate(masks) if m is not None), None)
            if first is None:
                text = (
                    f"subject {subject.name!r}: no picture has a mask of {concept.name!r}: {self.id} makes "
                    "those of the others from one: lay it beside one of them, white where the subject is"
                )
                if self.required:
                    raise InputError(text)
                run.log(text)
            elif any(m is None for m in masks):
                complete = self._others(run, subject, masks, first)
                made[concept.name] = torch.stack([cover(m, size) for m in complete])
        return Masks(made) if made else None

    def _others(
        self, run: Run, subject: Subject, masks: list[Tensor | None], first: int
    ) -> list[Tensor]:
        segmenter: Segmenter = run.feature_model(self.model)
        given = masks[first]
        assert given is not None  # the caller looked
        look = appearance(segmenter, subject.images[first], given)
        complete = []
        for i, picture in enumerate(subject.images):
            mask = masks[i]
            if mask is None:
                mask = segment(segmenter, picture, look)
                if not mask.any():
                    name = subject.files[i] if i < len(subject.files) else f"picture {i}"
                    run.log(
                        f"{self.id}: nothing in {name} is like {subject.name!r}: it has no mask"
                    )
            complete.append(mask)
        return complete


def appearance(segmenter: Segmenter, picture: Tensor, mask: Tensor) -> Tensor:
    """Return the mean feature [c] of what lies under ``mask`` [1 h w] in ``picture`` [3 h w].

    Raises
    ------
    InputError
        Nothing of the mask is left on the grid of features.
    """
    features = segmenter.features(picture)
    grid = tuple(features.shape[-2:])
    whole = segmenter.square((mask > 0.5).float(), "nearest")[None]
    under = F.interpolate(whole, grid, mode="bilinear", align_corners=False)[0, 0] > 0
    if not under.any():
        raise InputError("masks.one_shot: the mask that the others are made from is empty")
    return features[:, under].mean(dim=1)


def similarity(segmenter: Segmenter, features: Tensor, picture: Tensor, look: Tensor) -> Tensor:
    """Return the cosine of each place's feature with ``look``, at the places of the picture [h w]."""
    cosine = torch.einsum("c,chw->hw", F.normalize(look, dim=0), F.normalize(features, dim=0))
    fine = F.interpolate(cosine[None, None], scale_factor=4, mode="bilinear", align_corners=False)
    return segmenter.unfold(fine[0, 0], picture)[0]


def segment(segmenter: Segmenter, picture: Tensor, look: Tensor) -> Tensor:
    """Return the mask [1 h w] of 0 and 1 of what is like ``look`` [c] in ``picture`` [3 h w]."""
    features = segmenter.features(picture)
    alike = similarity(segmenter, features, picture, look)
    spots = [divmod(int(i), alike.shape[1])[::-1] for i in (alike.argmax(), alike.argmin())]
    height, width = segmenter.shown(picture)
    to_square = torch.tensor([width / alike.shape[1], height / alike.shape[0]])
    points = {
        "input_points": (torch.tensor(spots, dtype=torch.float32) * to_square)[None, None],
        "input_labels": torch.tensor([[[1, 0]]]),
    }
    grid = tuple(features.shape[-2:])
    spread = ((alike - alike.mean()) / alike.std())[None, None]
    bias = F.interpolate(spread, grid, mode="bilinear", align_corners=False).sigmoid()
    logits, _ = segmenter.predict(
        features,
        several=False,
        attention_similarity=bias.flatten(2)[None],
        target_embedding=look[None, None, None],
        **points,
    )
    best = logits[0]
    logits, sure = segmenter.predict(features, several=True, input_masks=best[None, None], **points)
    best = logits[sure.argmax()]
    mask = segmenter.unfold(best, picture) > 0
    if not mask.any():
        return mask.float()
    places = mask[0].nonzero()
    corners = torch.stack([places.amin(0).flip(0), places.amax(0).flip(0)]).float() * to_square
    logits, sure = segmenter.predict(
        features,
        several=True,
        input_masks=best[None, None],
        input_boxes=corners.reshape(1, 1, 4),
        **points,
    )
    return (segmenter.unfold(logits[sure.argmax()], picture) > 0).float()
