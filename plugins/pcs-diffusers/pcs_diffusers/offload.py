"""Networks that are not in use wait in the host's memory; the device holds the one that computes.

"model": text encoders, autoencoder and denoiser come as a whole when they are asked. One that was asked with
gradients stays: its weights are needed again in the backward pass. "group": the denoiser comes block by block
(diffusers' group offloading), in drawings alone, for what a block keeps for its backward pass must not leave.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.errors import CapabilityError, InputError, nearest

if TYPE_CHECKING:
    from pcs_diffusers.family import DiffusersBackbone

KINDS = ("model", "group")
PARTS = {"encode_ids": "text", "moments": "vae", "decode": "vae", "denoise": "denoiser"}
"""What is asked of a backbone -> the part that answers."""


def check_offload(kind: str, device: str | torch.device) -> None:
    """Refuse an unknown kind, and a device whose memory is the host's.

    Raises
    ------
    InputError
        There is no such kind.
    CapabilityError
        The device is the CPU.
    """
    if not kind:
        return
    if kind not in KINDS:
        raise InputError(
            f"offload={kind!r}: no such kind{nearest(kind, KINDS)} ({', '.join(KINDS)})"
        )
    if torch.device(device).type == "cpu":
        raise CapabilityError(
            f"offload={kind!r}: on the CPU weights are in the host's memory already: leave it out"
        )


def keep_aside(backbone: DiffusersBackbone, kind: str, device: str | torch.device) -> Resident:
    """Let ``backbone``, now in the host's memory, compute on ``device``; return what moves its networks."""
    backbone.device = torch.device(device)
    resident = Resident(backbone, torch.device(device), blockwise=kind == "group")
    network: Any = backbone
    for name, part in PARTS.items():
        setattr(network, name, _brought(getattr(network, name), part, resident))
    return resident


class Resident:
    """Which networks are on the device. ``moves`` says what came (True) and went, in order."""

    def __init__(
        self, backbone: DiffusersBackbone, device: torch.device, *, blockwise: bool = False
    ) -> None:
        self.backbone, self.device = backbone, device
        self.host = torch.device("cpu")
        self.here: set[str] = set()
        self.kept: set[str] = set()
        self.moves: list[tuple[str, bool]] = []
        self.blockwise = blockwise
        if blockwise:
            group_by_blocks(backbone.denoiser, device, self.host)

    def bring(self, part: str) -> None:
        """Bring ``part`` to the device, and send away what is not needed there."""
        if torch.is_grad_enabled():
            if self.blockwise and part == "denoiser":
                raise CapabilityError(
                    f"backbone {self.backbone.card.id!r}: offload='group' is for drawings, a fit keeps what a "
                    "block computed with: use offload='model'"
                )
            self.kept.add(part)
        for other in sorted(self.here - self.kept - {part}):
            self._move(other, coming=False)
            self.here.discard(other)
        if part not in self.here and not (self.blockwise and part == "denoiser"):
            self._move(part, coming=True)
            self.here.add(part)

    def _move(self, part: str, *, coming: bool) -> None:
        self.moves.append((part, coming))
        place = self.device if coming else self.host
        for tensor in (
            *self.backbone.parts[part].parameters(),
            *self.backbone.parts[part].buffers(),
        ):
            tensor.data = tensor.data.to(place)


def group_by_blocks(denoiser: Any, device: torch.device, host: torch.device) -> None:
    """Let diffusers bring the denoiser to ``device`` a block at a time."""
    from diffusers.hooks import apply_group_offloading

    apply_group_offloading(
        denoiser,
        onload_device=device,
        offload_device=host,
        offload_type="block_level",
        num_blocks_per_group=1,
    )


def _brought(entry: Callable[..., Any], part: str, resident: Resident) -> Callable[..., Any]:
    def brought(*args: Any, **kwargs: Any) -> Any:
        resident.bring(part)
        return entry(*args, **kwargs)

    return brought
