"""What the network is told beside the latents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

if TYPE_CHECKING:
    from torch import Tensor


SEED = "fit.seed"
"""In ``extra`` of a training's rows: a number [b] that is new in each step, for what an edit draws at random.

It follows from the subject's generator without drawing from it, so that an edit that draws nothing changes
nothing, and a fit that goes on draws the same."""
REFERENCE = "fit.reference"
"""In ``extra`` of a fit's rows: the reference [b] that a row comes from, or -1."""
READINGS = "fit.readings"
"""In ``extra`` of a fit's rows: what the encoder said in each of several readings [b readings l d]."""
PICTURE = "sample.seed"
"""In ``extra`` of a drawing's rows, where a text is read several times: the seed [b] of the picture."""


@dataclass(frozen=True, slots=True)
class Conditioning:
    """A pytree of tensors, a row per batch row.

    ``text`` [b l d]; ``layered`` [b sites l d] or None, the text of each cross-attention site in the
    network's order (stands in for ``text`` there); ``pooled`` [b d] or None; ``streams`` image tokens
    by name [b n d]; ``masks`` [b 1 h w] by name; ``spans`` token positions [b n] (-1: absent) by name:
    ``concept.<k>`` where the k-th concept of the row's subject stands, ``phrase.<k>`` where the k-th
    phrase of the layout stands, ``<i>`` the placeholder of token edit i; ``subject`` [b] long, the
    subject index of each row; ``time`` [b] the noise level in [0, 1], 1 = pure noise; ``extra``
    strengths by name [b], row indices ("row.<role>" [b]) and anything else a technique declares.
    """

    text: Tensor
    layered: Tensor | None = None
    pooled: Tensor | None = None
    subject: Tensor | None = None
    streams: Mapping[str, Tensor] = field(default_factory=dict)
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    spans: Mapping[str, Tensor] = field(default_factory=dict)
    time: Tensor | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def with_(self, **changes: Any) -> Conditioning:
        """Return a copy with ``changes``."""
        return replace(self, **changes)

    def repeat(self, times: int) -> Conditioning:
        """Return this conditioning with its rows repeated ``times`` times as a whole."""
        return pytree.tree_map(lambda t: t.repeat(times, *[1] * (t.dim() - 1)), self)

    def rows_at(self, index: Tensor) -> Conditioning:
        """Return the rows at ``index`` [n]."""
        return pytree.tree_map(lambda t: t[index], self)

    def spread(self, rows: int) -> Conditioning:
        """Return this conditioning for ``rows`` rows, where frames are folded into the batch.

        Row i serves rows i * n to (i + 1) * n - 1; the indices "row.<role>" point at the same frame.
        """
        if rows == self.rows:
            return self
        n = rows // self.rows
        wide = pytree.tree_map(lambda t: t.repeat_interleave(n, dim=0), self)
        frame = torch.arange(rows, device=self.text.device) % n
        extra = {k: v * n + frame if k.startswith("row.") else v for k, v in wide.extra.items()}
        return wide.with_(extra=extra)  # type: ignore[no-any-return]

    @property
    def rows(self) -> int:
        """Number of batch rows."""
        return self.text.shape[0]  # not int(): an exported graph keeps it open


def concatenate(parts: tuple[Conditioning, ...]) -> Conditioning:
    """Concatenate conditionings over batch rows; all must have the same tensors.

    Spans are padded to one width.

    Raises
    ------
    ValueError
        The parts do not hold the same set of tensors.
    """
    if len(parts) == 1:
        return parts[0]
    widest = {
        k: max(p.spans[k].shape[1] for p in parts if k in p.spans) for p in parts for k in p.spans
    }
    parts = tuple(p.with_(spans={k: _pad(v, widest[k]) for k, v in p.spans.items()}) for p in parts)
    leaves, specs = zip(*(pytree.tree_flatten(part) for part in parts), strict=True)
    if any(spec != specs[0] for spec in specs[1:]):
        raise ValueError("conditionings with different tensors cannot share a batch")
    joined = [torch.cat(row, dim=0) for row in zip(*leaves, strict=True)]
    return pytree.tree_unflatten(joined, specs[0])


def _pad(span: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(span, (0, width - span.shape[1]), value=-1)


def _flatten(cond: Conditioning) -> tuple[list[Any], tuple[str, ...]]:
    names = tuple(f.name for f in fields(cond) if getattr(cond, f.name) is not None)
    return [getattr(cond, name) for name in names], names


def _unflatten(values: Any, names: tuple[str, ...]) -> Conditioning:
    return Conditioning(**dict(zip(names, values, strict=True)))


pytree.register_pytree_node(
    Conditioning, _flatten, _unflatten, serialized_type_name="pcs_core.Conditioning"
)
