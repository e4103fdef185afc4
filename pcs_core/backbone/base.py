"""What most backbones share: a class to start a family from, with everything optional answered."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pcs_core.backbone.protocol import Process, Sampler, Tokenizer
from pcs_core.errors import CapabilityError

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import BackboneCard, Conditioning, Site
    from pcs_core.edits.attention import AttentionChain


class BackboneBase(ABC):
    """Start a backbone here; the whole of what is asked of one is :class:`pcs_core.backbone.Backbone`.

    A subclass sets ``card``, ``process``, ``tokenizer`` and ``latent_shape``, and writes the abstract
    methods. Its networks are frozen and in evaluation mode. Its attention modules have an attribute
    ``chain`` (None), through which they run what is between their projections, and layers ``to_q``,
    ``to_k``, ``to_v``, ``to_out``; otherwise override :meth:`bind_attention` and :meth:`projection`.
    Control networks, small decoders and recomputation are refused by name until it has them.
    """

    card: BackboneCard
    process: Process
    tokenizer: Tokenizer
    latent_shape: tuple[int, ...]
    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32

    @property
    @abstractmethod
    def parts(self) -> Mapping[str, nn.Module]:
        """The modules by part: denoiser, text, vae (what has no parameters may be left out)."""

    @property
    @abstractmethod
    def sites(self) -> Sequence[Site]:
        """Every site of every part, named on the bare network, with its role."""

    @property
    @abstractmethod
    def embedding(self) -> nn.Module:
        """The text encoder's token table (output [b l d])."""

    @abstractmethod
    def encode_ids(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return text [b l d] and pooled [b d] (or None) for ids [b l]."""

    @abstractmethod
    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and std [n c h w] of the latents of images [n 3 h w] in [0, 1]."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Return images [n 3 h w] in [0, 1], in the caller's grad mode."""

    @abstractmethod
    def denoise(
        self, latents: Tensor, time: Tensor, cond: Conditioning, *, residuals: Any = None
    ) -> Tensor:
        """Return the network's native output for latents at training times [b]."""

    @abstractmethod
    def sampler(self, scheduler: str, steps: int) -> Sampler:
        """Return a fresh sampler."""

    def bind_attention(self, chains: Mapping[str, AttentionChain]) -> Callable[[], None]:
        """Put one chain on each named attention module; return what undoes it exactly."""
        modules: list[tuple[Any, Any]] = []
        for name, chain in chains.items():
            module: Any = self.parts["denoiser"].get_submodule(name)
            modules.append((module, module.chain))
            module.chain = chain

        def undo() -> None:
            for module, before in reversed(modules):
                module.chain = before

        return undo

    def bind_text_attention(self, chains: Mapping[str, AttentionChain]) -> Callable[[], None]:
        """Refuse."""
        raise CapabilityError(f"backbone {self.card.id!r} takes no edits in its text attention")

    def projection(self, site: Site, part: str) -> nn.Module:
        """Return the layer that makes the "q", "k", "v" or "out" of an attention site."""
        return self.parts["denoiser"].get_submodule(f"{site.name}.to_{part}")

    def control_network(self, channels: int, width: float) -> nn.Module:
        """Refuse."""
        raise CapabilityError(f"backbone {self.card.id!r} has no control network")

    def light_decoder(self, location: str = "") -> Callable[[Tensor], Tensor]:
        """Refuse."""
        raise CapabilityError(f"backbone {self.card.id!r} takes no light decoder")

    def checkpointing(self, function: Callable[..., Any] | None) -> None:
        """Refuse to recompute activations; stopping is nothing to do."""
        if function is not None:
            raise CapabilityError(f"backbone {self.card.id!r} cannot recompute its activations")


def weights_hash(parts: Mapping[str, nn.Module]) -> str:
    """Return sha256 (hex) over all tensors by name: what tells two backbones apart."""
    digest = hashlib.sha256()
    for part, module in sorted(parts.items()):
        for name, tensor in module.state_dict().items():
            digest.update(f"{part}/{name}/{tuple(tensor.shape)}".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
