"""Stable Diffusion 3 and 3.5 folders as a backbone (SD 3, arXiv:2403.03206).

A transformer whose text and picture share their attention, flow matching, latents of 16 channels, two
CLIP text encoders, and a T5 that may be left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from pcs_core.backbone import FlowMatching
from pcs_core.data import BackboneCard, Site
from pcs_core.errors import CapabilityError, InputError
from pcs_diffusers import autoencoder
from pcs_diffusers.attention import JointChainProcessor, bind
from pcs_diffusers.folders import (
    damaged,
    find_folder,
    folder_digest,
    read_scheduler,
    schedule_digest,
    weights_digest,
    whole,
)
from pcs_diffusers.roles import with_roles
from pcs_diffusers.samplers import FlowSampler
from pcs_diffusers.sites import layer_site, layer_sites
from pcs_diffusers.text_encoders import JoinedTable, TextEncoders, check_vocabularies, clip_states
from pcs_diffusers.tokenizers import ClipTokenizer, T5Tokenizer, read_t5_tokenizer, read_tokenizer

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pcs_core.backbone import AttentionChain
    from pcs_core.data import Conditioning

DENOISER = "SD3Transformer2DModel"
PARTS = (
    *("transformer", "vae", "scheduler"),
    *("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"),
)
T5_LENGTH = 256
"""Tokens T5 reads, as diffusers' pipeline; so many zeros stand there without one."""
PROJECTIONS = {
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "out": "to_out.0",
    "add_q": "add_q_proj",
    "add_k": "add_k_proj",
    "add_v": "add_v_proj",
    "add_out": "to_add_out",
}
"""Name of a projection -> its layer in an attention module; those of the text begin with "add_"."""


