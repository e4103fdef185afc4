"""Stable Diffusion XL folders as a backbone (SDXL, arXiv:2307.01952).

The layout is that of Stable Diffusion with a second text encoder. Both say their last but one hidden
state, side by side; the second one's pooled state and the picture's sizes are told apart from the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from pcs_core.errors import CapabilityError, InputError
from pcs_diffusers import autoencoder
from pcs_diffusers.folders import (
    damaged,
    find_folder,
    folder_digest,
    read_json,
    read_scheduler,
    whole,
)
from pcs_diffusers.stable_diffusion import StableDiffusion, reads_size
from pcs_diffusers.text_encoders import JoinedTable, TextEncoders, check_vocabularies, clip_states
from pcs_diffusers.tokenizers import ClipTokenizer, read_tokenizer

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pcs_core.data import Conditioning

DENOISER = "UNet2DConditionModel"
PARTS = (
    *("unet", "vae", "scheduler"),
    *("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"),
)
SIZE, CORNER = "picture.size", "picture.corner"
"""In ``cond.extra``: height and width [b 2] of a reference before it was fitted, and top and left [b 2]
of what was cut out of it, in pixels of its scaled size."""


class StableDiffusionXL(StableDiffusion):
    """A frozen SDXL network with named sites; part "text" holds both encoders by folder name.

    ``empty_is_zero``: an empty prompt is told as zeros, as the base model was trained
    (``force_zeros_for_empty_prompt`` in its pipeline's configuration).
    """

    family: ClassVar[str] = "sdxl"

    def __init__(
        self,
        *,
        text_encoders: Sequence[Any],
        tokenizers: Sequence[Any],
        empty_is_zero: bool = True,
        **parts: Any,
    ) -> None:
        read = [ClipTokenizer(t) for t in tokenizers]
        encoders = TextEncoders(text_encoders)
        check_vocabularies(parts["id"], encoders, read)
        self.empty_is_zero = empty_is_zero
        super().__init__(text_encoder=encoders, tokenizer=tokenizers[0], **parts)
        self._table = JoinedTable(encoders, read)
        # transformers puts its recorders of hidden states into the modules at the first call
        with torch.no_grad():
            self.encode_ids(torch.full((1, 2), self.tokenizer.end, device=self.device))

    @staticmethod
    def check_parts(id: str, unet: Any, vae: Any, text_encoder: Any, tokenizer: Any) -> None:
        """Refuse parts that are not of one model."""
        mixed = f"backbone {id!r}: the folder mixes two models: "
        first, second = text_encoder.clips
        gives = first.config.hidden_size + second.config.hidden_size
        reads = unet.config.cross_attention_dim
        if gives != reads:
            raise InputError(
                f"{mixed}the text encoders give {gives} channels, the unet reads {reads}"
            )
        told = 6 * unet.config.addition_time_embed_dim + second.config.projection_dim
        reads = unet.config.projection_class_embeddings_input_dim
        if told != reads:
            raise InputError(
                f"{mixed}pooled text and sizes are {told} channels, the unet reads {reads} "
                "(the refiner is not supported)"
            )
        if unet.config.in_channels != vae.config.latent_channels:
            raise InputError(
                f"{mixed}the vae has {vae.config.latent_channels} latent channels, the unet reads "
                f"{unet.config.in_channels} (inpainting networks are not supported)"
            )

    @property
    def embedding(self) -> nn.Module:
        """The token tables of both encoders, side by side."""
        return self._table

    def encode_ids(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the last but one hidden states [b l d1+d2] and the second's pooled state [b d]."""
        said = [
            clip_states(clip, ids, rows)
            for clip, rows in zip(
                self.text_encoder.clips, self._table.split(self._table(ids)), strict=True
            )
        ]
        text, pooled = torch.cat([hidden for hidden, _ in said], dim=-1), said[-1][1]
        if self.empty_is_zero:
            full = (ids[:, 1] != self.tokenizer.end).to(text)
            text, pooled = text * full[:, None, None], pooled * full[:, None]
        return text, pooled

    def told(self, cond: Conditioning, latents: Tensor) -> dict[str, Any]:
        """Return pooled text and sizes: a fit's own of each reference, the backbone's where none is."""
        if cond.pooled is None:
            raise CapabilityError(f"backbone {self.card.id!r} needs the text's pooled state")
        return {
            "added_cond_kwargs": {
                "text_embeds": cond.pooled.to(self.dtype),
                "time_ids": self.sizes(cond, latents.shape[0]).to(latents.device, self.dtype),
            }
        }

    def sizes(self, cond: Conditioning, rows: int) -> Tensor:
        """Return original height and width, top and left of the crop, target height and width [rows 6]."""
        target = torch.tensor(self.card.size, device=cond.text.device).float().expand(rows, -1)
        original, corner = cond.extra.get(SIZE), cond.extra.get(CORNER)
        return torch.cat(
            [
                target if original is None else original.to(target),
                torch.zeros_like(target) if corner is None else corner.to(target),
                target,
            ],
            dim=1,
        )


def load(
    location: str | Path,
    *,
    id: str = "",
    device: str = "cpu",
    dtype: torch.dtype | None = None,
) -> StableDiffusionXL | None:
    """Open a folder or hub id in SDXL layout, or return None if it is another layout.

    Raises
    ------
    InputError
        The folder has the layout, but a part is missing or damaged; or the hub cannot be reached.
    """
    folder = find_folder(location, DENOISER, ())
    if folder is None or not reads_size(folder):
        return None
    find_folder(folder, DENOISER, PARTS)
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    kind = dtype or torch.float32
    try:
        index = folder / "model_index.json"
        facts = read_json(index) if index.exists() else {}
        vae = autoencoder.weights_type(read_json(folder / "vae" / "config.json"), kind)
        return StableDiffusionXL(
            unet=whole(UNet2DConditionModel, folder / "unet", torch_dtype=kind),
            vae=whole(AutoencoderKL, folder / "vae", torch_dtype=vae),
            text_encoders=(
                whole(CLIPTextModel, folder / "text_encoder", dtype=kind),
                whole(CLIPTextModelWithProjection, folder / "text_encoder_2", dtype=kind),
            ),
            tokenizers=[read_tokenizer(folder / name) for name in ("tokenizer", "tokenizer_2")],
            empty_is_zero=bool(facts.get("force_zeros_for_empty_prompt", True)),
            scheduler_config=read_scheduler(folder),
            id=id or str(location),
            location=str(location),
            device=device,
            digest=folder_digest(folder, ("text_encoder", "text_encoder_2", "unet", "vae")),
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise damaged(location, error) from error
