"""Stable Diffusion XL folders as a backbone (SDXL, arXiv:2307.01952).

The layout is that of Stable Diffusion with a second text encoder. Both say their last but one hidden
state, side by side; the second one's pooled state and the picture's sizes are told apart from the text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from pcs_diffusers import autoencoder
from pcs_diffusers.checked import read_config
from pcs_diffusers.layout import FolderLayout
from pcs_diffusers.recognise import MOTION
from pcs_diffusers.several_texts import SeveralTextEncoders
from pcs_diffusers.stable_diffusion import StableDiffusion, reads_size
from pcs_diffusers.unet import UNetBackbone

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Conditioning

SIZE, CORNER = "picture.size", "picture.corner"
"""In ``cond.extra``: height and width [b 2] of a reference before it was fitted, and top and left [b 2]
of what was cut out of it, in pixels of its scaled size."""


class StableDiffusionXL(SeveralTextEncoders, StableDiffusion):
    """A frozen SDXL network with named sites; part "text" holds both encoders by folder name.

    ``empty_is_zero``: an empty prompt is told as zeros, as the base model was trained
    (``force_zeros_for_empty_prompt`` in its pipeline's configuration).
    """

    family: ClassVar[str] = "sdxl"
    layout: ClassVar[FolderLayout] = FolderLayout(
        {
            "unet": "diffusers.UNet2DConditionModel",
            "vae": "diffusers.AutoencoderKL",
            "text_encoder": "transformers.CLIPTextModel",
            "text_encoder_2": "transformers.CLIPTextModelWithProjection",
            "tokenizer": "transformers.CLIPTokenizer",
            "tokenizer_2": "transformers.CLIPTokenizer",
        }
    )
    needs_pooled_text: ClassVar[bool] = True

    def __init__(self, *, empty_is_zero: bool = True, **parts: Any) -> None:
        self.empty_is_zero = empty_is_zero
        super().__init__(**parts)

    def text_misfits(self) -> Iterator[str]:
        """Yield what says that text encoders, tokenizers and denoiser are not of one model."""
        yield from super().text_misfits()
        first, second = self.text_encoder.clips
        gives = first.config.hidden_size + second.config.hidden_size
        reads = self.denoiser.config.cross_attention_dim
        if gives != reads:
            yield f"the text encoders give {gives} channels, the unet reads {reads}"
        config = self.denoiser.config
        added = 6 * config.addition_time_embed_dim + second.config.projection_dim
        if added != config.projection_class_embeddings_input_dim:
            yield (
                f"pooled text and sizes are {added} channels, the unet reads "
                f"{config.projection_class_embeddings_input_dim} (the refiner is not supported)"
            )

    def unread_text_modules(self) -> tuple[str, ...]:
        """Return the first encoder's last layer: its last but one state is read, its pooled one is not."""
        last = self.text_encoder.clips[0].config.num_hidden_layers - 1
        names = (name for name, _ in self.text_encoder.named_modules())
        ends = f".layers.{last}"
        return tuple(n for n in names if n.startswith("text_encoder.") and n.endswith(ends))

    @property
    def text_widths(self) -> tuple[int, ...]:
        """Channels of each encoder's states, side by side in the text."""
        return tuple(clip.config.hidden_size for clip in self.text_encoder.clips)

    def encode_ids(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the last but one hidden states [b l d1+d2] and the second's pooled state [b d]."""
        text, (_, pooled), _ = self.clip_texts(ids)
        if self.empty_is_zero:
            full = (ids[:, 1] != self.tokenizer.end).to(text)
            text, pooled = text * full[:, None, None], pooled * full[:, None]
        return text, pooled

    def added_conditions(self, cond: Conditioning, latents: Tensor) -> dict[str, Any]:
        """Return pooled text and sizes: a fit's own of each reference, the backbone's where none is."""
        assert cond.pooled is not None
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

    @classmethod
    def knows(cls, folder: Path) -> bool:
        """Return whether ``folder`` holds a UNet that is told the picture's size."""
        apart = not (folder / MOTION).is_dir()  # with motion modules it draws clips
        return super(UNetBackbone, cls).knows(folder) and reads_size(folder) and apart

    @classmethod
    def options(cls, index: Mapping[str, Any]) -> dict[str, Any]:
        """Return whether an empty prompt is told as zeros."""
        return {"empty_is_zero": bool(index.get("force_zeros_for_empty_prompt", True))}

    @classmethod
    def part_dtype(cls, part: str, folder: Path, dtype: torch.dtype) -> torch.dtype:
        """Return fp32 for an autoencoder that overflows in fp16."""
        if part != cls.layout.autoencoder:
            return dtype
        return autoencoder.weights_type(read_config(folder / "config.json"), dtype)
