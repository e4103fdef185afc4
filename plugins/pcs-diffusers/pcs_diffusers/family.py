"""What all families of diffusers' networks share: parts, sites, card, loading, latents and recomputing.

A family is a subclass that says only what differs: its folder's layout, its noise process, its sites,
what its text encoders give and how its denoiser is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch

from pcs_core.data import BackboneCard, Site
from pcs_core.errors import CapabilityError, InputError, PcsError
from pcs_diffusers import autoencoder
from pcs_diffusers.attention import ChainProcessor, JointChainProcessor, bind
from pcs_diffusers.checked import read_config
from pcs_diffusers.few_steps import draws_in_few_steps, named_after_few_steps, tell_fit
from pcs_diffusers.folders import (
    damaged,
    find_folder,
    folder_digest,
    former_digest,
    part_config,
    read_scheduler,
    schedule_digest,
    weights_digest,
)
from pcs_diffusers.offload import check_offload, keep_aside
from pcs_diffusers.roles import with_roles
from pcs_diffusers.sites import layer_sites, temporal_modules, text_attention_sites
from pcs_diffusers.stored import compute_dtype, storage_of, store_layerwise
from pcs_diffusers.text_attention import bind_text
from pcs_diffusers.tokenizers import ClipTokenizer

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pcs_core.backbone import AttentionChain, Sampler
    from pcs_core.data import Conditioning
    from pcs_diffusers.layout import FolderLayout

Residuals = tuple[Sequence["Tensor"], "Tensor"]
"""What a control network adds: to the down blocks' outputs in order, and to the middle block's."""


class DiffusersBackbone:
    """A frozen network of diffusers with named sites. Implements :class:`pcs_core.backbone.Backbone`.

    The parts are given by the names of their folders: ``unet=``, ``vae=``, ``text_encoder=``...
    """

    family: ClassVar[str]
    layout: ClassVar[FolderLayout]
    processor: ClassVar[type[ChainProcessor] | type[JointChainProcessor]] = ChainProcessor
    projections: ClassVar[Mapping[str, str]] = {
        "q": "to_q",
        "k": "to_k",
        "v": "to_v",
        "out": "to_out.0",
    }
    """Name of a projection -> its layer in an attention module."""
    takes_control: ClassVar[bool] = False
    """Whether residuals of a control network fit the denoiser."""
    takes_layered_text: ClassVar[bool] = False
    """Whether each cross-attention layer may read a text of its own."""
    needs_pooled_text: ClassVar[bool] = False
    reads_windows: ClassVar[bool] = False
    """Whether its denoiser reads texts of any length: longer ones stand in several windows side by side."""
    recomputes: ClassVar[bool] = True
    """Whether the denoiser can recompute its activations in backward."""

    stored_as: str = ""
    """How its frozen weights are stored, where it is in few bits: a name of ``--quantize``."""

    former_hash: Callable[[], str] | None = None
    """Returns the hash that this backbone had in artifacts made before files beside were left out of it."""

    light: Any = None
    """A light decoder that comes with it, where it has no folder to hold one."""

    def __init__(
        self,
        *,
        scheduler_config: Mapping[str, Any],
        id: str,
        location: str = "",
        device: str | torch.device = "cpu",
        digest: str = "",
        **parts: Any,
    ) -> None:
        self.layout.check(parts)
        self.scheduler_config = dict(scheduler_config)
        self.device = torch.device(device)
        self.denoiser: Any = parts[self.layout.denoiser]
        self.vae: Any = parts[self.layout.autoencoder]
        self.text_encoder: Any
        self.tokenizer: ClipTokenizer
        self.text_encoder, self.tokenizer = self.read_text(parts)
        for misfit in self.misfits():
            raise InputError(f"backbone {id!r}: the folder mixes two models: {misfit}")
        for network in self.parts.values():
            network.to(self.device).eval().requires_grad_(False)
        self.dtype: torch.dtype = compute_dtype(self.denoiser)
        try:
            self.process = self.make_process()
        except CapabilityError as error:
            raise CapabilityError(f"backbone {id!r}: {error}") from error
        self.latent_shape = self.make_latent_shape()
        # transformers puts its recorders of hidden states into the modules at the first call
        with torch.no_grad():
            self.encode_ids(self._blank())
        enlargement = autoencoder.enlargement(self.vae)
        height, width = self.latent_shape[-2:]
        self.card = BackboneCard(
            id=id,
            hash=digest or self.weights_digest(),
            family=self.family,
            size=(height * enlargement, width * enlargement),
            prediction=self.process.prediction,
            location=location,
        )

    # --- what a family says ------------------------------------------------------------------

    def make_process(self) -> Any:
        """Return the noise process of ``scheduler_config``.

        Raises
        ------
        CapabilityError
            The schedule is not supported.
        """
        raise NotImplementedError

    def denoiser_sites(self) -> Iterator[Site]:
        """Yield the sites of the denoiser."""
        raise NotImplementedError

    def encode_ids(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return text [b l d] and pooled [b d] for ids [b l], of several windows the first one's pooled."""
        raise NotImplementedError

    def predict(
        self, latents: Tensor, time: Tensor, cond: Conditioning, residuals: Residuals | None
    ) -> Tensor:
        """Return the denoiser's native output, for conditioning that fits it."""
        raise NotImplementedError

    def sampler(self, scheduler: str, steps: int) -> Sampler:
        """Return a fresh sampler."""
        raise NotImplementedError

    def misfits(self) -> Iterator[str]:
        """Yield what says that the parts are not of one model."""
        yield from self.text_misfits()

    def text_misfits(self) -> Iterator[str]:
        """Yield what says that text encoder and tokenizer are not of one model."""
        # by the largest id: a vocabulary may leave some out
        words = max(self.tokenizer.inner.get_vocab().values(), default=0) + 1
        rows = self.text_encoder.config.vocab_size
        if words > rows:
            yield f"the tokenizer has {words} entries, the text encoder {rows} rows"

    def read_text(self, parts: Mapping[str, Any]) -> tuple[Any, ClipTokenizer]:
        """Return the text encoder and the tokenizer of the parts."""
        return parts["text_encoder"], ClipTokenizer(parts["tokenizer"], windows=self.reads_windows)

    def make_latent_shape(self) -> tuple[int, ...]:
        """Return the shape of a picture's latents [c h w], or of a clip's [c t h w]."""
        side = int(self.denoiser.config.sample_size)
        return (int(self.denoiser.config.in_channels), side, side)

    def size_step(self) -> int:
        """Return of what height and width of a picture must be multiples [pixels]."""
        raise NotImplementedError

    def largest_side(self) -> int | None:
        """Return the largest height and width of a picture [pixels], or None where there is none."""
        return None

    def schedule_digest(self) -> Any:
        """Begin the digest of the weights with the noise that the network knows."""
        return schedule_digest(self.scheduler_config)

    def control_network(self, channels: int, width: float) -> nn.Module:
        """Refuse: this family has no control network."""
        raise CapabilityError(
            f"backbone {self.card.id!r}: no control network for the family {self.family!r}"
        )

    # --- what they share ---------------------------------------------------------------------

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The modules by part."""
        return {"denoiser": self.denoiser, "text": self.text_encoder, "vae": self.vae}

    def at(self, height: int, width: int) -> Self:
        """Draw pictures of another size [pixels] from now on; return this backbone.

        Raises
        ------
        CapabilityError
            No multiples of what the network's levels need, or larger than the network can tell places apart.
        """
        step, largest = self.size_step(), self.largest_side()
        if height % step or width % step:
            near = "x".join(str(max(step, round(side / step) * step)) for side in (width, height))
            raise CapabilityError(
                f"backbone {self.card.id!r} draws pictures whose sides are multiples of {step}, not "
                f"{width}x{height}: the nearest is {near}"
            )
        if largest is not None and max(height, width) > largest:
            raise CapabilityError(
                f"backbone {self.card.id!r} draws sides of at most {largest} pixels, not {width}x{height}"
            )
        scale = autoencoder.enlargement(self.vae)
        self.latent_shape = (*self.latent_shape[:-2], height // scale, width // scale)
        self.card = replace(self.card, size=(height, width))
        return self

    @cached_property
    def sites(self) -> Sequence[Site]:
        """Every site, named on the bare network."""
        sites = (
            *self.denoiser_sites(),
            *text_attention_sites(self.text_encoder, self.unread_text_modules()),
            *layer_sites(self.text_encoder, "text"),
            *layer_sites(self.vae, "vae"),
        )
        return with_roles(sites, temporal_modules(self.denoiser))

    def unread_text_modules(self) -> tuple[str, ...]:
        """Return the beginnings of names of text layers whose output the denoiser never reads."""
        return ()

    @property
    def embedding(self) -> nn.Module:
        """The text encoder's token table."""
        table: nn.Module = self.text_encoder.get_input_embeddings()
        return table

    def bind_attention(self, chains: Mapping[str, AttentionChain]) -> Callable[[], None]:
        """Put one chain on each named attention site; return what undoes it."""
        self.tell_fit(chains)
        return bind(self.denoiser, chains, self.processor)

    def bind_text_attention(self, chains: Mapping[str, AttentionChain]) -> Callable[[], None]:
        """Put one chain on each named attention module of the text encoder; return what undoes it."""
        return bind_text(self.text_encoder, chains)

    def tell_fit(self, chains: Mapping[str, AttentionChain]) -> None:
        """Say of a network of few steps that a fit takes them away, where a fit begins."""
        fitting = any(chain.context.fitting for chain in chains.values())
        if not fitting:
            return
        if draws_in_few_steps(self.scheduler_config, self.denoiser.config):
            tell_fit(self.card.id)
        elif word := named_after_few_steps(self.card.id, self.card.location):
            tell_fit(self.card.id, word)

    def projection(self, site: Site, part: str) -> nn.Linear:
        """Return a projection of an attention site, one of ``projections``.

        Raises
        ------
        CapabilityError
            The site has none of that name.
        """
        layer: Any = self.denoiser.get_submodule(site.name)
        for name in self.projections[part].split("."):
            layer = getattr(layer, name, None) if not name.isdigit() else layer[int(name)]
        if layer is None:
            raise CapabilityError(f"{site} has no projection {part!r}")
        projection: nn.Linear = layer
        return projection

    def light_decoder(self, location: str = "") -> Callable[[Tensor], Tensor]:
        """Return the decoder of the TAESD class in ``location``, or in this backbone's own folder."""
        from pcs_diffusers.light_decoder import open_light_decoder

        return open_light_decoder(self, location)

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
        residuals: Residuals | None = None,
    ) -> Tensor:
        """Return the denoiser's native output, of the latents' shape where it predicts latents.

        Raises
        ------
        CapabilityError
            The denoiser cannot take what the conditioning holds, or needs what it lacks.
        """
        misfit = ""
        if residuals is not None and not self.takes_control:
            misfit = f"control branches do not fit the family {self.family!r}"
        elif cond.layered is not None and not self.takes_layered_text:
            misfit = f"a text for each layer does not fit the family {self.family!r}"
        elif cond.pooled is None and self.needs_pooled_text:
            misfit = "it needs the text's pooled state"
        if misfit:
            raise CapabilityError(f"backbone {self.card.id!r}: {misfit}")
        return self.predict(latents, time, cond, residuals)

    def checkpointing(self, function: Callable[..., Any] | None) -> None:
        """Recompute activations in backward through ``function``; None stops it.

        Raises
        ------
        CapabilityError
            This class of diffusers cannot.
        """
        if self.recomputes and function is not None:
            self.denoiser.enable_gradient_checkpointing(function)
        elif self.recomputes:
            self.denoiser.disable_gradient_checkpointing()
        elif function is not None:
            raise CapabilityError(f"backbone {self.card.id!r} cannot recompute its activations")

    def weights_digest(self) -> str:
        """Return sha256 over all weights, by name, and the noise schedule."""
        return weights_digest(self.parts, self.schedule_digest())

    def _blank(self) -> Tensor:
        """Return ids [1 l] of an empty prompt without its start."""
        readers: tuple[Any, ...] = (self.tokenizer, *self.tokenizer.beside)
        rows = [torch.full((1, t.length), t.end, device=self.device) for t in readers]
        return torch.cat(rows, dim=1)

    # --- loading -----------------------------------------------------------------------------

    @classmethod
    def knows(cls, folder: Path) -> bool:
        """Return whether ``folder`` is of this family, by what its denoiser's configuration says."""
        part = cls.layout.denoiser
        return part_config(folder / part).get("_class_name") == cls.layout.class_name(part)

    @classmethod
    def check_config(cls, folder: Path) -> None:
        """Refuse a variant of the family that is not supported, by what its configurations say.

        Raises
        ------
        InputError
            Names the variant.
        """

    @classmethod
    def options(cls, index: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the family's constructor reads from ``model_index.json``."""
        return {}

    @classmethod
    def joined(cls, parts: dict[str, Any]) -> dict[str, Any]:
        """Return the parts of a folder as the constructor takes them: what a folder keeps apart made one."""
        return parts

    @classmethod
    def part_dtype(cls, part: str, folder: Path, dtype: torch.dtype) -> torch.dtype:
        """Return the dtype in which the weights of ``part`` are loaded."""
        return dtype

    @classmethod
    def load(
        cls,
        location: str | Path,
        *,
        id: str = "",
        device: str = "cpu",
        dtype: torch.dtype | None = None,
        quantize: str = "",
        offload: str = "",
    ) -> Self | None:
        """Open a folder or hub id of this family, or return None if it is another layout.

        ``quantize`` stores frozen weights in few bits (:data:`pcs_diffusers.stored.STORAGES`), and ``offload``
        keeps networks that are not in use in the host's memory (:data:`pcs_diffusers.offload.KINDS`).

        Raises
        ------
        InputError
            The folder has the layout, but a part is missing or damaged; or the hub cannot be reached.
        CapabilityError
            What ``quantize`` or ``offload`` needs is not here.
        """
        folder = find_folder(location, cls.knows, cls.layout.needed)
        if folder is None:
            return None
        cls.check_config(folder)
        storage = storage_of(quantize, device) if quantize else None
        check_offload(offload, device)
        present = [n for n in cls.layout.parts if (folder / n).is_dir()]
        libraries = {n: k for n, k in cls.layout.libraries.items() if n in present}
        kind = dtype or (torch.float32 if storage is None else storage.dtype)

        def read(part: str) -> Any:
            stored_as = cls.part_dtype(part, folder / part, kind)
            return cls.layout.read_part(part, folder / part, stored_as, storage)

        opened = cls.of_parts(
            folder,
            {name: partial(read, name) for name in present},
            location=location,
            id=id,
            device="cpu" if offload else device,
            digest=lambda: folder_digest(folder, libraries),
        )
        opened.former_hash = lambda: former_digest(folder, libraries)
        opened.stored_as = quantize
        if storage is not None and storage.layerwise:
            store_layerwise(opened)
        if offload:
            keep_aside(opened, offload, device)
        return opened

    @classmethod
    def of_parts(
        cls,
        folder: Path,
        parts: Mapping[str, Callable[[], Any]],
        *,
        location: str | Path,
        id: str,
        device: str,
        digest: Callable[[], str],
    ) -> Self:
        """Return the backbone in ``folder``, of what reads its ``parts`` and the hash of its weights.

        Raises
        ------
        InputError
            A part does not load, or they are not of one model.
        """
        try:
            index = folder / "model_index.json"
            return cls(
                **cls.joined({name: read() for name, read in parts.items()}),
                **cls.options(read_config(index) if index.exists() else {}),
                scheduler_config=read_scheduler(folder),
                id=id or str(location),
                location=str(location),
                device=device,
                digest=digest(),
            )
        except PcsError:
            raise
        except Exception as error:  # libraries raise whatever a folder led them to
            raise damaged(location, error) from error
