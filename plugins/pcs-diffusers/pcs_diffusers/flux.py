"""FLUX.1 folders as a backbone (dev, schnell, Kontext): flow matching by a transformer of two kinds of blocks.

The layout is that of `FluxPipeline` of diffusers. Blocks of two streams give text and picture layers of their
own, those of one stream the same layers to both; places are told by rotation. T5 says the text, CLIP its
pooled state alone. Latents are packed two by two for the transformer, and stay [b c h w] elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
import torch.nn.functional as F

from pcs_core.backbone import select_sites
from pcs_core.data import Site
from pcs_core.errors import CapabilityError, InputError
from pcs_diffusers import autoencoder
from pcs_diffusers.attention import bind
from pcs_diffusers.checked import read_config
from pcs_diffusers.family import Residuals
from pcs_diffusers.flux_attention import FluxChainProcessor
from pcs_diffusers.flux_sequence import Appended, AppendedKeys, Group, through_blocks
from pcs_diffusers.flux_tokens import PATCH, grid_ids, packed, unpacked
from pcs_diffusers.folders import part_config
from pcs_diffusers.layout import FolderLayout
from pcs_diffusers.places import joint_places
from pcs_diffusers.recognise import KONTEXT
from pcs_diffusers.samplers import EvenFlowSampler
from pcs_diffusers.several_texts import SeveralTextEncoders
from pcs_diffusers.sites import TEXT_PROJECTIONS, joint_sites
from pcs_processes import FlowMatching

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pcs_core.backbone import Attachment, AttentionChain
    from pcs_core.backbone.context import Context
    from pcs_core.data import Conditioning, SequenceEdit

CHANNELS = 64
"""What the transformer reads of a picture: 16 latent channels of each patch."""
GUIDANCE = 3.5
"""What a network that was distilled with guidance is told of it: the pipeline's own default."""
FIT_GUIDANCE = 1.0
"""What it is told in fits and pre-trainings, whose pictures were not drawn with any: as in OminiControl's
training."""
GUIDANCE_STRENGTH = "distilled.scale"
"""In ``cond.extra``: another guidance that it is told [b]."""
LONG, SHORT = 512, 256
"""Tokens that T5 reads: with distilled guidance (dev), and of few steps (schnell)."""


