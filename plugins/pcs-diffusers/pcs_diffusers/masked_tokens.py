"""Masked-token folders (aMUSEd layout) as a backbone.

aMUSEd (arXiv:2401.01808) is an open reproduction of Muse (arXiv:2301.00704): a VQ autoencoder turns a
picture into a grid of token ids, and a transformer (``UVit2DModel``) fills in masked ones. Latents are
ids [b 1 h w]; what the network says are logits [b v h w]; nothing tells it the noise level.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pcs_core.backbone import MaskedTokens
from pcs_core.data import BackboneCard, Level, Site
from pcs_core.errors import CapabilityError, InputError, UnknownNameError, nearest
from pcs_diffusers.attention import bind
from pcs_diffusers.folders import (
    damaged,
    find_folder,
    folder_digest,
    read_scheduler,
    weights_digest,
    whole,
)
from pcs_diffusers.roles import with_roles
from pcs_diffusers.sites import layer_site, layer_sites
from pcs_diffusers.tokenizers import ClipTokenizer, read_tokenizer

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from pcs_core.backbone import AttentionChain
    from pcs_core.data import Conditioning

PARTS = ("transformer", "vqvae", "text_encoder", "tokenizer", "scheduler")
DENOISER = "UVit2DModel"
AESTHETIC_SCORE = 6
"""What the network is told of a picture's quality; the class's own default."""
SCHEDULES = {"ddim": "", "amused": "", "cosine": "cosine", "linear": "linear"}
"""Scheduler id -> masking schedule. There is one scheduler: "ddim", the usual default, means it too."""


class TokenSampler:
    """AmusedScheduler for one run of ``steps`` steps; the surest tokens are kept at each."""

    def __init__(
        self,
        name: str,
        config: Mapping[str, Any],
        steps: int,
        process: MaskedTokens,
        device: torch.device,
    ) -> None:
        from diffusers import AmusedScheduler

        if name not in SCHEDULES:
            raise UnknownNameError(
                f"unknown scheduler {name!r}{nearest(name, SCHEDULES)} "
                f"(of tokens: {', '.join(SCHEDULES)})"
            )
        chosen = {"masking_schedule": SCHEDULES[name]} if SCHEDULES[name] else {}
        self.scheduler = AmusedScheduler.from_config(dict(config), **chosen)
        self.scheduler.set_timesteps(steps, device=device)
        self.process, self.steps, self.device = process, steps, device

    @property
    def times(self) -> Sequence[Any]:
        """The scheduler's own timesteps, counting down to 0."""
        times: Sequence[Any] = self.scheduler.timesteps
        return times

    def start(self, noise: Tensor) -> Tensor:
        """Return tokens [b 1 h w], all masked."""
        return torch.full_like(noise, float(self.process.mask_id))

    def show(self, latents: Tensor, time: Any) -> Tensor:
        """Return the latents as they are."""
        return latents

    def hide(self, shown: Tensor, index: int) -> Tensor:
        """Return the latents as they are."""
        return shown

    def level(self, index: int, rows: int) -> Level:
        """Return the level at step ``index``: the same time from all masked to none."""
        fraction = torch.full((rows,), 1 - index / self.steps, device=self.device)
        return self.process.level(self.process.at(fraction))

    def advance(
        self, latents: Tensor, native: Tensor, time: Any, rngs: Sequence[Generator]
    ) -> Tensor:
        """Return the next tokens, each row drawn by its own generator."""
        following = []
        for row, logits, rng in zip(latents, native, rngs, strict=True):
            ids = row.round().long()
            step = self.scheduler.step(logits[None].float(), time, ids, generator=rng)
            following.append(step.prev_sample.to(latents.dtype))
        return torch.stack(following)


