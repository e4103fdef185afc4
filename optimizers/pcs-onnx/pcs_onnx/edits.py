"""Edits as inputs of a graph: what each one feeds, and what must be the same in every artifact."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from pcs_core.data import Edit

_HASHES: WeakKeyDictionary[Edit, dict[str, tuple[Tensor, int, bytes]]] = WeakKeyDictionary()
"""Edit -> path -> memory that was hashed (held, so that no other tensor gets it), its version, sha256."""


def identity(edit: Edit) -> str:
    """Return ``"<use>/<site>:<class>"``: which edit of a graph this is."""
    return f"{edit.owner}/{edit.name}:{type(edit).__name__}"


def tensors(edit: Edit) -> dict[str, Tensor]:
    """Return what an artifact changes in this edit, by attribute path: parameters and factors."""
    parameters = {key.replace("/", "."): value for key, value in edit.owned().items()}
    return parameters | {name: getattr(edit, name) for name in edit.FACTORS}


def input_name(edit: Edit, path: str) -> str:
    """Return the name of one of its tensors as an artifact has it: ``"<use>/<site>/<param>"``."""
    return f"{edit.owner}/{edit.name}/{path.replace('.', '/')}"


def constants(edit: Edit) -> dict[str, Any]:
    """Return the plain settings of an edit, which a graph holds as constants."""
    skipped = {"training", "owner", "name"}
    return {
        key: value
        for key, value in sorted(vars(edit).items())
        if not key.startswith("_")
        and key not in skipped
        and isinstance(value, bool | int | float | str)
    }


def digest(edits: Iterable[Edit], names: Iterable[str]) -> str:
    """Return sha256 over those tensors of ``edits`` whose input name is in ``names``.

    The hash of a tensor is kept with its edit until the tensor changes: subjects switch in milliseconds.
    """
    chosen, total = set(names), hashlib.sha256()
    for edit in edits:
        known = _HASHES.setdefault(edit, {})
        for path, value in tensors(edit).items():
            if (name := input_name(edit, path)) in chosen:
                total.update(name.encode())
                total.update(_hash(known, path, value.detach()))
    return total.hexdigest()


def _hash(known: dict[str, tuple[Tensor, int, bytes]], path: str, value: Tensor) -> bytes:
    version = -1 if value.is_inference() else value._version  # such a tensor counts no changes
    if path in known:
        earlier, before, hashed = known[path]
        if earlier.data_ptr() == value.data_ptr() and before == version >= 0:
            return hashed
    plain = value.cpu().contiguous().reshape(-1).view(torch.uint8)
    hashed = hashlib.sha256(plain.numpy().tobytes()).digest()
    known[path] = (value, version, hashed)
    return hashed


def swap_digest(changes: Mapping[str, Tensor]) -> str:
    """Return sha256 over the changes of a network's own weights, by name, in fp32."""
    total = hashlib.sha256()
    for name, value in sorted(changes.items()):
        total.update(name.encode())
        plain = value.detach().float().cpu().contiguous().reshape(-1).view(torch.uint8)
        total.update(plain.numpy().tobytes())
    return total.hexdigest()


def padded(value: Tensor, shape: tuple[int, ...], axis: int | None) -> Tensor | None:
    """Return ``value`` with zeros behind it along ``axis`` up to ``shape``; None where it does not fit."""
    if tuple(value.shape) == shape:
        return value
    if axis is None or value.dim() != len(shape):
        return None
    missing = [want - have for have, want in zip(value.shape, shape, strict=True)]
    if any(m for i, m in enumerate(missing) if i != axis) or missing[axis] < 0:
        return None
    more = list(value.shape)
    more[axis] = missing[axis]
    return torch.cat([value, value.new_zeros(more)], dim=axis)


def axes(edit: Edit) -> Mapping[str, int]:
    """Return the axis along which each tensor may grow by zeros."""
    return edit.PADDED
