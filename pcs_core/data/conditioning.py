"""What the network is told beside the latents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Conditioning:
    """A pytree of tensors, a row per batch row.

    ``text`` [b l d]; ``pooled`` [b d] or None; ``streams`` image tokens by name [b n d];
    ``masks`` [b 1 h w] by name; ``residuals`` by name; ``spans`` token positions [b n] (-1: absent)
    by placeholder; ``subject`` [b] long, the subject index of each row; ``progress`` [b] in [0, 1];
    ``extra`` anything else a technique declares.
    """

    text: Tensor
    pooled: Tensor | None = None
    subject: Tensor | None = None
    streams: Mapping[str, Tensor] = field(default_factory=dict)
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    residuals: Mapping[str, Tensor] = field(default_factory=dict)
    spans: Mapping[str, Tensor] = field(default_factory=dict)
    progress: Tensor | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def with_(self, **changes: Any) -> Conditioning:
        """Return a copy with ``changes``."""
        return replace(self, **changes)

    def repeat(self, times: int) -> Conditioning:
        """Return this conditioning with its rows repeated ``times`` times as a whole."""
        return pytree.tree_map(lambda t: t.repeat(times, *[1] * (t.dim() - 1)), self)

    @property
    def rows(self) -> int:
        """Number of batch rows."""
        return int(self.text.shape[0])


def concatenate(parts: tuple[Conditioning, ...]) -> Conditioning:
    """Concatenate conditionings over batch rows; all must have the same tensors.

    Raises
    ------
    ValueError
        The parts do not hold the same set of tensors.
    """
    if len(parts) == 1:
        return parts[0]
    leaves, specs = zip(*(pytree.tree_flatten(part) for part in parts), strict=True)
    if any(spec != specs[0] for spec in specs[1:]):
        raise ValueError("conditionings with different tensors cannot share a batch")
    joined = [torch.cat(row, dim=0) for row in zip(*leaves, strict=True)]
    return pytree.tree_unflatten(joined, specs[0])


def _flatten(cond: Conditioning) -> tuple[list[Any], tuple[str, ...]]:
    names = tuple(f.name for f in fields(cond) if getattr(cond, f.name) is not None)
    return [getattr(cond, name) for name in names], names


def _unflatten(values: Any, names: tuple[str, ...]) -> Conditioning:
    return Conditioning(**dict(zip(names, values, strict=True)))


pytree.register_pytree_node(
    Conditioning, _flatten, _unflatten, serialized_type_name="pcs_core.Conditioning"
)
