"""The identity embedder: pictures of one avatar lie close, whatever its expression or glasses."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from torch import Tensor

from pcs_mini.metrics import stored
from pcs_mini.metrics.encoding import EncodesCells
from pcs_mini.metrics.trunk import Embedder, prepare


class Identity(EncodesCells):
    """Feature model ``mini.identity``. Pictures are ``[n, 3, h, w]`` in 0..1 of any size.

    It says who an avatar is, not where its eyes are: key points come from the world, from ``<stem>.json``
    beside a picture or from a layout. Nothing here finds them.
    """

    def __init__(self, net: Embedder) -> None:
        self.net = net

    def image_features(self, images: Tensor) -> Tensor:
        """``[n, 128]`` of unit norm; gradients flow if the pictures ask for them."""
        return self.net(prepare(images.to(self.net.project.weight.device)))

    def similarity(self, images: Tensor, references: Tensor) -> Tensor:
        """Cosine ``[n, m]`` of every picture with every reference, -1..1."""
        return self.image_features(images) @ self.image_features(references).T


def open_identity(folder: Path | None = None, device: str = "cpu") -> Identity:
    """The embedder of a folder of metrics, the shipped one if None."""
    net, _ = stored.read("identity", folder, lambda config: Embedder(**config["net"]))
    return Identity(net.to(device))


@cache
def load() -> Identity:
    """The shipped embedder, opened once."""
    return open_identity()
