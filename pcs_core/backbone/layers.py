"""The chain of edits on one layer: before -> weight -> call -> residual -> after.

Bound as the instance's ``forward``. Not a forward hook: hooks added after a first compile are
silently ignored by Dynamo, an instance ``forward`` is always seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import nn

from pcs_core.data.edits import LayerEdit, WeightEdit
from pcs_core.errors import CapabilityError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from pcs_core.backbone.context import Context
    from pcs_core.data.edits import Edit


REWRITABLE = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm)
"""Layers whose weight may be another's function."""


def with_weight(module: nn.Module, weight: Tensor, x: Tensor) -> Tensor:
    """Return what ``module`` makes of ``x`` with ``weight`` in place of its own."""
    bias: Any = module.bias
    if isinstance(module, nn.Linear):
        return F.linear(x, weight, bias)
    if isinstance(module, nn.GroupNorm):
        return F.group_norm(x, module.num_groups, weight, bias, module.eps)
    if isinstance(module, nn.LayerNorm):
        return F.layer_norm(x, module.normalized_shape, weight, bias, module.eps)
    assert isinstance(module, nn.Conv2d)
    return module._conv_forward(x, weight, bias)


class BoundLayer:
    """A plain object (so that deepcopy rebinds to the copy) that stands in for ``module.forward``."""

    def __init__(self, module: nn.Module, edits: Sequence[Edit], context: Context) -> None:
        self.module, self.context = module, context
        self.inner = vars(module).get("forward")
        stages: dict[str, list[Any]] = {
            stage: [] for stage in (*LayerEdit.STAGES, *WeightEdit.STAGES)
        }
        for edit in edits:
            stages[edit.stage()].append(edit)
        self.before, self.after = stages["before"], stages["after"]
        self.weight, self.call, self.residual = (stages[s] for s in WeightEdit.STAGES)
        if self.weight and not isinstance(module, REWRITABLE):
            raise CapabilityError(
                f"{self.weight[0].owner!r} rewrites the weight of {self.weight[0].site}, a "
                f"{type(module).__name__}: only linear, 2-d convolution, group and layer norm layers "
                "can be rewritten"
            )

    def base(self, *args: Any, **kwargs: Any) -> Any:
        """Run the layer as it was before binding."""
        if self.inner is not None:
            return self.inner(*args, **kwargs)
        return type(self.module).forward(self.module, *args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the layer with the edits in force. Its first argument is what edits see as its input."""
        context = self.context
        if context.off:
            return self.base(*args, **kwargs)
        if not args:  # a block is called by names alone
            args = (kwargs.pop(next(iter(kwargs))),)
        x, args = args[0], args[1:]
        cond = context.cond
        for edit in self.before:
            if context.acts(edit):
                x = edit.before(x, cond)
        y = self._weighted(x, args, kwargs)
        for edit in self.residual:
            if context.acts(edit):
                y = y + edit.residual(x, y, cond)
        for edit in self.after:
            if context.acts(edit):
                y = edit.after(y, cond)
        return y

    def _weighted(self, x: Tensor, args: Any, kwargs: Any) -> Any:
        for edit in self.call:
            if self.context.acts(edit):
                return edit.call(
                    lambda given: self.base(given, *args, **kwargs), x, self.context.cond
                )
        for edit in self.weight:
            if self.context.acts(edit):
                return with_weight(self.module, edit.weight(self.module.weight), x)
        return self.base(x, *args, **kwargs)


def bind_layer(module: nn.Module, edits: Sequence[Edit], context: Context) -> Callable[[], None]:
    """Bind ``edits`` on ``module``; return what undoes it."""
    before = vars(module).get("forward")
    # object.__setattr__: nn.Module would look for parameters and modules in it
    object.__setattr__(module, "forward", BoundLayer(module, edits, context))

    def undo() -> None:
        if before is None:
            object.__delattr__(module, "forward")
        else:
            object.__setattr__(module, "forward", before)

    return undo
