"""Further models: frozen networks that techniques ask in a step, beside the one that is fitted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.backbone import Attachment, tokenise, trainable
from pcs_core.backbone.attach import attached
from pcs_core.backbone.base import weights_hash
from pcs_core.backbone.tokens import substitute
from pcs_core.data import Evaluation, Features, Fusion, Personalization, TokenEdit, Word
from pcs_core.errors import ArtifactError, CapabilityError, PcsError, RecipeError
from pcs_engine.adapters import digest
from pcs_engine.captions import kept_texts
from pcs_engine.opening import check_backbone_name, is_of, open_backbone
from pcs_engine.processes import Processes, given
from pcs_engine.restoring import restore

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from pcs_core.backbone import Backbone
    from pcs_core.data import Conditioning, FurtherModel, Level, Recipe, Subject

CLOSE = 1e-5
"""Largest difference of alpha and sigma between two schedules that are one."""


def check_models(recipe: Recipe, backbone: Any) -> None:
    """Refuse what is known to be missing of the further models of ``recipe``. Reads no weights.

    ``backbone`` is the fitted one, or what opens it.

    Raises
    ------
    UnknownNameError, ArtifactError, CapabilityError, RecipeError
        There is no such backbone, artifact or system, or it cannot be what it is meant for; names the model.
    """
    from pcs_core.assembly import load_recipe
    from pcs_core.catalogue import catalogue
    from pcs_core.storage.facts import describe_missing, missing_techniques
    from pcs_core.storage.manifest import read_manifest

    for model in recipe.models:
        try:
            if model.backbone:
                check_backbone_name(model.backbone, catalogue())
            if model.system:
                inner = load_recipe(
                    beside_recipe(recipe, model, "system"), backbone=model.backbone or backbone
                )
                if inner.models:
                    raise RecipeError(f"{inner.id!r} asks further models itself: one level only")
            if model.artifact:
                folder = beside_recipe(recipe, model, "artifact")
                if missing := missing_techniques(read_manifest(Path(folder))):
                    raise ArtifactError(f"{folder} uses {describe_missing(missing)}: install it")
        except PcsError as error:
            raise type(error)(f"{recipe.id}: the model {model.name!r}: {error}") from error


def beside_recipe(recipe: Recipe, model: FurtherModel, field: str) -> str:
    """Return the artifact or the system of ``model``; a path in a recipe's file is one beside that file."""
    written: str = getattr(model, field)
    if field == "system" and not written.endswith(".toml"):
        return written
    option = recipe.origins.get(f"{model.name}.{field}", "").startswith("--set ")
    folder = Path() if option else Path(recipe.path).parent
    return str(folder / Path(written).expanduser())