class Flux(SeveralTextEncoders):
    """A frozen FLUX.1 network with named sites; part "text" holds both encoders by folder name.

    The text [b l d] of a prompt begins with CLIP's tokens as zeros, so that places in it are those of its ids;
    the transformer reads what stands behind them. ``t5_length`` None: as the release was trained.
    """

    family: ClassVar[str] = "flux"
    layout: ClassVar[FolderLayout] = FolderLayout(
        {
            "transformer": "diffusers.FluxTransformer2DModel",
            "vae": "diffusers.AutoencoderKL",
            "text_encoder": "transformers.CLIPTextModel",
            "text_encoder_2": "transformers.T5EncoderModel",
            "tokenizer": "transformers.CLIPTokenizer",
            "tokenizer_2": "transformers.T5Tokenizer",
        }
    )
    projections: ClassVar[Mapping[str, str]] = {
        **SeveralTextEncoders.projections,
        **TEXT_PROJECTIONS,
    }
    """Those of the text begin with "add_": blocks of one stream have none, and no output of attention alone."""
    needs_pooled_text: ClassVar[bool] = True

    def __init__(self, *, t5_length: int | None = None, **parts: Any) -> None:
        self.distilled = bool(parts["transformer"].config.guidance_embeds)
        self.appended: Appended | None = None
        self.context: Context | None = None
        super().__init__(t5_length=t5_length or (LONG if self.distilled else SHORT), **parts)

    def misfits(self) -> Iterator[str]:
        """Yield what says that the parts are not of one model."""
        yield from super().misfits()
        config, (clip,), t5 = self.denoiser.config, self.text_encoder.clips, self.text_encoder.t5
        if t5.config.d_model != config.joint_attention_dim:
            yield (
                f"T5 gives {t5.config.d_model} channels, the transformer reads "
                f"{config.joint_attention_dim}"
            )
        if clip.config.hidden_size != config.pooled_projection_dim:
            yield (
                f"pooled text is {clip.config.hidden_size} channels, the transformer reads "
                f"{config.pooled_projection_dim}"
            )
        latent = self.vae.config.latent_channels
        if latent * PATCH**2 != config.in_channels:
            yield (
                f"the vae has {latent} latent channels, {latent * PATCH**2} in a patch, the transformer reads "
                f"{config.in_channels}"
            )

    def make_latent_shape(self) -> tuple[int, ...]:
        """Return the shape of a picture's latents [c h w], as large as the autoencoder's pictures."""
        config = self.vae.config
        side = int(config.sample_size) // self.size_step() * PATCH
        return (int(config.latent_channels), side, side)

    def size_step(self) -> int:
        """Return the pixels of one patch."""
        return autoencoder.enlargement(self.vae) * PATCH

    def at(self, height: int, width: int) -> Self:
        """Draw pictures of another size: the schedule may shift with it. Raises as the families' own."""
        super().at(height, width)
        self.process = self.make_process()
        return self

    def make_process(self) -> FlowMatching:
        """Return rectified flow with the shift of the schedule, that of this size where it depends on it."""
        shape = getattr(self, "latent_shape", None) or self.make_latent_shape()
        times = int(self.scheduler_config.get("num_train_timesteps", 1000))
        return FlowMatching(self.shift(shape), times)

    def shift(self, shape: tuple[int, ...]) -> float:
        """Return by what levels are shifted for latents of ``shape``.

        Raises
        ------
        CapabilityError
            The schedule depends on the size in a way that is not known here.
        """
        config = self.scheduler_config
        if not config.get("use_dynamic_shifting"):
            return float(config.get("shift", 1.0))
        kind, mu = config.get("time_shift_type", "exponential"), self.mu(shape)
        if kind not in ("exponential", "linear"):
            raise CapabilityError(
                f"a noise schedule whose time_shift_type is {kind!r} is not supported (exponential, linear)"
            )
        return math.exp(mu) if kind == "exponential" else mu

    def mu(self, shape: tuple[int, ...]) -> float:
        """Return the schedule's shift in its own terms, a line over the number of tokens."""
        config, tokens = self.scheduler_config, shape[-2] * shape[-1] / PATCH**2
        few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
        return float(low + (tokens - few) * (high - low) / (many - few))

    def sampler(self, scheduler: str, steps: int) -> EvenFlowSampler:
        """Return a fresh sampler."""
        dynamic = bool(self.scheduler_config.get("use_dynamic_shifting"))
        mu = self.mu(self.latent_shape) if dynamic else None
        return EvenFlowSampler(
            *(scheduler, self.scheduler_config, steps, self.process, self.device), mu=mu
        )

    def denoiser_sites(self) -> Iterator[Site]:
        """Yield the sites of the transformer."""
        yield from joint_sites(self.denoiser, PATCH)
        yield from joint_places(self.denoiser, PATCH)

    def bind_attention(self, chains: Mapping[str, AttentionChain]) -> Callable[[], None]:
        """Put one chain on each named attention site; return what undoes it."""
        self.tell_fit(chains)
        undo = bind(self.denoiser, chains, partial(FluxChainProcessor, text=self.t5_length))
        self.context = next((chain.context for chain in chains.values()), None)

        def forget() -> None:
            self.context = None
            undo()

        return forget

    def bind_sequence(self, edits: Sequence[SequenceEdit], net: Attachment) -> Callable[[], None]:
        """Append the tokens of ``edits`` to the picture's from now on; return what stops it."""
        if any(edit.apart for edit in edits):
            for site in select_sites(self.sites, "joint"):
                chain = self.denoiser.get_submodule(site.name).processor.chain
                chain.stages["extra"].insert(0, AppendedKeys(site, net.context))
        self.appended = Appended(self, tuple(edits), net)

        def undo() -> None:
            self.appended = None

        return undo

    def projection(self, site: Site, part: str) -> nn.Linear:
        """Return a projection of an attention site. Raises as the families' own."""
        if part == "out" and not hasattr(self.denoiser.get_submodule(site.name), "to_out"):
            raise CapabilityError(
                f"{site} has no projection 'out': in blocks of one stream the layer proj_out is that of "
                "attention and of the feed-forward part at once"
            )
        return super().projection(site, part)

    @property
    def text_width(self) -> int:
        """Width of the text [b l d] that the transformer reads."""
        return int(self.denoiser.config.joint_attention_dim)

    def encode_ids(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the text [b l1+l2 d], zeros and T5's last hidden state, and CLIP's pooled state [b d]."""
        _, (pooled,), rows = self.clip_texts(ids)
        said = self.text_encoder.t5(inputs_embeds=rows[-1]).last_hidden_state
        return F.pad(said, (0, 0, self.tokenizer.length, 0)), pooled

    def predict(
        self, latents: Tensor, time: Tensor, cond: Conditioning, residuals: Residuals | None
    ) -> Tensor:
        """Return the flow [b c h w]."""
        assert cond.pooled is not None
        height, width = (side // PATCH for side in latents.shape[-2:])
        text = cond.text[:, self.tokenizer.length :].to(self.dtype)
        if self.appended is not None:
            with self.appended.known(cond, time):
                return unpacked(self._said(latents, text, time, cond), height, width)
        return unpacked(self._said(latents, text, time, cond), height, width)

    def _said(self, latents: Tensor, text: Tensor, time: Tensor, cond: Conditioning) -> Tensor:
        """Return what the transformer says of the picture's tokens [b n c]."""
        assert cond.pooled is not None
        rows, tokens = latents.shape[0], packed(latents.to(self.dtype))
        height, width = (side // PATCH for side in latents.shape[-2:])
        places = grid_ids(height, width, latents.device)
        more = () if self.appended is None else self.appended.beside(cond, time)
        if self.appended is not None and more:
            picture = Group("", tokens, places, self.embedded(time.expand(rows), cond))
            return through_blocks(self.denoiser, self.appended.context, (picture, *more), text)
        output: Tensor = self.denoiser(
            tokens,
            encoder_hidden_states=text,
            pooled_projections=cond.pooled.to(self.dtype),
            timestep=time.expand(rows) / 1000,  # the transformer multiplies again
            guidance=self.told_guidance(cond, rows, latents.device),
            img_ids=places,
            txt_ids=torch.zeros(text.shape[1], 3, device=latents.device),
            return_dict=False,
        )[0]
        return output

    def embedded(self, time: Tensor, cond: Conditioning) -> Tensor:
        """Return by what the blocks modulate tokens [b d] that are at ``time`` [b]."""
        assert cond.pooled is not None
        guidance = self.told_guidance(cond, time.shape[0], time.device)
        given = (
            time.to(self.dtype),
            *(() if guidance is None else (guidance.to(self.dtype) * 1000,)),
        )
        embedded: Tensor = self.denoiser.time_text_embed(*given, cond.pooled.to(self.dtype))
        return embedded

    def told_guidance(self, cond: Conditioning, rows: int, device: torch.device) -> Tensor | None:
        """Return the guidance [rows] that the network is told, None of one that is told none."""
        if not self.distilled:
            return None
        given = cond.extra.get(GUIDANCE_STRENGTH)
        if given is not None:
            return given.float()
        fitting = self.context is not None and self.context.fitting
        return torch.full((rows,), FIT_GUIDANCE if fitting else GUIDANCE, device=device)

    @classmethod
    def knows(cls, folder: Path) -> bool:
        """Return whether ``folder`` holds such a transformer, and is not of the family for references."""
        return super().knows(folder) and not takes_references(folder)

    @classmethod
    def check_config(cls, folder: Path) -> None:
        """Refuse the releases that read more than the picture: Fill, Depth, Canny.

        Raises
        ------
        InputError
            Names what the transformer reads.
        """
        config = part_config(folder / cls.layout.denoiser)
        check_channels(str(folder), int(config.get("in_channels") or CHANNELS))


class FluxKontext(Flux):
    """FLUX.1 Kontext: the network of dev, trained to read references as tokens beside the picture's."""

    family: ClassVar[str] = "flux-kontext"

    @classmethod
    def knows(cls, folder: Path) -> bool:
        """Return whether ``folder`` holds such a transformer, and its pipeline takes references."""
        return super(Flux, cls).knows(folder) and takes_references(folder)


def check_channels(location: str, channels: int) -> None:
    """Refuse the releases whose transformer reads more ``channels`` than the picture's (0: not known).

    Raises
    ------
    InputError
        Names what it reads.
    """
    if channels not in (0, CHANNELS):
        raise InputError(
            f"backbone {location!r}: its transformer reads {channels} channels, a picture has {CHANNELS}: the "
            "releases for inpainting (Fill) and control (Depth, Canny) are not supported; FLUX.1 dev, schnell "
            "and Kontext are"
        )


def takes_references(folder: Path) -> bool:
    """Return whether the pipeline of ``folder`` is the one that is given references: FLUX.1 Kontext's."""
    file = folder / "model_index.json"
    return file.is_file() and read_config(file).get("_class_name") == KONTEXT