class StableDiffusion3:
    """A frozen SD 3 network with named sites; part "text" holds the encoders by folder name."""

    def __init__(
        self,
        *,
        transformer: Any,
        vae: Any,
        text_encoders: Sequence[Any],
        tokenizers: Sequence[Any],
        t5: Any = None,
        t5_tokenizer: Any = None,
        t5_length: int = T5_LENGTH,
        scheduler_config: Mapping[str, Any],
        id: str,
        location: str = "",
        device: str | torch.device = "cpu",
        digest: str = "",
    ) -> None:
        encoders = TextEncoders(text_encoders, t5)
        further = () if t5 is None else (T5Tokenizer(t5_tokenizer, t5_length),)
        read = [ClipTokenizer(t, further if not i else ()) for i, t in enumerate(tokenizers)]
        check_vocabularies(id, encoders, read)
        check_parts(id, transformer, vae, encoders, scheduler_config)
        self.device = torch.device(device)
        modules: tuple[Any, ...] = (transformer, vae, encoders)
        self.transformer, self.vae, self.text_encoder = (
            m.to(self.device).eval().requires_grad_(False) for m in modules
        )
        self.dtype: torch.dtype = next(self.transformer.parameters()).dtype
        self.tokenizer, self.t5_length = read[0], t5_length
        self.embedding: nn.Module = JoinedTable(encoders, read)
        self.scheduler_config = dict(scheduler_config)
        self.process = FlowMatching(
            float(scheduler_config.get("shift", 1.0)),
            int(scheduler_config.get("num_train_timesteps", 1000)),
        )
        side = int(transformer.config.sample_size)
        self.text_width = int(transformer.config.joint_attention_dim)
        self.latent_shape: tuple[int, ...] = (int(transformer.config.in_channels), side, side)
        # transformers puts its recorders of hidden states into the modules at the first call
        with torch.no_grad():
            self.encode_ids(self._blank())
        size = side * autoencoder.enlargement(vae)
        self.card = BackboneCard(
            id=id,
            hash=digest or self.weights_digest(),
            family="sd3",
            size=(size, size),
            prediction=self.process.prediction,
            location=location,
        )

    def _blank(self) -> Tensor:
        readers: tuple[Any, ...] = (self.tokenizer, *self.tokenizer.beside)
        rows = [torch.full((1, t.length), t.end, device=self.device) for t in readers]
        return torch.cat(rows, dim=1)

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The modules by part."""
        return {"denoiser": self.transformer, "text": self.text_encoder, "vae": self.vae}

    @cached_property
    def sites(self) -> Sequence[Site]:
        """Every site, named on the bare network."""
        return with_roles(
            (
                *joint_sites(self.transformer),
                *layer_sites(self.text_encoder, "text"),
                *layer_sites(self.vae, "vae"),
            )
        )

    def bind_attention(self, chains: Mapping[str, AttentionChain]) -> Callable[[], None]:
        """Put one chain on each named attention site; return what undoes it."""
        return bind(self.transformer, chains, JointChainProcessor)

    def projection(self, site: Site, part: str) -> nn.Module:
        """Return a projection of an attention site, one of :data:`PROJECTIONS`.

        Raises
        ------
        CapabilityError
            There is none: the last block gives no text, and self-attention reads none.
        """
        layer: Any = self.transformer.get_submodule(site.name)
        for name in PROJECTIONS[part].split("."):
            layer = getattr(layer, name, None) if not name.isdigit() else layer[int(name)]
        if layer is None:
            raise CapabilityError(f"{site} has no projection {part!r}")
        return layer  # type: ignore[no-any-return]

    def control_network(self, channels: int, width: float) -> nn.Module:
        """Refuse: control networks of this family are transformers of another shape."""
        raise CapabilityError(f"backbone {self.card.id!r}: no control network for joint attention")

    def encode_ids(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the text [b l1+l2 d] and both CLIP encoders' pooled states [b d1+d2].

        CLIP's last but one hidden states stand side by side in front, filled up with zeros to the
        transformer's width; T5's last hidden state behind.
        """
        table: Any = self.embedding
        rows = table.split(table(ids))
        own = ids[:, : self.tokenizer.length]
        said = [clip_states(c, own, r) for c, r in zip(self.text_encoder.clips, rows, strict=False)]
        text = torch.cat([hidden for hidden, _ in said], dim=-1)
        width = self.transformer.config.joint_attention_dim
        text = F.pad(text, (0, width - text.shape[-1]))
        if self.text_encoder.t5 is None:
            more = text.new_zeros(len(ids), self.t5_length, width)
        else:
            more = self.text_encoder.t5(inputs_embeds=rows[-1]).last_hidden_state.to(text)
        return torch.cat([text, more], dim=1), torch.cat([pooled for _, pooled in said], dim=-1)

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
        """Return the flow [b c h w]."""
        if residuals is not None or cond.layered is not None or cond.pooled is None:
            raise CapabilityError(
                f"backbone {self.card.id!r}: control branches and a text for each layer do not fit "
                "joint attention, and pooled text must be there"
            )
        output: Tensor = self.transformer(
            latents.to(self.dtype),
            encoder_hidden_states=cond.text.to(self.dtype),
            pooled_projections=cond.pooled.to(self.dtype),
            timestep=time.expand(latents.shape[0]),  # len() would fix the rows of a graph
            return_dict=False,
        )[0]
        return output

    def sampler(self, scheduler: str, steps: int) -> FlowSampler:
        """Return a fresh sampler."""
        return FlowSampler(scheduler, self.scheduler_config, steps, self.process, self.device)

    def checkpointing(self, function: Callable[..., Any] | None) -> None:
        """Recompute activations in backward through ``function``; None stops it."""
        if function is None:
            self.transformer.disable_gradient_checkpointing()
        else:
            self.transformer.enable_gradient_checkpointing(function)

    def light_decoder(self, location: str = "") -> Callable[[Tensor], Tensor]:
        """Return the decoder of the TAESD class in ``location``, or in this backbone's own folder."""
        from pcs_diffusers.light_decoder import open_light_decoder

        return open_light_decoder(self, location)  # type: ignore[arg-type]

    def weights_digest(self) -> str:
        """Return sha256 over all weights, by name, and the noise schedule."""
        return weights_digest(self.parts, schedule_digest(self.scheduler_config))


