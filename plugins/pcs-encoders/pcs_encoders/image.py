"""Features of the references from a frozen image encoder (IP-Adapter, arXiv:2308.06721, 3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from pcs_core import Technique, fit_image, hookimpl
from pcs_core.data import Features, Words

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Masks, Run, Subject


class ImageFeatures(Technique):
    """Encode the references of each concept once: features ``"<key>"`` [slots d] or [slots t d].

    Several references of a concept give their mean, or all of their tokens. Slots without a concept hold
    zeros. It trains nothing and changes nothing by itself.
    """

    id = "encoders.image"
    catalogue = ("image-encoder", "reference-aggregation")
    tiny = {"model": "tiny.image", "output": "pooled"}

    model: str = "clip.image"
    """Feature model with ``pooled`` and ``patches``."""
    key: str = "image"
    """Name of the feature; other techniques read it by this name."""
    output: Literal["pooled", "patches"] = "pooled"
    """One vector per picture, or the encoder's tokens."""
    several: Literal["mean", "join"] = "mean"
    """Several references of a concept: their mean, or with ``output = "patches"`` their tokens side by side
    (the mean of pictures whose parts lie elsewhere says little of any)."""
    slots: Annotated[int, Field(ge=1)] = 1
    """How many concepts a picture may have."""
    crop: bool = False
    """Whether a reference is cut to its subject's mask first."""
    background: Literal["keep", "white"] = "keep"
    """What stands behind a masked subject."""
    normalise: bool = False
    """Whether pooled features are scaled to unit length before they are averaged."""

    def words(self) -> Words:
        """Return what it reads and writes."""
        return Words(may_read=("region:mask.concept.*",), writes=(f"feature:{self.key}",))

    @hookimpl
    def extract(self, run: Run, subject: Subject, masks: Masks, moment: str) -> Features | None:
        """Encode at the start; the artifact keeps the result."""
        if moment != "start" or not subject.images:
            return None
        encoder = run.feature_model(self.model)
        names = [c.name for c in subject.concepts][: self.slots]
        rows = []
        for k, name in enumerate(names):
            pictures = [
                self._prepare(*self._masked(image, subject, masks, i, name, run), run.image_size)
                for i, image in enumerate(subject.images)
                if self._owner(subject, i, k, name)
            ]
            if pictures:
                found = getattr(encoder, self.output)(torch.stack(pictures).to(run.device))
                if self.normalise and self.output == "pooled":
                    found = F.normalize(found, dim=-1)
                joined = self.several == "join" and found.dim() == 3
                rows.append(found.flatten(0, 1) if joined else found.mean(0))
        if rows[0].dim() == 2:  # of concepts with fewer references, the rest is empty
            longest = max(len(row) for row in rows)
            rows = [F.pad(row, (0, 0, 0, longest - len(row))) for row in rows]
        like = rows[0]
        rows += [torch.zeros_like(like)] * (self.slots - len(rows))
        return Features(tensors={self.key: torch.stack(rows).float()}, keep=(self.key,))

    def _owner(self, subject: Subject, index: int, slot: int, name: str) -> bool:
        """Return whether picture ``index`` shows the concept; one that does not say shows the first."""
        said = subject.extra[index].get("concept") if index < len(subject.extra) else None
        return said == name if said is not None else (slot == 0 or len(subject.concepts) == 1)

    def _masked(
        self, image: Tensor, subject: Subject, masks: Masks, index: int, name: str, run: Run
    ) -> tuple[Tensor, Tensor | None]:
        """Return the picture and the concept's mask over it: the user's, or else a technique's.

        A technique's mask is laid over the part that the network is shown.
        """
        laid = subject.masks.get(name, ())
        mask = laid[index] if index < len(laid) else None
        told = masks.get(name)
        if mask is None and told is not None and bool(told[index].any()):
            return fit_image(image, run.image_size), told[index]
        return image, mask

    def _prepare(self, image: Tensor, mask: Tensor | None, size: tuple[int, int]) -> Tensor:
        if mask is not None and self.background == "white":
            image = image * mask + (1 - mask)
        if mask is not None and self.crop and bool((mask > 0.5).any()):
            rows, columns = (mask[0] > 0.5).any(1).nonzero(), (mask[0] > 0.5).any(0).nonzero()
            image = image[
                :, int(rows[0]) : int(rows[-1]) + 1, int(columns[0]) : int(columns[-1]) + 1
            ]
        # a square, so that pictures of any shape stack and nothing is cut off before the encoder does
        side = max(image.shape[-2:])
        top, left = (side - image.shape[-2]) // 2, (side - image.shape[-1]) // 2
        square = F.pad(
            image,
            (left, side - image.shape[-1] - left, top, side - image.shape[-2] - top),
            value=1.0,
        )
        return F.interpolate(
            square[None], size, mode="bilinear", antialias=True, align_corners=False
        )[0]
