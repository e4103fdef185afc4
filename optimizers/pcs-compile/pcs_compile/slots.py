"""Tensors of edits in places of their own: ranks filled up with zeros, addresses that stay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pcs_compile.bindings import own_tensors, restorer
from pcs_core.errors import CapabilityError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from pcs_core.data import Edit


class Slots:
    """Gives the tensors of edits the shape of the largest rank, and keeps one place for each.

    ``rank`` 0 leaves shapes alone. With ``fixed`` the tensors of every artifact are copied into the same
    memory, which a CUDA graph reads; without, a tensor of the right shape stays where it is.
    """

    def __init__(self, rank: int, *, fixed: bool) -> None:
        self.rank, self.fixed = rank, fixed
        self._places: dict[tuple[Any, ...], Tensor] = {}

    def fill(self, edits: list[Edit]) -> Callable[[], None]:
        """Put the tensors of ``edits`` into their places; return what undoes it.

        Raises
        ------
        CapabilityError
            A rank is larger than the stated one.
        """
        entries: list[tuple[dict[str, Any], str, Any]] = []
        for edit in edits:
            for module, table, name in own_tensors(edit):
                value = table[name]
                axis = edit.PADDED.get(name) if module is edit else None
                shape = self.shape(edit, name, value, axis)
                if shape == value.shape and not self.fixed:
                    continue
                entries.append((table, name, value))
                place = self.place(edit, name, len(entries), value, shape)
                with torch.no_grad():
                    place.zero_()
                    place[tuple(slice(n) for n in value.shape)].copy_(value)
                table[name] = place
        return restorer(entries)

    def shape(self, edit: Edit, name: str, value: Tensor, axis: int | None) -> torch.Size:
        """Return the shape that ``value`` has in the compiled regions."""
        if axis is None or not self.rank:
            return value.shape
        if value.shape[axis] > self.rank:
            raise CapabilityError(
                f"{edit.owner!r} has rank {value.shape[axis]}, more than the {self.rank} that the "
                f"network is compiled for: --option rank={value.shape[axis]}"
            )
        return torch.Size([*value.shape[:axis], self.rank, *value.shape[axis + 1 :]])

    def place(self, edit: Edit, name: str, count: int, value: Tensor, shape: torch.Size) -> Tensor:
        """Return where the tensor is put: always the same where addresses are fixed."""
        key = (edit.owner, edit.name, type(edit), name, count, shape, value.dtype, value.device)
        buffer = self._places.get(key) if self.fixed else None
        if buffer is None:
            buffer = torch.empty(shape, dtype=value.dtype, device=value.device)
            if isinstance(value, nn.Parameter):
                buffer = nn.Parameter(buffer, requires_grad=value.requires_grad)
            if self.fixed:
                self._places[key] = buffer
        return buffer