class OpenedModel:
    """A further model, ready to be asked on the latents and at the levels of the fitted network.

    On the fitted network itself the fit's edits make room for those of the model while it is asked, and stand
    as before after it.
    """

    def __init__(
        self,
        name: str,
        fitted: Backbone,
        backbone: Backbone,
        subject: Subject,
        artifact: Personalization | None,
        seed: int,
    ) -> None:
        self.name, self.fitted, self.backbone, self.artifact = name, fitted, backbone, artifact
        self.fusion: Fusion | None = None if backbone is fitted else Fusion()
        self.features = Features(concepts=(subject.concepts,))
        if artifact is not None:
            run, self.fusion = restore(artifact, backbone, seed)
            self.features = run.features
            for parameter in trainable(self.fusion).values():
                parameter.requires_grad_(False)
            if self.fusion.rows:
                raise CapabilityError(
                    f"the model {name!r}: {artifact.recipe.id!r} draws with further rows beside a picture, "
                    "which no step of a fit has"
                )
        if backbone is not fitted:
            check_alike(name, fitted, backbone)
        (known,) = self.features.concepts
        alike = artifact is not None and len(known) == len(subject.concepts)
        # what the fitted network calls a concept, the model calls by its own word, or by the noun
        self.renamed = tuple(
            Word(mine.token, known[place].token)
            if alike
            else Word(mine.token, mine.noun, mine.noun)
            for place, mine in enumerate(subject.concepts)
        )
        self.width = 0
        self.texts: dict[tuple[Any, ...], Conditioning] = {}
        edits = () if self.fusion is None else self.fusion.edits
        self.constant = not any("level" in edit.text_reads() for edit in edits)

    def identity(self) -> dict[str, Any]:
        """Return what tells this model from another of its name: hashes of weights and of an artifact."""
        known = {"backbone": self.backbone.card.id, "sha256": self.backbone.card.hash}
        if self.artifact is None:
            return known
        tensors = {**self.artifact.tensors, **self.artifact.features}
        return {**known, "system": self.artifact.recipe.id, "artifact": digest(tensors)}

    def encode(self, texts: Sequence[str], like: Conditioning) -> Conditioning:
        """Return the conditioning of a text for each row of ``like``, as this model reads them.

        It is frozen: what it reads without regard to the level of noise is made once.
        """
        if not self.constant:
            return self._encode(texts, like)
        cond = kept_texts(self.texts, tuple(texts), lambda: self._encode(texts, like))
        return cond.with_(time=like.time)

    def _encode(self, texts: Sequence[str], like: Conditioning) -> Conditioning:
        index = torch.zeros(like.rows, dtype=torch.long, device=self.backbone.device)
        with self._asked() as (net, model):
            prompts = tokenise(
                [substitute(text, self.renamed) for text in texts],
                self.backbone.tokenizer,
                words=net.fusion.words if model == "self" else (),
                tokens=net.fusion.of(TokenEdit),
                concepts=[[c.token for c in concepts] for concepts in self.features.concepts],
            )
            streams: Mapping[str, Tensor] = {}
            if model == "self":
                streams = net.streams(net.read_features(self.features.tensors, index))
            extra = net.strengths(like.rows)
            cond = net.encode_text(
                prompts, index, time=like.time, streams=streams, extra=extra, model=model
            )
        self.width = cond.text.shape[-1]
        return cond

    def evaluate(
        self, latents: Tensor, level: Level, cond: Conditioning, *, record: Sequence[str] = ()
    ) -> Evaluation:
        """Ask the model about latents [b c h w] at ``level``; ``cond`` is what its own `encode` returned.

        In the caller's grad mode: latents may have a gradient, the model's parameters have none. ``output``
        is what the fitted network would have said to mean the same x0.

        Raises
        ------
        CapabilityError
            ``cond`` is of another text encoder.
        """
        if self.backbone is not self.fitted and cond.text.shape[-1] != self.width:
            raise CapabilityError(
                f"the model {self.name!r} was asked with a text that it did not encode: give it "
                f"step.encode(text, model={self.name!r})"
            )
        other: Any = self.backbone
        if other.card.size != self.fitted.card.size:  # buckets change it from step to step
            other.at(*self.fitted.card.size)
        with self._asked() as (net, model):
            said = net.evaluate(latents, level, cond, model=model, record=record)
        if self.backbone is self.fitted:
            return said
        output = self.fitted.process.native(said.x0, latents, level)
        return Evaluation(x0=said.x0, output=output, tape=said.tape)

    @contextmanager
    def _asked(self) -> Iterator[tuple[Attachment, str]]:
        if self.fusion is not None:
            with Attachment(self.backbone, self.fusion) as net:
                yield net, "self"
            return
        outer = attached(self.backbone)
        if outer is None:  # asked while the fit's own edits are off
            with Attachment(self.backbone, Fusion()) as net:
                yield net, "base"
        else:  # the switch that the fit's edits have costs nothing
            yield outer, "base"


def check_alike(name: str, fitted: Backbone, backbone: Backbone) -> None:
    """Refuse a network that does not speak of the same latents at the same levels of noise.

    Raises
    ------
    CapabilityError
        Another autoencoder, shape of latents or schedule of noise.
    """
    both = f"the model {name!r} is on backbone {backbone.card.id!r}, the fit on {fitted.card.id!r}"
    other: Any = backbone
    if backbone.card.size != fitted.card.size and hasattr(backbone, "at"):
        other.at(*fitted.card.size)
    shapes = (tuple(fitted.latent_shape), tuple(backbone.latent_shape))
    if shapes[0] != shapes[1]:
        raise CapabilityError(
            f"{both}: their latents have the shapes {list(shapes[1])} and {list(shapes[0])}"
        )
    codes = [
        weights_hash({"vae": b.parts["vae"]}) if "vae" in b.parts else ""
        for b in (fitted, backbone)
    ]
    if codes[0] != codes[1]:
        raise CapabilityError(
            f"{both}: they have different autoencoders, so that one cannot read the other's latents"
        )
    mine, its = fitted.process, backbone.process
    same = mine.times == its.times and mine.continuous == its.continuous
    if same and mine.continuous:
        times = torch.arange(mine.times, device=fitted.device)
        levels = [
            process.level(times.to(b.device)) for process, b in ((mine, fitted), (its, backbone))
        ]
        same = all(
            torch.allclose(a.float().cpu(), b.float().cpu(), rtol=0.0, atol=CLOSE)
            for a, b in zip(levels[0][:2], levels[1][:2], strict=True)
        )
    if not same:
        raise CapabilityError(
            f"{both}: their noise has different schedules, and levels of one are not converted to the other's"
        )


