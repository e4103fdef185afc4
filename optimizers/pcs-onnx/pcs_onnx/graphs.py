"""Root modules to export: the network and its edits, whose tensors are arguments of the call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pcs_core.data import Conditioning
from pcs_onnx.arguments import conditioning

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from pcs_core.backbone import Attachment
    from pcs_core.data import Edit, StreamEdit
    from pcs_onnx.arguments import Argument


class Lifted(nn.Module):
    """Calls ``root`` with the last arguments in place of its own tensors at ``paths``."""

    def __init__(self, root: nn.Module, plain: int, paths: Sequence[str]) -> None:
        super().__init__()
        self.root, self.plain, self.paths = root, plain, tuple(paths)

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Return what the root returns, in fp32."""
        parameters = dict(zip(self.paths, values[self.plain :], strict=True))
        outputs: Any = torch.func.functional_call(self.root, parameters, values[: self.plain])
        return tuple(t.float() for t in (outputs if isinstance(outputs, tuple) else (outputs,)))


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
        cond, one, ordered = conditioning(self.arguments, values)
        residuals = (ordered[:-1], ordered[-1]) if ordered else None
        size = tuple(one["latents"].shape[2:])
        with net.under(cond=cond, subject=cond.subject, record=(), size=size):
            return net.backbone.denoise(one["latents"], one["time"], cond, residuals=residuals)


class ControlRoot(nn.Module):
    """The network of a control branch: latents, time, text [b n d] and an image to residuals."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, latents: Tensor, time: Tensor, text: Tensor, image: Tensor
    ) -> tuple[Tensor, ...]:
        """Return residuals of the down blocks, in order, and of the middle block."""
        kind = next(self.network.parameters()).dtype
        down, middle = self.network(latents.to(kind), time, text.to(kind), image.to(kind))
        return (*down, middle)


class StreamRoot(nn.Module):
    """A projector: features [b ...] to conditioning tokens [b n d]."""

    def __init__(self, edit: StreamEdit) -> None:
        super().__init__()
        self.edits = nn.ModuleList([edit])

    def forward(self, *features: Tensor) -> Tensor:
        """Return the tokens."""
        (edit,) = self.edits
        kind = next((p.dtype for p in edit.parameters()), torch.float32)
        tokens: Tensor = edit.stream(*(f.to(kind) for f in features))  # type: ignore[operator]
        return tokens


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
        table: Any = net.backbone.embedding
        kind = next(self.network.parameters()).dtype
        before = vars(table).get("forward")
        object.__setattr__(table, "forward", lambda _: embeds.to(kind))
        try:
            with net.under(cond=Conditioning(text=ids), subject=None, spans={}):
                text, pooled = net.backbone.encode_ids(ids)
        finally:
            if before is None:
                object.__delattr__(table, "forward")
            else:
                object.__setattr__(table, "forward", before)
        return (text,) if pooled is None else (text, pooled)


class CallRoot(nn.Module):
    """A function of one tensor [b ...] and the modules it uses: decoders, and encoders of references."""

    def __init__(self, function: Callable[[Tensor], Tensor], modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(modules)
        self.function = (function,)

    def forward(self, value: Tensor) -> Tensor:
        """Return what the function gives."""
        kind = next((p.dtype for p in self.parameters()), torch.float32)
        return self.function[0](value.to(kind))
