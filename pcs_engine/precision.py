"""The precision of a training: frozen weights low, what trains and every loss in fp32."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.errors import CapabilityError, InputError

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.backbone import Backbone

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Names of precisions and the type that frozen weights and matrix products have in them."""


class Precision:
    """One training's precision on one backbone.

    Made while the network is bare: it notes the weights that are frozen. In "bf16" and "fp16" they are
    cast between :meth:`lower` and its end, and the originals wait beside (in the host's memory, where the
    network is on another device); at the end they are back bit for bit. The autoencoder keeps its type
    (SDXL's gives NaN in fp16), and so do vectors (norms, biases), which weigh nothing and lose most.

    Raises
    ------
    InputError
        No precision of this name.
    CapabilityError
        This device computes nothing in it.
    """

    def __init__(self, name: str, backbone: Backbone) -> None:
        if name not in PRECISIONS:
            raise InputError(f"unknown precision {name!r}: {', '.join(PRECISIONS)}")
        self.name, self.backbone, self.type = name, backbone, PRECISIONS[name]
        self.device = backbone.device.type
        self.scaler: Any = None
        self._originals: dict[torch.nn.Parameter, Tensor] = {}
        self._network_type = backbone.dtype
        if self.type is not None:
            check_device(name, self.type, backbone.device)
        if name == "fp16":
            self.scaler = torch.amp.GradScaler(self.device)
        self._frozen = [] if self.type is None else frozen_weights(backbone, self.type)

    def _cast(self) -> None:
        assert self.type is not None
        for weight in self._frozen:
            low = weight.data.to(self.type)
            self._originals[weight] = weight.data if self.device == "cpu" else weight.data.cpu()
            weight.data = low
        network: Any = self.backbone  # what a family's own network may set, others only say
        network.dtype = self.type

    def _restore(self) -> None:
        for weight, original in self._originals.items():
            weight.data = original if self.device == "cpu" else original.to(weight.device)
        self._originals.clear()
        network: Any = self.backbone
        network.dtype = self._network_type

    @contextmanager
    def lower(self) -> Iterator[None]:
        """Keep frozen weights in the low precision, for the duration."""
        if self.type is None:
            yield
            return
        self._cast()
        try:
            yield
        finally:
            self._restore()

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """Bring the network back to what it is without a training, for the duration."""
        if not self._originals:
            yield
            return
        self._restore()
        try:
            with torch.autocast(self.device, enabled=False):
                yield
        finally:
            self._cast()

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context of everything between a batch and its loss."""
        if self.type is None:
            return nullcontext()
        # without the cache: what a call without gradients casts, a later call would use without gradients
        return torch.autocast(self.device, self.type, cache_enabled=False)

    def whole(self) -> AbstractContextManager[Any]:
        """Return a context in which products are exact again: the autoencoder's, a record's features."""
        return nullcontext() if self.type is None else torch.autocast(self.device, enabled=False)

    def backward(
        self, loss: Tensor, into: Sequence[Tensor] | None = None, *, again: bool = False
    ) -> None:
        """Take gradients of ``loss``, in fp16 of a multiple of it that small gradients survive.

        ``into`` are the tensors that get them (None: all that it depends on); ``again`` keeps what another
        loss of the same forward needs for its own.
        """
        scaled = loss if self.scaler is None else self.scaler.scale(loss)
        scaled.backward(inputs=None if into is None else list(into), retain_graph=again)

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Bring gradients back to their own size: before they are clipped, after they are shared."""
        if self.scaler is not None:
            self.scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Step, unless a gradient overflowed; the multiple is then halved."""
        if self.scaler is None:
            optimizer.step()
        else:
            self.scaler.step(optimizer)
            self.scaler.update()

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of it."""
        return {} if self.scaler is None else {"scaler": self.scaler.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put back what :meth:`state` gave."""
        if self.scaler is not None and "scaler" in state:
            self.scaler.load_state_dict(dict(state["scaler"]))


def frozen_weights(backbone: Backbone, low: torch.dtype) -> list[torch.nn.Parameter]:
    """Return the matrices and kernels of a bare network that are wider than ``low``."""
    parts = (module for part, module in backbone.parts.items() if part != "vae")
    return [
        weight
        for weight in dict.fromkeys(p for module in parts for p in module.parameters())
        if weight.dim() > 1 and weight.is_floating_point() and weight.itemsize > low.itemsize
    ]


def check_device(name: str, low: torch.dtype, device: torch.device) -> None:
    """Refuse a precision that ``device`` has no products in, forwards or backwards.

    Raises
    ------
    CapabilityError
        Names the precision and the device.
    """
    try:
        picture = torch.ones(1, 2, 4, 4, device=device, requires_grad=True)
        kernel = torch.ones(2, 2, 3, 3, device=device, dtype=low)
        with torch.autocast(device.type, low):
            answer = torch.nn.functional.conv2d(picture, kernel).flatten(1)
            (answer @ answer.T).float().sum().backward()
    except RuntimeError as error:
        raise CapabilityError(
            f"precision {name!r}: this build of torch cannot train in it on {device.type!r} "
            f"({str(error).splitlines()[0]}): use fp32, or bf16"
        ) from error
