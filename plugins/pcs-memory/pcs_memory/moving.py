"""Modules of unknown numbers can be moved: torch swaps such parameters, and refuses where one is watched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor


@contextmanager
def moving_unknowns() -> Iterator[None]:
    """Let ``Module.to`` and its kin put new parameters in the place of unknown ones, for the duration."""
    before = nn.Module._apply

    def apply(module: nn.Module, change: Callable[..., Any], recurse: bool = True) -> nn.Module:
        tensors = (*module.parameters(recurse), *module.buffers(recurse))
        if not any(isinstance(tensor, FakeTensor) for tensor in tensors):
            return before(module, change, recurse)
        for child in module.children() if recurse else ():
            child._apply(change)
        table: dict[str, Any]
        for table in (module._parameters, module._buffers):
            for key, tensor in list(table.items()):
                if tensor is None:
                    continue
                with torch.no_grad():
                    moved = change(tensor)
                if moved is not tensor:
                    table[key] = (
                        nn.Parameter(moved, requires_grad=tensor.requires_grad)
                        if isinstance(tensor, nn.Parameter)
                        else moved
                    )
        return module

    nn.Module._apply = apply  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        nn.Module._apply = before  # type: ignore[method-assign]
