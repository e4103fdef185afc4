"""Stable-Diffusion-family folders (SD 1.x and 2.x layout) as a backbone.

A folder, or a hub id where a hub can be reached, with ``text_encoder``, ``tokenizer``, ``vae``,
``unet`` and ``scheduler``. Safetensors only: pickled weights and remote code are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from pcs_core.backbone import VariancePreserving
from pcs_core.data import BackboneCard, Site
from pcs_core.errors import InputError
from pcs_diffusers import autoencoder
from pcs_diffusers.attention import bind
from pcs_diffusers.folders import (
    damaged,
    denoiser_class,
    folder_digest,
    from_hub,
    read_json,
    read_scheduler,
    schedule_digest,
    weights_digest,
    whole,
)
from pcs_diffusers.roles import with_roles
from pcs_diffusers.samplers import DiffusersSampler
from pcs_diffusers.sites import layer_sites, unet_sites
from pcs_diffusers.tokenizers import ClipTokenizer, read_tokenizer

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pcs_core.backbone import AttentionChain
    from pcs_core.data import Conditioning

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


class StableDiffusion:
    """A frozen Stable Diffusion network with named sites."""

    family: ClassVar[str] = "sd"
    light: Any = None
    """A light decoder that comes with it, where it has no folder to hold one."""

    def __init__(
        self,
        *,
        unet: Any,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        scheduler_config: Mapping[str, Any],
        id: str,
        location: str = "",
        device: str | torch.device = "cpu",
        digest: str = "",
    ) -> None:
        self.check_parts(id, unet, vae, text_encoder, tokenizer)
        self.device = torch.device(device)
        self.unet, self.vae, self.text_encoder = (
            m.to(self.device).eval().requires_grad_(False) for m in (unet, vae, text_encoder)
        )
        self.dtype: torch.dtype = next(self.unet.parameters()).dtype
        self.tokenizer = ClipTokenizer(tokenizer)
        self.scheduler_config = dict(scheduler_config)
        factor = autoencoder.enlargement(vae)
        side = int(unet.config.sample_size)
        self.latent_shape: tuple[int, ...] = (int(unet.config.in_channels), side, side)
        scheduler = DiffusersSampler("ddim", self.scheduler_config, 1, self.device).scheduler
        self.process = VariancePreserving(
            scheduler.alphas_cumprod.to(self.device), scheduler.config.prediction_type
        )
        self.card = BackboneCard(
            id=id,
            hash=digest or self.weights_digest(),
            family=self.family,
            size=(side * factor, side * factor),
            prediction=scheduler.config.prediction_type,
            location=location,
        )

    @staticmethod
    def check_parts(id: str, unet: Any, vae: Any, text_encoder: Any, tokenizer: Any) -> None:
        """Refuse parts that are not of one model."""
        gives, reads = text_encoder.config.hidden_size, unet.config.cross_attention_dim
        mixed = f"backbone {id!r}: the folder mixes two models: "
        if gives != reads:
            raise InputError(
                f"{mixed}the text encoder gives {gives} channels, the unet reads {reads}"
            )
        words, rows = len(tokenizer), text_encoder.config.vocab_size
        if words > rows:
            raise InputError(
                f"{mixed}the tokenizer has {words} entries, the text encoder {rows} rows"
            )
        latent, channels = vae.config.latent_channels, unet.config.in_channels
        if latent != channels:
            raise InputError(
                f"{mixed}the vae has {latent} latent channels, the unet reads {channels} "
                "(inpainting and depth networks are not supported)"
            )

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The modules by part."""
        return {"denoiser": self.unet, "text": self.text_encoder, "vae": self.vae}

    @cached_property
    def sites(self) -> Sequence[Site]:
        """Every site, named on the bare network."""
        return with_roles(
            (
                *unet_sites(self.unet),
                *layer_sites(self.text_encoder, "text"),
                *layer_sites(self.vae, "vae"),
            )
        )

    @property
    def embedding(self) -> nn.Module:
        """The text encoder's token table."""
        table: nn.Module = self.text_encoder.get_input_embeddings()
        return table

    def bind_attention(self, chains: Mapping[str, AttentionChain]) -> Callable[[], None]:
        """Put one chain on each named attention site; return what undoes it."""
        return bind(self.unet, chains)

    def projection(self, site: Site, part: str) -> nn.Module:
        """Return the layer that makes the "q", "k", "v" or "out" of an attention site."""
        name = "to_out.0" if part == "out" else f"to_{part}"
        return self.unet.get_submodule(f"{site.name}.{name}")  # type: ignore[no-any-return]

    def control_network(self, channels: int, width: float) -> nn.Module:
        """Return a trainable ControlNet for this UNet."""
        from pcs_diffusers.control import ControlNetwork

        return ControlNetwork(self.unet, self.vae, channels, width)

    def light_decoder(self, location: str = "") -> Callable[[Tensor], Tensor]:
        """Return the decoder of the TAESD class in ``location``, or in this backbone's own folder."""
        from pcs_diffusers.light_decoder import open_light_decoder

        return open_light_decoder(self, location)

    def encode_ids(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the last hidden state [b l d] and the pooled state [b d]."""
        output = self.text_encoder(input_ids=ids)
        return output.last_hidden_state, output.pooler_output

    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and std of the scaled latents of images [n 3 h w] in [0, 1]."""
        return autoencoder.moments(self.vae, images)

    def decode(self, latents: Tensor) -> Tensor:
        """Return images [n 3 h w] in [0, 1]."""
        return autoencoder.decode(self.vae, latents)

    def denoise(
        self,
        latents: Tensor,
        time: Tensor,
        cond: Conditioning,
        *,
        residuals: tuple[Sequence[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Return the UNet's native output [b c h w]."""
        control: dict[str, Any] = {}
        if residuals is not None:
            control = {
                "down_block_additional_residuals": tuple(r.to(self.dtype) for r in residuals[0]),
                "mid_block_additional_residual": residuals[1].to(self.dtype),
            }
        output: Tensor = self.unet(
            latents.to(self.dtype),
            time,
            encoder_hidden_states=cond.text.to(self.dtype),
            return_dict=False,
            **self.told(cond, latents),
            **control,
        )[0]
        return output

    def told(self, cond: Conditioning, latents: Tensor) -> dict[str, Any]:
        """Return what else the UNet is told beside the text: nothing."""
        return {}

    def sampler(self, scheduler: str, steps: int) -> DiffusersSampler:
        """Return a fresh sampler."""
        return DiffusersSampler(scheduler, self.scheduler_config, steps, self.device)

    def checkpointing(self, function: Callable[..., Any] | None) -> None:
        """Recompute activations in backward through ``function``; None stops it."""
        if function is None:
            self.unet.disable_gradient_checkpointing()
            self.unet.eval()
        else:
            self.unet.enable_gradient_checkpointing(function)
            self.unet.train()  # diffusers recomputes only in training mode

    def weights_digest(self) -> str:
        """Return sha256 over all weights, by name, and the noise schedule."""
        return weights_digest(self.parts, schedule_digest(self.scheduler_config))


def load(
    location: str | Path,
    *,
    id: str = "",
    device: str = "cpu",
    dtype: torch.dtype | None = None,
) -> StableDiffusion | None:
    """Open a folder or hub id in Stable Diffusion layout, or return None if it is another layout.

    Raises
    ------
    InputError
        The folder has the layout, but a part is missing or damaged; or the hub cannot be reached.
    """
    folder = Path(location)
    if folder.is_dir():
        missing = [p for p in PARTS if not (folder / p).is_dir()]
        if "unet" in missing and (len(missing) > 1 or (folder / "transformer").is_dir()):
            return None
        if missing:
            raise InputError(f"backbone {str(folder)!r}: folder {missing[0]!r} is missing")
    elif not folder.exists() and str(location).count("/") == 1:
        folder = from_hub(str(location))
    else:
        return None
    if denoiser_class(folder) not in ("", "UNet2DConditionModel") or reads_size(folder):
        return None
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    kind = dtype or torch.float32
    try:
        return StableDiffusion(
            unet=whole(UNet2DConditionModel, folder / "unet", torch_dtype=kind),
            vae=whole(AutoencoderKL, folder / "vae", torch_dtype=kind),
            text_encoder=whole(CLIPTextModel, folder / "text_encoder", dtype=kind),
            tokenizer=read_tokenizer(folder / "tokenizer"),
            scheduler_config=read_scheduler(folder),
            id=id or str(location),
            location=str(location),
            device=device,
            digest=folder_digest(folder),
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise damaged(location, error) from error


def reads_size(folder: Path) -> bool:
    """Return whether the UNet in ``folder`` is told the picture's size: it is SDXL's."""
    try:
        config = read_json(folder / "unet" / "config.json")
    except (OSError, ValueError):  # the loader says what is wrong
        return False
    return isinstance(config, dict) and config.get("addition_embed_type") == "text_time"
