"""What a network reads and calls, found by running it once: nothing is told about its classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pcs_core.errors import CapabilityError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from pcs_core.backbone import Attachment
    from pcs_core.data import BranchEdit, Conditioning


class _Noted(dict[str, Any]):
    """A table that notes which of its entries were read."""

    def __init__(self, table: Mapping[str, Any], prefix: str, seen: set[str]) -> None:
        super().__init__(table)
        self.prefix, self.seen = prefix, seen

    def __getitem__(self, key: str) -> Any:
        self.seen.add(self.prefix + key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.seen.add(self.prefix + key)
        return super().get(key, default)


def read_by_denoiser(
    net: Attachment, latents: Tensor, time: Tensor, cond: Conditioning
) -> set[str]:
    """Return which of ``stream/<name>``, ``strength/<name>`` and ``pooled`` the denoiser reads."""
    seen: set[str] = set()
    noted = cond.with_(
        streams=_Noted(cond.streams, "stream/", seen), extra=_Noted(cond.extra, "strength/", seen)
    )

    def run(given: Conditioning) -> Tensor:
        with net.under(cond=given, subject=None, record=()):
            return net.backbone.denoise(latents, time, given)

    output = run(noted)
    if cond.pooled is not None and not torch.equal(
        output, run(cond.with_(pooled=cond.pooled + 1.0))
    ):
        seen.add("pooled")
    return seen


def called(
    edit: BranchEdit, latents: Tensor, time: Tensor, cond: Conditioning
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Return the network of a control branch, and what it was called with.

    Raises
    ------
    CapabilityError
        The branch does not call one network with latents, time, text and an image.
    """
    seen: list[tuple[nn.Module, tuple[Any, ...]]] = []
    hooks = [
        child.register_forward_pre_hook(lambda module, args: seen.append((module, args)))
        for child in edit.children()
    ]
    try:
        edit.residuals(latents, time, cond)
    finally:
        for hook in hooks:
            hook.remove()
    if len(seen) != 1 or len(seen[0][1]) != 4:
        raise CapabilityError(
            f"{edit.owner!r} is a control branch that does not call one network with latents, time, "
            "text and an image: it has no graph"
        )
    return seen[0]


def modules_of(thing: Any) -> list[nn.Module]:
    """Return the networks that a feature model or a decoder holds."""
    if isinstance(thing, nn.Module):
        return [thing]
    return [value for value in vars(thing).values() if isinstance(value, nn.Module)]
