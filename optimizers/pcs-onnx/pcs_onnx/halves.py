"""Half precision for the time of a trace: the network's own tensors come back bit for bit."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
"""What the graphs may compute in."""
TOLERANCES = {"fp32": 1e-5, "fp16": 5e-3}
"""Largest difference of a graph from the fp32 network, relative to the largest output."""


@contextmanager
def traced_in(dtype: torch.dtype, root: nn.Module, backbone: Any) -> Iterator[None]:
    """Put every fp32 tensor below ``root`` into ``dtype``, and say so on the backbone."""
    if dtype is torch.float32:
        yield
        return
    originals: list[tuple[Tensor, Tensor]] = []
    before = backbone.dtype
    seen: set[int] = set()
    try:
        backbone.dtype = dtype
        for tensor in (*root.parameters(), *root.buffers()):
            if tensor.dtype is torch.float32 and id(tensor) not in seen:
                seen.add(id(tensor))
                originals.append((tensor, tensor.data))
                tensor.data = tensor.data.to(dtype)
        yield
    finally:
        backbone.dtype = before
        for tensor, data in originals:
            tensor.data = data