def kept(
    work: Path | None, resume: bool, name: str, make: Callable[[], Mapping[str, Tensor]]
) -> Mapping[str, Tensor]:
    """Return tensors made now and written into ``work``; those of the fit that goes on where there are some."""
    from pcs_core.storage.checkpoint import cached_tensors, write_checkpoint

    if work is None:
        return make()
    if resume:
        return cached_tensors(work, name, make)
    made = make()
    write_checkpoint(work, name, made, {})
    return made


def open_models(
    recipe: Recipe,
    fitted: Backbone,
    subject: Subject,
    *,
    seed: int,
    fit: Callable[..., list[Personalization]],
    keep: Callable[[str, Callable[[], Mapping[str, Tensor]]], Mapping[str, Tensor]],
    say: Callable[[str], None],
) -> dict[str, OpenedModel]:
    """Return the further models of ``recipe`` by name, on the device of the ``fitted`` backbone.

    ``fit`` makes the artifact of a model that is a system; ``keep`` makes its tensors, or gives those of the
    fit that goes on; ``say`` is told of it.

    Raises
    ------
    PcsError
        A model does not open, or does not fit the network; names it.
    """
    from pcs_core.assembly import load_recipe
    from pcs_core.storage import load

    opened: dict[str, OpenedModel] = {}
    for model in recipe.models:
        backbone = fitted
        if model.backbone:
            backbone = open_backbone(model.backbone, device=str(fitted.device))
            known = (backbone.card.hash, backbone.card.prediction)
            if known == (fitted.card.hash, fitted.card.prediction):
                backbone = fitted  # the same weights are held once
        artifact: Personalization | None = None
        if model.artifact:
            folder = beside_recipe(recipe, model, "artifact")
            artifact = load(folder)
            if not is_of(artifact, backbone):
                raise ArtifactError(
                    f"{recipe.id}: the model {model.name!r}: {folder} was made on backbone "
                    f"{artifact.backbone.id!r} (sha256 {artifact.backbone.hash[:12]}), and "
                    f"{backbone.card.id!r} has other weights ({backbone.card.hash[:12]}): name its "
                    "own with `backbone`"
                )
        elif model.system:
            inner = load_recipe(beside_recipe(recipe, model, "system"), backbone=backbone)
            artifact = fitted_first(inner, model.name, backbone, subject, seed, fit, keep, say)
        opened[model.name] = OpenedModel(model.name, fitted, backbone, subject, artifact, seed)
    return opened


def fitted_first(
    recipe: Recipe,
    name: str,
    backbone: Backbone,
    subject: Subject,
    seed: int,
    fit: Callable[..., list[Personalization]],
    keep: Callable[[str, Callable[[], Mapping[str, Tensor]]], Mapping[str, Tensor]],
    say: Callable[[str], None],
) -> Personalization:
    """Return a fit of ``recipe`` on ``subject``, made now or kept from the fit that goes on."""

    def make() -> dict[str, Tensor]:
        say(f"fitting {recipe.id!r} on {subject.name!r} first, which is the model {name!r}")
        with given(Processes()):  # several processes make it alike, each for itself
            (made,) = fit(recipe, subject, backbone, seed=seed)
        return {
            **{f"tensors/{k}": v for k, v in made.tensors.items()},
            **{f"features/{k}": v for k, v in made.features.items()},
        }

    stored = keep(f"model {name} of {subject.name}", make)
    parts = {
        kind: {k.removeprefix(f"{kind}/"): v for k, v in stored.items() if k.startswith(f"{kind}/")}
        for kind in ("tensors", "features")
    }
    return Personalization(
        recipe,
        backbone.card,
        subject.concepts,
        parts["tensors"],
        parts["features"],
        seed,
        subject=subject.name,
    )
