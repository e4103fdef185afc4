"""Root modules to export: the network and its edits, whose tensors are arguments of the call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pcs_core.data import Conditioning
from pcs_onnx.edits import axes, input_name, tensors

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from torch import Tensor

    from pcs_core.backbone import Attachment
    from pcs_core.data import Edit


@dataclass(frozen=True, slots=True)
class Argument:
    """One input of a graph.

    ``kind``: latents, time, text, layered, stream, strength, embeds, ids or tensor. The first axis of
    all but tensors is the batch. ``path`` is that of a tensor below the root; ``axis`` the one along
    which it may be filled up with zeros, or None.
    """

    name: str
    kind: str
    example: Tensor
    path: str = ""
    axis: int | None = None


class Lifted(nn.Module):
    """Calls ``root`` with the last arguments in place of its own tensors at ``paths``."""

    def __init__(self, root: nn.Module, plain: int, paths: Sequence[str]) -> None:
        super().__init__()
        self.root, self.plain, self.paths = root, plain, tuple(paths)

    def forward(self, *values: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return what the root returns."""
        own = dict(zip(self.paths, values[self.plain :], strict=True))
        found: Tensor = torch.func.functional_call(self.root, own, values[: self.plain])
        return found


class DenoiserRoot(nn.Module):
    """The denoiser under an attachment: arguments of kinds latents, time, text ... in order."""

    def __init__(
        self, net: Attachment, edits: Sequence[Edit], arguments: Sequence[Argument]
    ) -> None:
        super().__init__()
        self.network = net.backbone.parts["denoiser"]
        # only what hangs below the root can be an argument: elsewhere it becomes a constant
        self.edits = nn.ModuleList(edits)
        self.net = (net,)
        self.arguments = tuple(a for a in arguments if a.kind != "tensor")

    def forward(self, *values: Tensor) -> Tensor:
        """Return the network's native output [b c h w]."""
        (net,) = self.net
        cond, latents, time = conditioning(self.arguments, values)
        with net.under(cond=cond, subject=cond.subject, record=()):
            return net.backbone.denoise(latents, time, cond)


class TextRoot(nn.Module):
    """The text encoder behind its token table: ``embeds`` [b l d], and ``ids`` [b l] for pooling."""

    def __init__(self, net: Attachment, edits: Sequence[Edit]) -> None:
        super().__init__()
        self.network = net.backbone.parts["text"]
        self.edits = nn.ModuleList(edits)
        self.net = (net,)

    def forward(self, embeds: Tensor, ids: Tensor) -> tuple[Tensor, ...]:
        """Return text [b l d] and, where there is one, pooled [b d]."""
        (net,) = self.net
        table = net.backbone.embedding
        before = vars(table).get("forward")
        object.__setattr__(table, "forward", lambda _: embeds)
        try:
            with net.under(cond=Conditioning(text=ids), subject=None, spans={}):
                text, pooled = net.backbone.encode_ids(ids)
        finally:
            if before is None:
                object.__delattr__(table, "forward")
            else:
                object.__setattr__(table, "forward", before)
        return (text,) if pooled is None else (text, pooled)


class DecoderRoot(nn.Module):
    """The VAE's decoder: latents [b c h w] to pictures [b 3 h w] in [0, 1]."""

    def __init__(self, net: Attachment) -> None:
        super().__init__()
        self.network = net.backbone.parts["vae"]
        self.net = (net,)

    def forward(self, latents: Tensor) -> Tensor:
        """Return the pictures."""
        return self.net[0].backbone.decode(latents)


def conditioning(
    arguments: Sequence[Argument], values: Sequence[Tensor]
) -> tuple[Conditioning, Tensor, Tensor]:
    """Return the conditioning, the latents and the time that ``values`` stand for."""
    one: dict[str, Tensor] = {}
    many: dict[str, dict[str, Tensor]] = {"stream": {}, "strength": {}}
    for argument, value in zip(arguments, values, strict=True):
        if argument.kind in many:
            many[argument.kind][argument.name.split("/", 1)[1]] = value
        else:
            one[argument.kind] = value
    cond = Conditioning(
        text=one["text"],
        layered=one.get("layered"),
        streams=many["stream"],
        extra=many["strength"],
    )
    return cond, one["latents"], one["time"]


def lift(edits: Sequence[Edit], baked: Collection[str]) -> list[Argument]:
    """Return an argument for each tensor of ``edits`` that is not in ``baked``."""
    found = []
    for index, edit in enumerate(edits):
        for path, value in tensors(edit).items():
            name = input_name(edit, path)
            if name not in baked:
                example = value.detach().clone()
                found.append(
                    Argument(name, "tensor", example, f"edits.{index}.{path}", axes(edit).get(path))
                )
    return found


def plain(kinds: Mapping[str, Any]) -> list[Argument]:
    """Return arguments that are no tensors of edits: ``"kind"`` or ``"kind/name"`` -> example."""
    return [Argument(name, name.split("/")[0], value) for name, value in kinds.items()]
