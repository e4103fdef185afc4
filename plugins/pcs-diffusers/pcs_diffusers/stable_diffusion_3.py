"""Stable Diffusion 3 and 3.5 folders as a backbone (SD 3, arXiv:2403.03206).

A transformer whose text and picture share their attention, flow matching, latents of 16 channels, two
CLIP text encoders, and a T5 that may be left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F

from pcs_core.data import Site
from pcs_core.errors import CapabilityError
from pcs_diffusers import autoencoder
from pcs_diffusers.attention import JointChainProcessor
from pcs_diffusers.family import Residuals
from pcs_diffusers.layout import FolderLayout
from pcs_diffusers.places import joint_places
from pcs_diffusers.samplers import FlowSampler
from pcs_diffusers.several_texts import SeveralTextEncoders
from pcs_diffusers.sites import TEXT_PROJECTIONS, joint_sites
from pcs_processes import FlowMatching

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Conditioning


class StableDiffusion3(SeveralTextEncoders):
    """A frozen SD 3 network with named sites; part "text" holds the encoders by folder name."""

    family: ClassVar[str] = "sd3"
    layout: ClassVar[FolderLayout] = FolderLayout(
        {
            "transformer": "diffusers.SD3Transformer2DModel",
            "vae": "diffusers.AutoencoderKL",
            "text_encoder": "transformers.CLIPTextModelWithProjection",
            "text_encoder_2": "transformers.CLIPTextModelWithProjection",
            "text_encoder_3": "transformers.T5EncoderModel",
            "tokenizer": "transformers.CLIPTokenizer",
            "tokenizer_2": "transformers.CLIPTokenizer",
            "tokenizer_3": "transformers.T5Tokenizer",
        },
        optional=frozenset({"text_encoder_3", "tokenizer_3"}),
    )
    processor = JointChainProcessor
    projections: ClassVar[Mapping[str, str]] = {
        **SeveralTextEncoders.projections,
        **TEXT_PROJECTIONS,
    }
    """Those of the text begin with "add_": the last block gives no text, and self-attention reads none."""
    needs_pooled_text: ClassVar[bool] = True

    def misfits(self) -> Iterator[str]:
        """Yield what says that the parts are not of one model."""
        yield from super().misfits()
        config, clips = self.denoiser.config, self.text_encoder.clips
        reads, gives = config.joint_attention_dim, sum(c.config.hidden_size for c in clips)
        if gives > reads:
            yield f"the CLIP encoders give {gives} channels, the transformer reads {reads}"
        t5 = self.text_encoder.t5
        if t5 is not None and t5.config.d_model != reads:
            yield f"T5 gives {t5.config.d_model} channels, the transformer reads {reads}"
        pooled = sum(c.config.projection_dim for c in clips)
        if pooled != config.pooled_projection_dim:
            yield (
                f"pooled text is {pooled} channels, the transformer reads "
                f"{config.pooled_projection_dim}"
            )
        if self.vae.config.latent_channels != config.in_channels:
            yield (
                f"the vae has {self.vae.config.latent_channels} latent channels, the transformer "
                f"reads {config.in_channels}"
            )

    def size_step(self) -> int:
        """Return the pixels of one patch."""
        return autoencoder.enlargement(self.vae) * int(self.denoiser.config.patch_size)

    def largest_side(self) -> int:
        """Return the pixels that the transformer's table of places covers."""
        return self.size_step() * int(self.denoiser.config.pos_embed_max_size)

    def make_process(self) -> FlowMatching:
        """Return rectified flow with the shift of the schedule."""
        config = self.scheduler_config
        if config.get("use_dynamic_shifting"):
            raise CapabilityError(
                "a noise schedule that shifts with the picture's size (use_dynamic_shifting) is not "
                "supported"
            )
        times = int(config.get("num_train_timesteps", 1000))
        return FlowMatching(float(config.get("shift", 1.0)), times)

    def sampler(self, scheduler: str, steps: int) -> FlowSampler:
        """Return a fresh sampler."""
        return FlowSampler(scheduler, self.scheduler_config, steps, self.process, self.device)

    def denoiser_sites(self) -> Iterator[Site]:
        """Yield the sites of the transformer."""
        patch = int(self.denoiser.config.patch_size)
        yield from joint_sites(self.denoiser, patch)
        yield from joint_places(self.denoiser, patch)

    @property
    def text_width(self) -> int:
        """Width of the text [b l d] that the transformer reads."""
        return int(self.denoiser.config.joint_attention_dim)

    def encode_ids(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the text [b l1+l2 d] and both CLIP encoders' pooled states [b d1+d2].

        CLIP's last but one hidden states stand side by side in front, filled up with zeros to the
        transformer's width; T5's last hidden state behind, or as many zeros.
        """
        text, pooled, rows = self.clip_texts(ids)
        width = self.text_width
        text = F.pad(text, (0, width - text.shape[-1]))
        if self.text_encoder.t5 is None:
            more = text.new_zeros(len(ids), self.t5_length, width)
        else:
            more = self.text_encoder.t5(inputs_embeds=rows[-1]).last_hidden_state.to(text)
        return torch.cat([text, more], dim=1), torch.cat(pooled, dim=-1)

    def predict(
        self, latents: Tensor, time: Tensor, cond: Conditioning, residuals: Residuals | None
    ) -> Tensor:
        """Return the flow [b c h w]."""
        assert cond.pooled is not None
        output: Tensor = self.denoiser(
            latents.to(self.dtype),
            encoder_hidden_states=cond.text.to(self.dtype),
            pooled_projections=cond.pooled.to(self.dtype),
            timestep=time.expand(latents.shape[0]),  # len() would fix the rows of a graph
            return_dict=False,
        )[0]
        return output
