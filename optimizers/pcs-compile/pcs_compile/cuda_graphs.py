"""CUDA graphs of the denoiser: recorded when first needed, replayed with other inputs.

A graph reads and writes fixed memory. Inputs are copied into the tensors it was recorded with, and
tensors of edits lie in places that every artifact shares (:class:`pcs_compile.slots.Slots`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from pcs_core.errors import CapabilityError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from pcs_core.backbone import Context
    from pcs_core.data import Edit

WARM_UPS = 3
"""Calls before the recording, in which libraries choose their kernels."""


class Replays:
    """The graphs of one denoiser: one for each set of acting edits, input shapes and weights."""

    def __init__(self, call: Callable[..., Tensor], network: nn.Module) -> None:
        self.call, self.network = call, network
        self._known: dict[Any, _Recorded] = {}

    @property
    def count(self) -> int:
        """Graphs recorded so far."""
        return len(self._known)

    def __call__(self, context: Context, acting: list[Edit], given: tuple[Any, ...]) -> Tensor:
        """Return the network's output for ``given``, recording a graph where none fits."""
        leaves, spec = pytree.tree_flatten(given)
        key = self.key(acting, leaves, spec)
        if key not in self._known:
            self._known[key] = _Recorded(self.call, context, leaves, spec)
        return self._known[key](leaves)

    def key(self, acting: list[Edit], leaves: list[Any], spec: Any) -> tuple[Any, ...]:
        """Return what must be the same for a graph to be replayed.

        Weights count by address: full fine-tuning puts others in their place.
        """
        edits = tuple((e.owner, e.name, type(e)) for e in acting)
        places = tuple(t.data_ptr() for e in acting for t in (*e.parameters(), *e.buffers()))
        inputs = tuple((tuple(t.shape), t.dtype) for t in leaves)
        weights = tuple(t.data_ptr() for t in self.network.parameters())
        return edits, places, inputs, str(spec), weights


class _Recorded:
    """One graph and the tensors it was recorded with."""

    def __init__(
        self, call: Callable[..., Tensor], context: Context, leaves: list[Tensor], spec: Any
    ) -> None:
        self.inputs = [leaf.detach().clone() for leaf in leaves]
        latents, time, cond, residuals = pytree.tree_unflatten(self.inputs, spec)
        context.cond = cond  # edits read it there: the recording must see the same tensors
        context.subject = cond.subject
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                call(latents, time, cond, residuals=residuals or None)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.output = call(latents, time, cond, residuals=residuals or None)

    def __call__(self, leaves: list[Tensor]) -> Tensor:
        for place, leaf in zip(self.inputs, leaves, strict=True):
            place.copy_(leaf)
        self.graph.replay()
        return self.output.clone()


def check_graphs(edits: list[Edit], network: nn.Module) -> None:
    """Refuse edits that hold tensors where a graph could not find those of the next artifact.

    Raises
    ------
    CapabilityError
        Names the use.
    """
    fixed = {id(t) for t in (*network.parameters(), *network.buffers())}
    for edit in edits:
        plain = {k: v for k, v in vars(edit).items() if not k.startswith("_")}
        if any(id(t) not in fixed for t in _tensors(plain)):
            raise CapabilityError(
                f"{edit.owner!r} borrows tensors of another part, which a CUDA graph would not see "
                "change: leave out --option graphs=true"
            )


def _tensors(value: Any) -> Iterator[Any]:
    """Yield the tensors that plain containers and the modules in them hold."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, nn.Module):
        yield from (*value.parameters(), *value.buffers())
    elif isinstance(value, dict):
        for element in value.values():
            yield from _tensors(element)
    elif isinstance(value, list | tuple):
        for element in value:
            yield from _tensors(element)
