"""Edits of one module, and the chain on it: before -> weight -> call -> residual -> after.

Bound as the instance's ``forward``. Not a forward hook: hooks added after a first compile are
silently ignored by Dynamo, an instance ``forward`` is always seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from pcs_core.edits.edit import Edit
from pcs_core.errors import CapabilityError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from pcs_core.backbone.attach import Attachment
    from pcs_core.backbone.context import Context
    from pcs_core.edits.site import Site


class ModuleEdit(Edit):
    """An edit of one module's call: what weight and layer edits share."""

    BOUND: ClassVar[int] = 30

    def __init__(self, site: Site, **options: object) -> None:
        super().__init__(site.name, **options)  # type: ignore[arg-type]
        self.site, self.part = site, site.part

    @classmethod
    def bind(cls, edits: Sequence[ModuleEdit], net: Attachment) -> None:
        """Put one chain on each module. An injected layer stands where the layer was by now.

        Edits bound inside an injected layer would not be called by some kinds of it.
        """
        chains: dict[str, tuple[nn.Module, list[ModuleEdit]]] = {}
        for edit in edits:
            module = net.backbone.parts[edit.part].get_submodule(edit.site.name)
            chains.setdefault(str(edit.site), (module, []))[1].append(edit)
        for module, here in chains.values():
            net.undo(stand_in(module, BoundModule(module, here, net.context)))


CHAIN = ("before", "weight", "call", "residual", "after")
"""Stages of a module's chain, in order: those of all kinds of edits of a module."""
REWRITABLE = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm)
"""Layers whose weight may be another's function."""


def in_few_bits(weight: Any) -> bool:
    """Return whether a weight is stored so that nothing can be computed from it but its layer's output."""
    packed = is_traceable_wrapper_subclass(weight) or not weight.is_floating_point()
    return packed or weight.element_size() < 2


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


class StandIn:
    """A plain object (so that deepcopy rebinds to the copy) that stands in for ``module.forward``."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.inner = vars(module).get("forward")
        """What stood there already: another of these, or what a library put there. The class's own is none."""

    def base(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module as it was before."""
        if self.inner is not None:
            return self.inner(*args, **kwargs)
        return type(self.module).forward(self.module, *args, **kwargs)


class BoundModule(StandIn):
    """Stands in for a layer's ``forward``, with the edits in force."""

    def __init__(self, module: nn.Module, edits: Sequence[ModuleEdit], context: Context) -> None:
        super().__init__(module)
        self.context = context
        self.stages: dict[str, list[Any]] = {stage: [] for stage in CHAIN}
        for edit in edits:
            self.stages[edit.stage()].append(edit)
        rewriting = self.stages["weight"]
        if rewriting and not isinstance(module, REWRITABLE):
            raise CapabilityError(
                f"{rewriting[0].owner!r} rewrites the weight of {rewriting[0].site}, a "
                f"{type(module).__name__}: only linear, 2-d convolution, group and layer norm layers "
                "can be rewritten"
            )
        if rewriting and in_few_bits(module.weight):
            raise CapabilityError(
                f"{rewriting[0].owner!r} rewrites the weight of {rewriting[0].site}, which is stored in few "
                "bits: open the backbone without quantize, or with bf16"
            )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the layer with the edits in force. Its first argument is what edits see as its input."""
        context = self.context
        if context.off:
            return self.base(*args, **kwargs)
        if not args:  # a block is called by names alone
            args = (kwargs.pop(next(iter(kwargs))),)
        x, args = args[0], args[1:]
        cond = context.cond
        for edit in self.stages["before"]:
            if context.acts(edit):
                x = edit.before(x, cond)
        y = self._weighted(x, args, kwargs)
        for edit in self.stages["residual"]:
            if context.acts(edit):
                y = y + edit.residual(x, y, cond)
        for edit in self.stages["after"]:
            if context.acts(edit):
                y = edit.after(y, cond)
        return y

    def _weighted(self, x: Tensor, args: Any, kwargs: Any) -> Any:
        for edit in self.stages["call"]:
            if self.context.acts(edit):
                return edit.call(
                    lambda given: self.base(given, *args, **kwargs), x, self.context.cond
                )
        for edit in self.stages["weight"]:
            if self.context.acts(edit):
                return with_weight(self.module, edit.weight(self.module.weight), x)
        return self.base(x, *args, **kwargs)


def stand_in(module: nn.Module, forward: Callable[..., Any]) -> Callable[[], None]:
    """Let ``forward`` stand in for ``module.forward``; return what undoes it exactly."""
    before = vars(module).get("forward")
    # object.__setattr__: nn.Module would look for parameters and modules in it
    object.__setattr__(module, "forward", forward)

    def undo() -> None:
        if before is None:
            object.__delattr__(module, "forward")
        else:
            object.__setattr__(module, "forward", before)

    return undo