class TokenTransformer:
    """A frozen masked-token network with named sites."""

    def __init__(
        self,
        *,
        transformer: Any,
        vqvae: Any,
        text_encoder: Any,
        tokenizer: Any,
        scheduler_config: Mapping[str, Any],
        id: str,
        location: str = "",
        device: str | torch.device = "cpu",
        digest: str = "",
    ) -> None:
        check_parts(id, transformer, vqvae, text_encoder, scheduler_config)
        self.device = torch.device(device)
        self.transformer, self.vqvae, self.text_encoder = (
            m.to(self.device).eval().requires_grad_(False)
            for m in (transformer, vqvae, text_encoder)
        )
        self.dtype: torch.dtype = next(self.transformer.parameters()).dtype
        self.tokenizer = ClipTokenizer(tokenizer)
        self.scheduler_config = dict(scheduler_config)
        # transformers puts its recorders of hidden states into the modules at the first call
        with torch.no_grad():
            self.encode_ids(torch.full((1, 2), self.tokenizer.end, device=self.device))
        self.process = MaskedTokens(int(self.scheduler_config["mask_token_id"]))
        side = int(transformer.config.sample_size)
        size = side * 2 ** (len(vqvae.config.block_out_channels) - 1)
        self.latent_shape: tuple[int, ...] = (1, side, side)
        self.card = BackboneCard(
            id=id,
            hash=digest or self.weights_digest(),
            family="tokens",
            size=(size, size),
            prediction="tokens",
            location=location,
        )

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The modules by part."""
        return {"denoiser": self.transformer, "text": self.text_encoder, "vae": self.vqvae}

    @cached_property
    def sites(self) -> Sequence[Site]:
        """Every site, named on the bare network."""
        return with_roles(
            (
                *transformer_sites(self.transformer),
                *layer_sites(self.text_encoder, "text"),
                *layer_sites(self.vqvae, "vae"),
            )
        )

    @property
    def embedding(self) -> nn.Module:
        """The text encoder's token table."""
        table: nn.Module = self.text_encoder.get_input_embeddings()
        return table

    def bind_attention(self, chains: Mapping[str, AttentionChain]) -> Callable[[], None]:
        """Put one chain on each named attention site; return what undoes it."""
        return bind(self.transformer, chains)

    def projection(self, site: Site, part: str) -> nn.Module:
        """Return the layer that makes the "q", "k", "v" or "out" of an attention site."""
        name = "to_out.0" if part == "out" else f"to_{part}"
        return self.transformer.get_submodule(f"{site.name}.{name}")  # type: ignore[no-any-return]

    def control_network(self, channels: int, width: float) -> nn.Module:
        """Refuse: there is no control network of tokens."""
        raise CapabilityError(f"backbone {self.card.id!r}: no control network for tokens")

    def encode_ids(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the last but one hidden state [b l d] and the projected pooled state [b d]."""
        output = self.text_encoder(input_ids=ids, output_hidden_states=True)
        return output.hidden_states[-2], output.text_embeds

    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return token ids [n 1 h w] of images [n 3 h w] in [0, 1] as fp32, and zeros: they are sure."""
        images = images.to(self.device, next(self.vqvae.parameters()).dtype)
        encoded = self.vqvae.encode(images).latents
        _, _, (_, _, index) = self.vqvae.quantize(encoded)
        ids = index.view(len(images), 1, *encoded.shape[-2:]).float()
        return ids, torch.zeros_like(ids)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return images [n 3 h w] in [0, 1]."""
        ids = latents[:, 0].round().long()
        rows = self.vqvae.quantize.get_codebook_entry(ids, None).permute(0, 3, 1, 2).contiguous()
        decoded: Tensor = self.vqvae.decoder(self.vqvae.post_quant_conv(rows))
        return decoded.clamp(0, 1).float()

    def denoise(
        self,
        latents: Tensor,
        time: Tensor,
        cond: Conditioning,
        *,
        residuals: tuple[Sequence[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Return logits [b v h w] over the codebook."""
        if residuals is not None or cond.layered is not None:
            raise CapabilityError(
                f"backbone {self.card.id!r} draws tokens: control branches and a text for each layer "
                "do not fit it"
            )
        height, width = self.card.size
        # the class's order: size, corner of the crop, quality
        told = torch.tensor([width, height, 0, 0, AESTHETIC_SCORE], device=latents.device)
        output: Tensor = self.transformer(
            latents[:, 0].round().long(),
            encoder_hidden_states=cond.text.to(self.dtype),
            pooled_text_emb=None if cond.pooled is None else cond.pooled.to(self.dtype),
            micro_conds=told.to(self.dtype).expand(len(latents), -1),
        )
        return output

    def sampler(self, scheduler: str, steps: int) -> TokenSampler:
        """Return a fresh sampler."""
        return TokenSampler(scheduler, self.scheduler_config, steps, self.process, self.device)

    def checkpointing(self, function: Callable[..., Any] | None) -> None:
        """Refuse to recompute: this class takes no function of its own."""
        if function is not None:
            raise CapabilityError(f"backbone {self.card.id!r} cannot recompute its activations")

    def weights_digest(self) -> str:
        """Return sha256 over all weights, by name, and the masked token."""
        digest = hashlib.sha256(str(self.process.mask_id).encode())
        return weights_digest(self.parts, digest)


def transformer_sites(transformer: Any) -> Iterator[Site]:
    """Yield attention and layer sites of a UVit2DModel with their grid scale."""
    inner = 2 if transformer.config.downsample else 1
    for name, module in transformer.named_modules():
        scale = 1 if name.startswith(("embed.", "mlm_layer.")) else inner
        if hasattr(module, "to_q") and hasattr(module, "is_cross_attention"):
            kind = "cross" if module.is_cross_attention else "self"
            width, context = module.query_dim, module.cross_attention_dim
            yield Site(name, "denoiser", kind, scale, width, context, module.heads)
        else:
            yield from layer_site(name, module, "denoiser", scale)


def load(
    location: str | Path,
    *,
    id: str = "",
    device: str = "cpu",
    dtype: torch.dtype | None = None,
) -> TokenTransformer | None:
    """Open a folder or hub id in aMUSEd layout, or return None if it is another layout.

    Raises
    ------
    InputError
        The folder has the layout, but a part is missing or damaged; or the hub cannot be reached.
    """
    folder = find_folder(location, DENOISER, PARTS)
    if folder is None:
        return None
    from diffusers import UVit2DModel, VQModel
    from transformers import CLIPTextModelWithProjection

    kind = dtype or torch.float32
    try:
        return TokenTransformer(
            transformer=whole(UVit2DModel, folder / "transformer", torch_dtype=kind),
            vqvae=whole(VQModel, folder / "vqvae", torch_dtype=kind),
            text_encoder=whole(CLIPTextModelWithProjection, folder / "text_encoder", dtype=kind),
            tokenizer=read_tokenizer(folder / "tokenizer"),
            scheduler_config=read_scheduler(folder),
            id=id or str(location),
            location=str(location),
            device=device,
            digest=folder_digest(folder, ("text_encoder", "transformer", "vqvae")),
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise damaged(location, error) from error


def check_parts(
    id: str, transformer: Any, vqvae: Any, text_encoder: Any, scheduler: Mapping[str, Any]
) -> None:
    """Refuse parts that are not of one model."""
    mixed = f"backbone {id!r}: the folder mixes two models: "
    gives, reads = text_encoder.config.hidden_size, transformer.config.encoder_hidden_size
    if gives != reads:
        raise InputError(
            f"{mixed}the text encoder gives {gives} channels, the transformer reads {reads}"
        )
    rows, words = vqvae.config.num_vq_embeddings, transformer.config.codebook_size
    if rows != words:
        raise InputError(f"{mixed}the codebook has {rows} entries, the transformer speaks {words}")
    mask = int(scheduler.get("mask_token_id", -1))
    if not words <= mask < transformer.config.vocab_size:
        raise InputError(
            f"{mixed}mask_token_id {mask} is no entry beyond the codebook's {words} that the "
            "transformer embeds"
        )
