"""Families whose denoiser is a UNet that reads the text by cross-attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from pcs_diffusers import autoencoder
from pcs_diffusers.family import DiffusersBackbone, Residuals
from pcs_diffusers.samplers import DiffusersSampler
from pcs_diffusers.windows import as_rows, of_first, side_by_side
from pcs_processes import VariancePreserving

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Conditioning


class UNetBackbone(DiffusersBackbone):
    """A frozen UNet with one CLIP text encoder and a discrete noise schedule."""

    takes_layered_text: ClassVar[bool] = True
    reads_windows: ClassVar[bool] = True

    def misfits(self) -> Iterator[str]:
        """Yield what says that the parts are not of one model."""
        yield from super().misfits()
        latent, channels = self.vae.config.latent_channels, self.denoiser.config.in_channels
        if latent != channels:
            yield (
                f"the vae has {latent} latent channels, the unet reads {channels} "
                "(inpainting and depth networks are not supported)"
            )

    def text_misfits(self) -> Iterator[str]:
        """Yield what says that text encoder, tokenizer and denoiser are not of one model."""
        gives, reads = (
            self.text_encoder.config.hidden_size,
            self.denoiser.config.cross_attention_dim,
        )
        if gives != reads:
            yield f"the text encoder gives {gives} channels, the unet reads {reads}"
        yield from super().text_misfits()

    def size_step(self) -> int:
        """Return the pixels of one cell of the UNet's lowest level."""
        levels = len(self.denoiser.config.block_out_channels)
        return autoencoder.enlargement(self.vae) * 2 ** (levels - 1)

    def make_process(self) -> VariancePreserving:
        """Return the discrete process of the schedule."""
        scheduler = self.sampler("ddim", 1).scheduler
        alphas: Tensor = scheduler.alphas_cumprod
        return VariancePreserving(alphas.to(self.device), scheduler.config.prediction_type)

    def sampler(self, scheduler: str, steps: int) -> DiffusersSampler:
        """Return a fresh sampler."""
        return DiffusersSampler(scheduler, self.scheduler_config, steps, self.device)

    def encode_ids(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the last hidden state [b l d] and the pooled state [b d]."""
        output = self.text_encoder(input_ids=as_rows(ids, self.tokenizer.length))
        states = output.last_hidden_state
        return side_by_side(states, ids), of_first(output.pooler_output, states, ids)

    def predict(
        self, latents: Tensor, time: Tensor, cond: Conditioning, residuals: Residuals | None
    ) -> Tensor:
        """Return the UNet's native output, of the latents' shape."""
        control: dict[str, Any] = {}
        if residuals is not None:
            control = {
                "down_block_additional_residuals": tuple(r.to(self.dtype) for r in residuals[0]),
                "mid_block_additional_residual": residuals[1].to(self.dtype),
            }
        output: Tensor = self.denoiser(
            latents.to(self.dtype),
            time,
            encoder_hidden_states=self.text_for(cond, latents).to(self.dtype),
            return_dict=False,
            **self.added_conditions(cond, latents),
            **control,
        )[0]
        return output

    def text_for(self, cond: Conditioning, latents: Tensor) -> Tensor:
        """Return the text [b l d] that the UNet is given for ``latents``."""
        return cond.text

    def added_conditions(self, cond: Conditioning, latents: Tensor) -> dict[str, Any]:
        """Return what else the UNet reads beside the text: nothing."""
        return {}

    def checkpointing(self, function: Callable[..., Any] | None) -> None:
        """Recompute activations in backward through ``function``; None stops it."""
        super().checkpointing(function)
        if self.recomputes:  # diffusers' UNets recompute only in training mode
            self.denoiser.train(function is not None)
