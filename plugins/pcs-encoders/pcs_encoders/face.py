"""Identity features of the references from a face recogniser (InstantID, arXiv:2401.07519, 3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field

from pcs_encoders.alignment import SIDE, aligned
from pcs_encoders.image import ImageFeatures

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Masks, Run, Subject


class FaceFeatures(ImageFeatures):
    """One identity vector per concept, averaged over its references."""

    id = "encoders.face"
    catalogue = ("face-encoder", "reference-aggregation")
    tiny = {"model": "tiny.face"}
    later = ("square", "trained_layers", "align", "side")

    model: str = "face.id"
    """Feature model whose ``pooled`` is an identity embedding; ``face.id`` is an ONNX file of your own."""
    key: str = "face"
    """Name of the feature."""
    crop: bool = True
    """Whether a reference is cut to its subject's mask first."""
    align: bool = False
    """Whether a reference with five key points beside it (``<stem>.json``) is brought to the pose that
    recognisers were trained on; one without is cut to its mask, and the log says so."""
    side: Annotated[int, Field(ge=16)] = SIDE
    """Pixels of an aligned face across and down: a recogniser's 112, or what another encoder reads."""
    normalise: bool = True
    """Whether vectors are scaled to unit length before they are averaged."""

    def _shown(
        self, subject: Subject, masks: Masks, index: int, name: str, run: Run, encoder: Any
    ) -> Tensor:
        """Return the aligned face, or the picture where it has no key points."""
        if self.align:
            points = self._points(subject, index, name)
            if points is not None:
                return aligned(subject.images[index], points, self.side)
            run.log(
                f"{self.id}: reference {index + 1} of {subject.name!r} has no five key points beside it "
                "(<stem>.json): the recogniser sees it as it is, not brought to a face's usual pose"
            )
        return super()._shown(subject, masks, index, name, run, encoder)

    def _size(self, run: Run, encoder: Any) -> tuple[int, int]:
        """Return the size of an aligned face, where there may be some: all are shown at one size."""
        return (self.side, self.side) if self.align else super()._size(run, encoder)

    def _points(self, subject: Subject, index: int, name: str) -> Tensor | None:
        """Return the key points [5 2] of picture ``index``, in parts of it, if it has all five."""
        given = subject.extra[index].get("points") if index < len(subject.extra) else None
        given = given.get(name) if isinstance(given, dict) else given
        if given is None or len(given) != 5:
            return None
        points = torch.as_tensor(given, dtype=torch.float64)
        return points if bool((points >= 0).all() and (points <= 1).all()) else None
