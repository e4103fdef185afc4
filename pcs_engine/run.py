"""One run: the hook manager of a recipe, and the services techniques find in ``run``."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pcs_core.backbone import select_sites, trainable
from pcs_core.backbone.sites import attention_kind, is_selector
from pcs_core.data import Concept, Features, HeadEdit, Use
from pcs_core.edits import PLACES
from pcs_core.edits.module import in_few_bits
from pcs_core.errors import CapabilityError, nearest
from pcs_core.hookspecs import run_manager
from pcs_engine.builtin import CoreDenoise
from pcs_engine.randomness import derive_seed, generator
from pcs_engine.registered import RegisteredUse

if TYPE_CHECKING:
    import torch
    from torch import Generator, Tensor, nn

    from pcs_core.backbone import Backbone
    from pcs_core.data import Fusion, Layout, Prediction, Recipe, SampleStep, Site, Subject
    from pcs_engine.further import OpenedModel
    from pcs_engine.services import RunServices

LOGGER = logging.getLogger("pcs")


MASK_MOMENTS = ("subject", "batch")
"""Moments at which `mask` is called. Techniques may not ask for others so far."""


def check_moments(use: Use) -> None:
    """Refuse a technique whose masks would never be asked for.

    Raises
    ------
    CapabilityError
        Names the use and the moment.
    """
    if not hasattr(use.technique, "mask"):
        return
    for moment in use.technique.mask_moments:
        if moment not in MASK_MOMENTS:
            raise CapabilityError(
                f"the use {use.name!r} lists {moment!r} in mask_moments, which is no moment of `mask`"
                f"{nearest(moment, MASK_MOMENTS)} (moments: {', '.join(MASK_MOMENTS)})"
            )


class EngineRun:
    """Implements :class:`pcs_core.data.Run`.

    ``start_seed`` is the seed of start values (None: ``seed``): a fusion that is built again for
    sampling must start where its fit started, whatever the seed of the pictures is.
    """

    services: ClassVar[RunServices]
    """Who draws; :mod:`pcs_engine` says it once, as fitting and drawing themselves need runs."""

    def __init__(
        self,
        recipe: Recipe,
        backbone: Backbone,
        *,
        seed: int = 0,
        start_seed: int | None = None,
        names: Sequence[str] = ("subject",),
        concepts: Sequence[tuple[Concept, ...]] = (),
        work: Path | None = None,
        memory: dict[str, Mapping[str, Tensor]] | None = None,
    ) -> None:
        self.recipe, self.backbone, self.seed = recipe, backbone, seed
        self.start_seed = seed if start_seed is None else start_seed
        self.names, self.work = tuple(names), work
        self.features = Features(concepts=tuple(concepts))
        self.scratch: dict[str, Any] = {}
        self.layout: Layout | None = None
        self.phase = ""
        self.strengths: dict[str, float] = {}
        self.heads: Mapping[str, HeadEdit] = {}
        self.models: Mapping[str, OpenedModel] = {}
        self._fusion: Fusion | None = None
        self._started: Callable[[], Fusion] | None = None
        self._memory = {} if memory is None else memory
        self.full_precision: Callable[[], AbstractContextManager[Any]] = nullcontext
        """What brings the network back to its own types, while a training keeps it in lower ones."""
        self.arguments: Mapping[str, Any] = {}
        self._journal: dict[int, tuple[Any, str]] = {}
        self._calling = ""
        self.manager = run_manager()
        self._register()

    def _register(self) -> None:
        # pluggy calls the last registered first: registering backwards makes recipe order call order
        core = CoreDenoise()
        for use in (Use(core.id, core), *reversed(self.recipe.uses)):
            check_moments(use)
            self.manager.register(RegisteredUse(use, self), name=use.name)
        self.manager.check_pending()

    @contextmanager
    def calling(self, use: str) -> Iterator[tuple[Mapping[str, Any], dict[int, tuple[Any, str]]]]:
        """Note who is being called; give the call's arguments and the journal of who returned what."""
        outer, self._calling = self._calling, use
        try:
            yield self.arguments, self._journal
        finally:
            self._calling = outer

    @contextmanager
    def _noting(self, arguments: Mapping[str, Any]) -> Iterator[dict[int, tuple[Any, str]]]:
        """Keep a journal of one call, apart from that of a call around it.

        A loss that reads ``step.masks`` makes the run ask `mask` while `regularize` is being called.
        """
        outer = self.arguments, self._journal
        self.arguments, self._journal = arguments, {}
        try:
            yield self._journal
        finally:
            self.arguments, self._journal = outer

    def call(self, hook: str, **arguments: Any) -> list[tuple[str, Any]]:
        """Call a hook and return (name of the use, result) in call order."""
        return self._named(getattr(self.manager.hook, hook), arguments)

    def call_at(
        self, hook: str, applies: Callable[[Any, Any], bool], **arguments: Any
    ) -> list[tuple[str, Any]]:
        """Call a hook on the uses for which ``applies(technique, implementation)`` holds."""
        implementations = getattr(self.manager.hook, hook).get_hookimpls()
        out = [i.plugin for i in implementations if not applies(i.plugin.technique, i)]
        if len(out) == len(implementations):
            return []
        return self._named(self.manager.subset_hook_caller(hook, out), arguments)

    def predict(self, step: SampleStep) -> Prediction:
        """Ask `sample` for the prediction of one sampling step."""
        with self._noting({"step": step}):
            prediction: Prediction = self.manager.hook.sample(run=self, step=step)
        return prediction

    def _named(
        self, caller: Callable[..., Any], arguments: Mapping[str, Any]
    ) -> list[tuple[str, Any]]:
        with self._noting(arguments) as journal:
            results = caller(run=self, **arguments)
            return [(journal.get(id(r), (r, "a wrapper"))[1], r) for r in results]

    @property
    def device(self) -> torch.device:
        """Where tensors live."""
        return self.backbone.device

    @property
    def dtype(self) -> torch.dtype:
        """The network's dtype."""
        return self.backbone.dtype

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the backbone's pictures."""
        return self.backbone.card.size

    @property
    def frames(self) -> int:
        """Frames of the backbone's clips, 0 where it draws pictures."""
        shape = self.backbone.latent_shape
        return shape[1] if len(shape) == 4 else 0

    @property
    def text_width(self) -> int:
        """Width d of the text [b l d] that the denoiser reads."""
        width: int | None = getattr(self.backbone, "text_width", None)
        return self.embed_words("a").shape[-1] if width is None else width

    def sites(self, glob: str, kind: str = "*", part: str = "denoiser") -> Sequence[Site]:
        """Return matching sites (see :func:`pcs_core.backbone.select_sites`).

        Raises
        ------
        CapabilityError
            All attention of one kind was asked for, and the backbone's is joint instead; or a place in
            the residual stream that it does not name.
        """
        matching = select_sites(self.backbone.sites, glob, kind=kind, part=part)
        kind_asked = attention_kind(glob)
        if not matching and part == "denoiser" and kind_asked in ("cross", "self"):
            joint = select_sites(self.backbone.sites, "joint")
            if joint:
                raise CapabilityError(
                    f"{f'the use {self._calling!r}' if self._calling else 'a use'} acts on "
                    f"{kind_asked}-attention, and backbone "
                    f"{self.backbone.card.id!r} has none: text and picture share the attention of "
                    f"{joint[0].name} and {len(joint) - 1} more joint sites"
                )
        if not matching and (place := glob.partition("@")[0]) in PLACES:
            places = sorted({s.kind for s in self.backbone.sites if s.kind in PLACES})
            raise CapabilityError(
                f"{f'the use {self._calling!r}' if self._calling else 'a use'} acts in the residual "
                f"stream at {glob!r}, and backbone {self.backbone.card.id!r} names no place {place!r} "
                f"there (it names: {', '.join(places) or 'none'})"
            )
        return matching

    def projection(self, site: Site, part: str) -> nn.Linear:
        """Return the base's layer that makes the "q", "k", "v" or "out" of an attention site."""
        layer = self.backbone.projection(site, part)
        check_full(f"{site}.{part}", layer.weight)
        return layer

    def control_network(self, channels: int, width: float = 1.0) -> nn.Module:
        """Return a new trainable control network for the denoiser."""
        with self.seeded("control"):
            return self.backbone.control_network(channels, width)

    def parameters(self, part: str, glob: str = "*") -> Mapping[str, nn.Parameter]:
        """Return the base parameters of a part whose path, or whose site, ``glob`` chooses."""
        from fnmatch import fnmatchcase

        named = self.backbone.parts[part].named_parameters()
        if any(is_selector(one) for one in glob.split("|")):
            chosen = {site.name for site in self.sites(glob, part=part)}
            chosen_ones = {n: p for n, p in named if n.rpartition(".")[0] in chosen}
        else:
            chosen_ones = {n: p for n, p in named if fnmatchcase(n, glob)}
        for name, weight in chosen_ones.items():
            check_full(f"{part}:{name}", weight)
        return chosen_ones

    def plug(self, fusion: Fusion, started: Callable[[], Fusion] | None = None) -> None:
        """Show techniques what is plugged in; ``started`` makes it once more, as it was before any step."""
        self._fusion, self._started = fusion, started
        self.heads = {e.name: e for e in fusion.of(HeadEdit)}

    def trained(self, glob: str) -> Mapping[str, Tensor]:
        """Return what trains, as it is now, by ``"<use>/<site or token>/<param>"``."""
        return {} if self._fusion is None else _chosen(self._fusion, glob)

    def started(self, glob: str) -> Mapping[str, Tensor]:
        """Return the same as it was before any step of this training, made once."""
        import torch

        name = f"started {glob}"
        if name not in self.scratch:
            assert self._started is not None, "asked outside of a training"
            with torch.no_grad(), self.full_precision():
                values = _chosen(self._started(), glob)
            self.scratch[name] = {n: v.detach().to(self.device) for n, v in values.items()}
        values = self.scratch[name]
        return values

    def embed_words(self, text: str) -> Tensor:
        """Return the token embeddings [n d] of ``text``, fp32."""
        import torch

        joined = getattr(self.backbone.embedding, "words", None)
        if joined is not None:
            return joined(text).float()  # type: ignore[no-any-return]
        ids = self.backbone.tokenizer.encode(text)
        with torch.no_grad():
            table: Any = self.backbone.embedding.weight
            return table[torch.tensor(ids, device=table.device)].float()  # type: ignore[no-any-return]

    def vocabulary(self) -> Tensor:
        """Return the whole token table [v d], fp32."""
        return self.backbone.embedding.weight.detach().float()  # type: ignore

    def draw(
        self,
        prompts: Sequence[str],
        *,
        seed: int,
        scale: float | None = None,
        steps: int | None = None,
    ) -> Tensor:
        """Return pictures [n 3 h w] drawn by the frozen base, one per prompt."""
        settings = self.recipe.sample
        with self.full_precision():
            return self.services.draw_base(
                self.backbone,
                prompts,
                seed=seed,
                scale=settings.scale if scale is None else scale,
                steps=settings.steps if steps is None else steps,
                scheduler=settings.scheduler,
            )

    def draw_personalized(
        self, system: str, subject: Subject, prompts: Sequence[str], *, seed: int
    ) -> Tensor:
        """Return pictures [n 3 h w], one per prompt, of a personalization made by ``system`` for it."""
        with self.full_precision():
            return self.services.draw_personalized(
                system, subject, self.backbone, prompts, seed=seed, memory=self._memory
            )

    def light_decoder(self, location: str = "") -> Callable[[Tensor], Tensor]:
        """Return the backbone's small decoder, or the one at ``location``."""
        make = getattr(self.backbone, "light_decoder", None)
        if make is None:
            raise CapabilityError(f"backbone {self.backbone.card.id!r} takes no light decoder")
        return make(location)  # type: ignore[no-any-return]

    def encode(self, images: Tensor) -> Tensor:
        """Return the mean latents [n c h w] of images [n 3 h w], in the caller's grad mode."""
        import torch

        # the autoencoder keeps its type in every training
        with torch.autocast(self.device.type, enabled=False):
            return self.backbone.moments(images.float())[0]

    def invert(self, image: Tensor, prompt: str, *, steps: int, scale: float = 1.0) -> Tensor:
        """Return the DDIM trajectory [steps+1 c h w] of ``image``, from it to pure noise."""
        from pcs_engine.inversion import invert

        with self.full_precision():
            return invert(self.backbone, image, prompt, steps=steps, scale=scale)

    def cached(self, name: str, make: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        """Return tensors made once, kept in memory and, with a work folder, on disk."""
        # what is kept may be met again by another backbone, seed or recipe, which `draw` falls back on
        drawing = self.recipe.sample
        size = "x".join(map(str, self.backbone.card.size))
        settings = (drawing.steps, drawing.scale, drawing.scheduler, size)
        name = "-".join(map(str, (name, self.backbone.card.hash[:12], self.seed, *settings)))
        if name not in self._memory:
            if self.work is None:
                self._memory[name] = make()
            else:
                from pcs_core.storage.checkpoint import cached_tensors

                self._memory[name] = cached_tensors(self.work, name, make)
        return self._memory[name]

    def init_rng(self, subject: int, name: str) -> Generator:
        """Return a CPU generator for the start value of ``name`` of ``subject``."""
        return generator(self.start_seed, "init", self.names[subject], name)

    @contextmanager
    def seeded(self, name: str) -> Iterator[None]:
        """Return a context in which new modules start the same, whoever else draws."""
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.start_seed, "init", name) % 2**63)
            yield

    def subject_rng(self, subject: int, purpose: str) -> random.Random:
        """Return a ``random.Random`` of ``subject`` for ``purpose``."""
        return random.Random(derive_seed(self.seed, "draw", self.names[subject], purpose))

    def feature_model(self, id: str) -> Any:
        """Return a frozen shared model by id: a deployment's own where it holds one."""
        from pcs_core.catalogue import catalogue

        lookup = getattr(self.backbone, "feature_model", None)
        model = None if lookup is None else lookup(id)
        return catalogue().get("feature_models", id)() if model is None else model

    def dataset(self, id: str) -> Any:
        """Return a data set by id."""
        from pcs_core.catalogue import catalogue

        return catalogue().get("datasets", id)()

    def log(self, message: str) -> None:
        """Tell the user something, through the ``pcs`` logger."""
        LOGGER.info(message)


def _chosen(fusion: Fusion, glob: str) -> dict[str, Tensor]:
    from fnmatch import fnmatchcase

    return {n: p for n, p in trainable(fusion).items() if fnmatchcase(n, glob)}


def check_full(name: str, weight: Tensor) -> None:
    """Refuse to give out a weight that only its layer can read.

    Raises
    ------
    CapabilityError
        It is stored in few bits.
    """
    if in_few_bits(weight):
        raise CapabilityError(
            f"the weight of {name} is asked for itself, and is stored in few bits: open the backbone without "
            "quantize, or with bf16"
        )
