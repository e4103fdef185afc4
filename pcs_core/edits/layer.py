"""Edits of the features before or after a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pcs_core.edits.module import ModuleEdit

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data.conditioning import Conditioning


class LayerEdit(ModuleEdit):
    """Features before or after a conv, resnet, norm or block."""

    STAGES = ("before", "after")
    LISTED: ClassVar[int] = 30

    def before(self, x: Tensor, cond: Conditioning | None) -> Tensor:
        """Return the input the layer gets."""
        return x

    def after(self, y: Tensor, cond: Conditioning | None) -> Tensor:
        """Return the output the layer gives."""
        return y
