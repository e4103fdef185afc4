"""A backbone whose weights are unknown: from configurations where there are any, else an installed one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from pcs_core import installed, open_backbone

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from pcs_core.backbone import Backbone
    from pcs_memory.unknown import UnknownNumbers

SERVICE = "open_without_weights"
"""What opens configurations of a layout: the service of the plugin that reads it."""


def open_unknown(
    name: str, numbers: UnknownNumbers, dtype: torch.dtype | None = None
) -> tuple[Backbone, bool]:
    """Return the backbone ``name`` with weights that nobody knows, and whether they were read for that.

    Folders and hub ids are opened from their configurations. An installed backbone, and a single file, is
    opened as it is, and its weights are forgotten.

    Raises
    ------
    PcsError
        As :func:`pcs_core.open_backbone`.
    """
    known = installed()
    opened: Any = None
    if name not in known.ids("backbones") and SERVICE in known.ids("services"):
        opener = known.get("services", SERVICE)
        with numbers:
            opened = opener(name, id=name, dtype=dtype, making=lambda: numbers.fake)
    read = opened is None
    if read:
        opened = open_backbone(name, dtype=dtype)
        for part in opened.parts.values():
            forget(part, numbers)
    return opened, read


def forget(part: nn.Module, numbers: UnknownNumbers) -> None:
    """Put unknown numbers in the place of every parameter and buffer of ``part``, in place."""
    replaced: dict[int, Tensor] = {}
    for module in part.modules():
        for table in (module._parameters, module._buffers):
            for key, tensor in list(table.items()):
                if tensor is None:
                    continue
                if id(tensor) not in replaced:  # one that two layers share stays one
                    unknown = numbers.unknown(tensor.detach())
                    replaced[id(tensor)] = (
                        torch.nn.Parameter(unknown, requires_grad=tensor.requires_grad)
                        if isinstance(tensor, torch.nn.Parameter)
                        else unknown
                    )
                table[key] = replaced[id(tensor)]  # type: ignore[assignment]


def weights_of(part: nn.Module) -> Iterator[Tensor]:
    """Yield every tensor that a part holds."""
    yield from part.parameters()
    yield from part.buffers()
