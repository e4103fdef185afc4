"""Resizing as matrix products: exact for a fixed size, and every opset has it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


@contextmanager
def resized_by_products() -> Iterator[None]:
    """Let antialiased ``interpolate`` be two products, one per axis, for the duration."""
    usual = F.interpolate
    known: dict[tuple[Any, ...], Tensor] = {}

    def matrix(inner: int, outer: int, options: dict[str, Any]) -> Tensor:
        key = (inner, outer, *sorted(options.items()))
        if key not in known:  # found when run, not when traced: constants of the graph
            known[key] = _matrix(usual, inner, outer, options)
        return known[key]

    def interpolate(input: Tensor, size: Any = None, *args: Any, **kwargs: Any) -> Tensor:
        if not kwargs.get("antialias") or size is None or args:
            return usual(input, size, *args, **kwargs)
        height, width = size
        down = matrix(input.shape[-2], int(height), kwargs)
        across = matrix(input.shape[-1], int(width), kwargs)
        return down.to(input) @ input @ across.to(input).T

    F.interpolate = interpolate
    try:
        yield
    finally:
        F.interpolate = usual


def _matrix(usual: Any, inner: int, outer: int, options: dict[str, Any]) -> Tensor:
    """Return [outer inner]: what resizing does to one axis, read off a picture of ones."""
    picture = torch.eye(inner)[None, None]
    resized: Tensor = usual(picture, (outer, inner), **options)
    return resized[0, 0]
