"""MTCNN (arXiv:1604.02878): where the faces of a picture are, by three networks of growing size."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.ops import batched_nms, nms

SMALLEST, SHRINK = 20, 0.709
"""Smallest face in pixels, and the factor of the image pyramid."""
SURE = (0.6, 0.7, 0.7)
"""Least probability of a face after each network."""
MODEL = "MTCNN (facenet-pytorch 2.6.0, its weights alone)"


class Proposals(nn.Module):
    """P-Net: a probability [n h' w'] and four edges [n 4 h' w'] for every 12 x 12 window, stride 2."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 10, 3), nn.PReLU(10)
        self.conv2, self.prelu2 = nn.Conv2d(10, 16, 3), nn.PReLU(16)
        self.conv3, self.prelu3 = nn.Conv2d(16, 32, 3), nn.PReLU(32)
        self.conv4_1, self.conv4_2 = nn.Conv2d(32, 2, 1), nn.Conv2d(32, 4, 1)
        self.pool = nn.MaxPool2d(2, 2, ceil_mode=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[n 3 h w] scaled to about -1..1."""
        x = self.prelu3(self.conv3(self.prelu2(self.conv2(self.pool(self.prelu1(self.conv1(x)))))))
        return self.conv4_1(x).softmax(1)[:, 1], self.conv4_2(x)


class Refiner(nn.Module):
    """R-Net: a probability [n] and four edges [n 4] for each cut-out of 24 x 24."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 28, 3), nn.PReLU(28)
        self.conv2, self.prelu2 = nn.Conv2d(28, 48, 3), nn.PReLU(48)
        self.conv3, self.prelu3 = nn.Conv2d(48, 64, 2), nn.PReLU(64)
        self.dense4, self.prelu4 = nn.Linear(576, 128), nn.PReLU(128)
        self.dense5_1, self.dense5_2 = nn.Linear(128, 2), nn.Linear(128, 4)
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[n 3 24 24] scaled to about -1..1."""
        x = self.pool(self.prelu1(self.conv1(x)))
        x = self.prelu3(self.conv3(self.pool(self.prelu2(self.conv2(x)))))
        # the weights were made where width comes before height
        x = self.prelu4(self.dense4(x.permute(0, 3, 2, 1).flatten(1)))
        return self.dense5_1(x).softmax(1)[:, 1], self.dense5_2(x)


class Output(nn.Module):
    """O-Net: the same for cut-outs of 48 x 48 (and landmarks, which are not used here)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 32, 3), nn.PReLU(32)
        self.conv2, self.prelu2 = nn.Conv2d(32, 64, 3), nn.PReLU(64)
        self.conv3, self.prelu3 = nn.Conv2d(64, 64, 3), nn.PReLU(64)
        self.conv4, self.prelu4 = nn.Conv2d(64, 128, 2), nn.PReLU(128)
        self.dense5, self.prelu5 = nn.Linear(1152, 256), nn.PReLU(256)
        self.dense6_1, self.dense6_2 = nn.Linear(256, 2), nn.Linear(256, 4)
        self.dense6_3 = nn.Linear(256, 10)
        self.wide, self.narrow = nn.MaxPool2d(3, 2, ceil_mode=True), nn.MaxPool2d(2, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[n 3 48 48] scaled to about -1..1."""
        x = self.wide(self.prelu1(self.conv1(x)))
        x = self.wide(self.prelu2(self.conv2(x)))
        x = self.prelu4(self.conv4(self.narrow(self.prelu3(self.conv3(x)))))
        x = self.prelu5(self.dense5(x.permute(0, 3, 2, 1).flatten(1)))
        return self.dense6_1(x).softmax(1)[:, 1], self.dense6_2(x)


class Mtcnn:
    """Finds faces: boxes [k 5] of left, top, right, bottom (pixels) and probability, best first."""

    def __init__(self, proposals: nn.Module, refiner: nn.Module, output: nn.Module) -> None:
        self.proposals, self.later = proposals.eval(), (refiner.eval(), output.eval())

    @torch.no_grad()
    def __call__(self, picture: Tensor) -> Tensor:
        """Return the faces of a picture [3 h w] in [0, 1]."""
        x = ((picture * 255).round() - 127.5)[None] / 128
        boxes = self._proposed(x)
        for net, size, least in zip(self.later, (24, 48), SURE[1:], strict=True):
            if not len(boxes):
                break
            boxes = _square(boxes)
            sure, edges = net(torch.cat([_cut(x, box, size) for box in boxes]))
            kept = sure > least
            boxes = _moved(boxes[kept], edges[kept], sure[kept])
            boxes = boxes[nms(boxes[:, :4], boxes[:, 4], 0.7)]
        return boxes[boxes[:, 4].argsort(descending=True)]

    def _proposed(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        rows: list[Tensor] = []
        levels: list[Tensor] = []
        scale = 12 / SMALLEST
        while min(height, width) * scale >= 12:
            size = [int(height * scale + 1), int(width * scale + 1)]
            sure, edges = self.proposals(interpolate(x, size, mode="area"))
            at = (sure[0] > SURE[0]).nonzero()
            corner = 2 * at.flip(1) + 1
            window = torch.cat([corner / scale, (corner + 11) / scale], 1).floor()
            moved = _moved(window, edges[0][:, at[:, 0], at[:, 1]].T, sure[0][at[:, 0], at[:, 1]])
            kept = nms(window, moved[:, 4], 0.5)
            rows.append(moved[kept])
            levels.append(torch.full((len(kept),), len(levels)))
            scale *= SHRINK
        if not rows:
            return x.new_zeros(0, 5)
        boxes, level = torch.cat(rows), torch.cat(levels)
        boxes = boxes[batched_nms(boxes[:, :4], boxes[:, 4], level, 0.7)]
        return boxes[nms(boxes[:, :4], boxes[:, 4], 0.7)]


def _moved(boxes: Tensor, edges: Tensor, sure: Tensor) -> Tensor:
    """Return boxes whose edges moved by parts of their sides, with their probabilities [k 5]."""
    sides = boxes[:, 2:4] - boxes[:, :2] + 1
    return torch.cat([boxes[:, :4] + edges * sides.repeat(1, 2), sure[:, None]], 1)


def _square(boxes: Tensor) -> Tensor:
    side = (boxes[:, 2:4] - boxes[:, :2]).amax(1, keepdim=True)
    corner = (boxes[:, :2] + boxes[:, 2:4] - side) / 2
    return torch.cat([corner, corner + side, boxes[:, 4:]], 1)


def _cut(x: Tensor, box: Tensor, size: int) -> Tensor:
    """Return the box of ``x`` [1 3 h w] at ``size``; what lies outside the picture is grey (0)."""
    left, top, right, bottom = (int(v) for v in box[:4].round())
    height, width = x.shape[-2:]
    patch = x.new_zeros(1, 3, max(1, bottom - top), max(1, right - left))
    inner = x[..., max(0, top) : min(height, bottom), max(0, left) : min(width, right)]
    if inner.numel():
        at = (max(0, -top), max(0, -left))
        patch[..., at[0] : at[0] + inner.shape[-2], at[1] : at[1] + inner.shape[-1]] = inner
    return interpolate(patch, (size, size), mode="area")


@cache
def mtcnn() -> Mtcnn:
    """Return the detector with its weights, torch archives read with ``weights_only``.

    Raises
    ------
    InputError
        The weights are not here.
    """
    from pcs_bench.metrics.weights import weight_file

    nets: list[Any] = [Proposals(), Refiner(), Output()]
    for net, name in zip(nets, ("pnet", "rnet", "onet"), strict=True):
        path = weight_file(f"mtcnn-{name}")
        net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return Mtcnn(*nets)
