"""Identity features of the references from a face recogniser (InstantID, arXiv:2401.07519, 3.2)."""

from __future__ import annotations

from pcs_encoders.image import ImageFeatures


class FaceFeatures(ImageFeatures):
    """One identity vector per concept, averaged over references and of unit length before that."""

    id = "encoders.face"
    catalogue = ("face-encoder", "reference-aggregation")
    tiny = {"model": "tiny.face"}

    model: str = "face.id"
    """Feature model whose ``pooled`` is an identity embedding."""
    key: str = "face"
    """Name of the feature."""
    crop: bool = True
    """Whether a reference is cut to its subject's mask first."""
    normalise: bool = True
    """Whether vectors are scaled to unit length before they are averaged."""
