"""Masked-token folders (aMUSEd layout) as a backbone.

aMUSEd (arXiv:2401.01808) is an open reproduction of Muse (arXiv:2301.00704): a VQ autoencoder turns a
picture into a grid of token ids, and a transformer (``UVit2DModel``) fills in masked ones. Latents are
ids [b 1 h w]; what the network says are logits [b v h w]; nothing tells it the noise level.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from pcs_core.data import Site
from pcs_diffusers import autoencoder
from pcs_diffusers.family import DiffusersBackbone, Residuals
from pcs_diffusers.layout import FolderLayout
from pcs_diffusers.sites import denoiser_sites
from pcs_diffusers.token_sampler import TokenSampler
from pcs_processes import MaskedTokens

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Conditioning

AESTHETIC_SCORE = 6
"""What the network is told of a picture's quality; the class's own default."""


class TokenTransformer(DiffusersBackbone):
    """A frozen masked-token network with named sites."""

    family: ClassVar[str] = "tokens"
    layout: ClassVar[FolderLayout] = FolderLayout(
        {
            "transformer": "diffusers.UVit2DModel",
            "vqvae": "diffusers.VQModel",
            "text_encoder": "transformers.CLIPTextModelWithProjection",
            "tokenizer": "transformers.CLIPTokenizer",
        }
    )
    recomputes: ClassVar[bool] = False  # the class takes no function of ours

    def misfits(self) -> Iterator[str]:
        """Yield what says that the parts are not of one model."""
        yield from super().misfits()
        config = self.denoiser.config
        gives, reads = self.text_encoder.config.hidden_size, config.encoder_hidden_size
        if gives != reads:
            yield f"the text encoder gives {gives} channels, the transformer reads {reads}"
        rows, words = self.vae.config.num_vq_embeddings, config.codebook_size
        if rows != words:
            yield f"the codebook has {rows} entries, the transformer predicts {words}"
        mask = int(self.scheduler_config.get("mask_token_id", -1))
        if not words <= mask < config.vocab_size:
            yield (
                f"mask_token_id {mask} is no entry beyond the codebook's {words} that the "
                "transformer embeds"
            )

    def make_process(self) -> MaskedTokens:
        """Return the process of masking."""
        return MaskedTokens(int(self.scheduler_config["mask_token_id"]))

    def make_latent_shape(self) -> tuple[int, ...]:
        """Return the shape of a grid of ids [1 h w]."""
        return (1, *super().make_latent_shape()[1:])

    def size_step(self) -> int:
        """Return the pixels of one token, or of two by two that the transformer takes together."""
        config = self.denoiser.config
        return autoencoder.enlargement(self.vae) * (2 if config.downsample else 1)

    def sampler(self, scheduler: str, steps: int) -> TokenSampler:
        """Return a fresh sampler."""
        return TokenSampler(scheduler, self.scheduler_config, steps, self.process, self.device)

    def schedule_digest(self) -> Any:
        """Begin the digest of the weights with the masked token."""
        return hashlib.sha256(str(self.process.mask_id).encode())

    def denoiser_sites(self) -> Iterator[Site]:
        """Yield attention and layer sites of the transformer with their grid scale."""
        inner = 2 if self.denoiser.config.downsample else 1
        outer = ("embed.", "mlm_layer.")
        return denoiser_sites(self.denoiser, lambda name: 1 if name.startswith(outer) else inner)

    def encode_ids(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the last but one hidden state [b l d] and the projected pooled state [b d]."""
        output = self.text_encoder(input_ids=ids, output_hidden_states=True)
        return output.hidden_states[-2], output.text_embeds

    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return token ids [n 1 h w] of images [n 3 h w] in [0, 1] as fp32, and zeros: they are sure."""
        images = images.to(self.device, next(self.vae.parameters()).dtype)
        encoded = self.vae.encode(images).latents
        _, _, (_, _, index) = self.vae.quantize(encoded)
        ids = index.view(len(images), 1, *encoded.shape[-2:]).float()
        return ids, torch.zeros_like(ids)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return images [n 3 h w] in [0, 1]."""
        ids = latents[:, 0].round().long()
        rows = self.vae.quantize.get_codebook_entry(ids, None).permute(0, 3, 1, 2).contiguous()
        decoded: Tensor = self.vae.decoder(self.vae.post_quant_conv(rows))
        return decoded.clamp(0, 1).float()

    def predict(
        self, latents: Tensor, time: Tensor, cond: Conditioning, residuals: Residuals | None
    ) -> Tensor:
        """Return logits [b v h w] over the codebook."""
        height, width = self.card.size
        # the class's order: size, corner of the crop, quality
        facts = torch.tensor([width, height, 0, 0, AESTHETIC_SCORE], device=latents.device)
        output: Tensor = self.denoiser(
            latents[:, 0].round().long(),
            encoder_hidden_states=cond.text.to(self.dtype),
            pooled_text_emb=None if cond.pooled is None else cond.pooled.to(self.dtype),
            micro_conds=facts.to(self.dtype).expand(len(latents), -1),
        )
        return output