def joint_sites(transformer: Any) -> Iterator[Site]:
    """Yield attention and layer sites of an SD3Transformer2DModel; the grid is one of patches.

    Attention that reads the text too is of kind "joint", ``context`` the width of the text there.
    """
    scale = int(transformer.config.patch_size)
    for name, module in transformer.named_modules():
        if hasattr(module, "to_q"):
            joint = module.added_kv_proj_dim is not None
            yield Site(
                name=name,
                part="denoiser",
                kind="joint" if joint else "self",
                scale=scale,
                width=module.query_dim,
                context=module.added_kv_proj_dim if joint else module.query_dim,
                heads=module.heads,
            )
        else:
            yield from layer_site(name, module, "denoiser", scale)


def load(
    location: str | Path,
    *,
    id: str = "",
    device: str = "cpu",
    dtype: torch.dtype | None = None,
) -> StableDiffusion3 | None:
    """Open a folder or hub id in SD 3 layout, or return None if it is another layout.

    A folder without ``text_encoder_3`` is opened without T5.

    Raises
    ------
    InputError
        The folder has the layout, but a part is missing or damaged; or the hub cannot be reached.
    """
    folder = find_folder(location, DENOISER, PARTS)
    if folder is None:
        return None
    from diffusers import AutoencoderKL, SD3Transformer2DModel
    from transformers import CLIPTextModelWithProjection, T5EncoderModel

    kind = dtype or torch.float32
    names = ("text_encoder", "text_encoder_2")
    third = folder / "text_encoder_3"
    t5: dict[str, Any] = {}
    try:
        if third.is_dir():
            t5["t5"] = whole(T5EncoderModel, third, dtype=kind)
            t5["t5_tokenizer"] = read_t5_tokenizer(folder / "tokenizer_3")
        return StableDiffusion3(
            transformer=whole(SD3Transformer2DModel, folder / "transformer", torch_dtype=kind),
            vae=whole(AutoencoderKL, folder / "vae", torch_dtype=kind),
            text_encoders=[
                whole(CLIPTextModelWithProjection, folder / name, dtype=kind) for name in names
            ],
            tokenizers=[read_tokenizer(folder / name) for name in ("tokenizer", "tokenizer_2")],
            **t5,
            scheduler_config=read_scheduler(folder),
            id=id or str(location),
            location=str(location),
            device=device,
            digest=folder_digest(folder, (*names, "text_encoder_3", "transformer", "vae")),
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise damaged(location, error) from error


def check_parts(
    id: str, transformer: Any, vae: Any, encoders: TextEncoders, scheduler: Mapping[str, Any]
) -> None:
    """Refuse parts that are not of one model, and schedules that depend on the picture's size."""
    mixed = f"backbone {id!r}: the folder mixes two models: "
    if scheduler.get("use_dynamic_shifting"):
        raise CapabilityError(
            f"backbone {id!r}: a noise schedule that shifts with the picture's size "
            "(use_dynamic_shifting) is not supported"
        )
    reads = transformer.config.joint_attention_dim
    gives = sum(c.config.hidden_size for c in encoders.clips)
    if gives > reads:
        raise InputError(
            f"{mixed}the CLIP encoders give {gives} channels, the transformer reads {reads}"
        )
    if encoders.t5 is not None and encoders.t5.config.d_model != reads:
        raise InputError(
            f"{mixed}T5 gives {encoders.t5.config.d_model} channels, the transformer reads {reads}"
        )
    pooled = sum(c.config.projection_dim for c in encoders.clips)
    if pooled != transformer.config.pooled_projection_dim:
        raise InputError(
            f"{mixed}pooled text is {pooled} channels, the transformer reads "
            f"{transformer.config.pooled_projection_dim}"
        )
    if vae.config.latent_channels != transformer.config.in_channels:
        raise InputError(
            f"{mixed}the vae has {vae.config.latent_channels} latent channels, the transformer "
            f"reads {transformer.config.in_channels}"
        )
