"""Scores of sets through torchmetrics: FID, Inception Score, LPIPS diversity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from pcs_bench.metrics.measures import same_prompt
from pcs_core.errors import InputError


class Features(nn.Module):
    """An eye as torchmetrics wants it: pictures in, features [n d] out."""

    def __init__(self, eye: Any, num_features: int) -> None:
        super().__init__()
        self.eye, self.num_features = eye, num_features

    def forward(self, pictures: Tensor) -> Tensor:
        """[n 3 h w] in [0, 1] to [n d]."""
        features: Tensor = self.eye.image_features(pictures)
        return features


def fid(extractor: Callable[[], Any]) -> Callable[..., Tensor]:
    """Frechet distance of the pictures' features to the references' (arXiv:1706.08500)."""

    def measure(pictures: Tensor, *, references: Tensor, **_: Any) -> Tensor:
        from torchmetrics.image.fid import FrechetInceptionDistance

        if min(len(pictures), len(references)) < 2:
            raise InputError("FID needs two pictures and two references at least")
        metric = inception("FID", lambda: FrechetInceptionDistance(extractor(), normalize=True))
        metric.update(references, real=True)
        metric.update(pictures, real=False)
        return metric.compute()[None]

    return measure


def inception_score(extractor: Callable[[], Any], splits: int = 1) -> Callable[..., Tensor]:
    """Inception Score (arXiv:1606.03498); one split, since sets here are small."""

    def measure(pictures: Tensor, **_: Any) -> Tensor:
        from torchmetrics.image.inception import InceptionScore

        metric = inception(
            "the Inception Score",
            lambda: InceptionScore(extractor(), splits=splits, normalize=True),
        )
        metric.update(pictures)
        return metric.compute()[0][None]

    return measure


def inception(what: str, make: Callable[[], Any]) -> Any:
    """Return a metric of torchmetrics, or say what its network lacks."""
    try:
        return make()
    except (ModuleNotFoundError, OSError, RuntimeError) as error:
        raise InputError(
            f"{what} needs torch-fidelity and its Inception weights (pt_inception-2015-12-05): "
            f"pip install 'pcs-bench[inception]', and let it fetch them once ({type(error).__name__})"
        ) from error


def lpips_diversity(network: Callable[[], Any]) -> Callable[..., Tensor]:
    """Mean LPIPS (arXiv:1801.03924) over pairs of pictures of one prompt; one value of a set."""

    def measure(pictures: Tensor, *, prompts: Sequence[str], **_: Any) -> Tensor:
        pairs = same_prompt(prompts)
        if not pairs:
            return torch.tensor([float("nan")])
        net, scaled = network(), pictures * 2 - 1
        apart = [net(scaled[a][None], scaled[b][None]).flatten() for a, b in pairs]
        return torch.cat(apart).mean()[None]

    return measure


@cache
def alexnet() -> Any:
    """LPIPS on AlexNet, torchmetrics' copy with the calibrated heads of version 0.1."""
    from torchmetrics.functional.image.lpips import _LPIPS

    try:
        return _LPIPS(pretrained=True, net="alex").eval()
    except (OSError, RuntimeError) as error:
        raise InputError(
            "LPIPS needs torchvision's AlexNet weights (alexnet-owt-7be5be79): run once where "
            f"download.pytorch.org is reached ({type(error).__name__})"
        ) from error
