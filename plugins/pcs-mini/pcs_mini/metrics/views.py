"""The text-free embedder: pictures of the same thing lie close, and no name was ever read for it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from torch import Tensor

from pcs_mini.metrics import stored
from pcs_mini.metrics.encoding import EncodesCells
from pcs_mini.metrics.trunk import Embedder, prepare


class Views(EncodesCells):
    """Feature model ``mini.views``. Pictures are ``[n, 3, h, w]`` in 0..1 of any size.

    It was trained without labels and captions, and apart from Mini-CLIP, so that a method tuned on
    Mini-CLIP can be checked by it.
    """

    def __init__(self, net: Embedder) -> None:
        self.net = net

    def image_features(self, images: Tensor) -> Tensor:
        """``[n, 128]`` of unit norm; gradients flow if the pictures ask for them."""
        return self.net(prepare(images.to(self.net.project.weight.device)))

    def subject_similarity(self, images: Tensor, references: Tensor) -> float:
        """Mean cosine of every picture with every reference, -1..1."""
        return float((self.image_features(images) @ self.image_features(references).T).mean())


def open_views(folder: Path | None = None, device: str = "cpu") -> Views:
    """The embedder of a folder of metrics, the shipped one if None."""
    net, _ = stored.read("views", folder, lambda config: Embedder(**config["net"]))
    return Views(net.to(device))


@cache
def load() -> Views:
    """The shipped embedder, opened once."""
    return open_views()
