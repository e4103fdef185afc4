"""Who is drawn: subjects, the adapter of the encoder system, and short low-rank fits."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from pcs_core import fit, load, load_recipe, load_subject, save
from pcs_core.backbone import export_tensors
from pcs_core.catalogue import catalogue
from pcs_core.data import Concept, Personalization, Subject
from pcs_core.errors import PcsError
from pcs_core.merge import merge_fusions
from pcs_engine.prepare import extract
from pcs_engine.run import EngineRun

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from pcs_core.backbone import Backbone
    from pcs_core.data import Recipe

ENCODER, LORA = "ip-adapter", "lora-dreambooth"
"""The system whose subjects are added without training, and the one that trains a LoRA."""
PLAIN_ENCODER = "encoders.image.model=tiny.image"
REFERENCE = (128, 128)
"""Size at which references of any size are stacked; the judge takes its own."""
PLACES = ("on the beach", "in the snow", "on grass", "at night")
"""Prompts of the quality gate, for subjects that bring no dataset of places."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Personalizations of one system on one backbone, and what they share."""

    recipe: Recipe
    artifacts: tuple[Personalization, ...]
    subjects: tuple[Subject, ...]
    adapter: Personalization | None
    trained: bool
    note: str


@torch.no_grad()
def untrained_adapter(recipe: Recipe, backbone: Backbone, subject: Subject) -> Personalization:
    """Return an adapter as it starts, moved a little: it is there to be timed."""
    run = EngineRun(recipe, backbone, names=(subject.name,), concepts=(subject.concepts,))
    run.features, _ = extract(run, [subject])
    fusion = merge_fusions(run.call("fuse", features=run.features))
    rng = torch.Generator().manual_seed(0)
    tensors = {
        # not a number of it may be zero: an adapter without effect would hide a graph that lost it
        name: value.cpu() + 0.01 * torch.randn(value.shape, generator=rng)
        for name, value in export_tensors(fusion, 0).items()
    }
    extra = {"pretrained": {"records": 0, "steps": 0}}
    return Personalization(recipe, backbone.card, (), tensors, extra=extra)


def shipped(backbone: Backbone) -> bool:
    """Return whether subjects come with the backbone: then it is a trained one."""
    return f"{backbone.card.id}.subjects" in catalogue().ids("datasets")


def shipped_subjects(backbone: Backbone, count: int) -> list[Subject]:
    """Return the subjects that come with the backbone, or random ones for a random network."""
    if shipped(backbone):
        folders = catalogue().get("datasets", f"{backbone.card.id}.subjects")()
        return [load_subject(folders[name]) for name in sorted(folders)[:count]]
    rng = torch.Generator().manual_seed(0)
    return [
        Subject(
            f"s{i}",
            (Concept(f"s{i}", f"<s{i}>", "dog"),),
            tuple(torch.rand(3, *backbone.card.size, generator=rng) for _ in range(2)),
            (None,) * 2,
        )
        for i in range(count)
    ]


def prepare_encoder(backbone: Backbone, count: int, folder: Path) -> Prepared:
    """Return subjects of the encoder system, added one by one; nothing of theirs is trained.

    Where no plugin brings trained weights for this backbone, an untrained adapter of the same shape
    stands in, kept in ``folder``: its seconds are right, its pictures are not.
    """
    subjects = shipped_subjects(backbone, count)
    trained = f"{ENCODER}@{backbone.card.id}" in catalogue().ids("adapters")
    if trained:
        recipe = load_recipe(ENCODER, backbone=backbone)
        artifacts = [fit(recipe, subject, backbone)[0] for subject in subjects]
        return Prepared(recipe, tuple(artifacts), tuple(subjects), None, True, "trained adapter")
    reasons = []
    # a random network needs no real encoder, which a hub would be asked for
    for settings in ([], [PLAIN_ENCODER]) if shipped(backbone) else ([PLAIN_ENCODER],):
        try:
            recipe = load_recipe(ENCODER, backbone=backbone, overrides=settings)
            adapter = untrained_adapter(recipe, backbone, subjects[0])
            save(adapter, folder, overwrite=True)
            artifacts = [fit(recipe, s, backbone, adapter=folder)[0] for s in subjects]
        except (PcsError, OSError) as error:
            reasons.append(str(error).splitlines()[0])
            continue
        note = "untrained adapter" + (", random image encoder" if settings else "")
        return Prepared(recipe, tuple(artifacts), tuple(subjects), adapter, False, note)
    raise PcsError(f"no adapter of {ENCODER!r} can be made on {backbone.card.id!r}: {reasons[-1]}")


def prepare_lora(
    backbone: Backbone, count: int, steps: int, root: Path, *, fresh: bool = False
) -> Prepared:
    """Return a joint fit of ``count`` subjects by low-rank updates, kept in a folder below ``root``."""
    subjects = shipped_subjects(backbone, count)
    recipe = load_recipe(LORA, backbone=backbone, overrides=[f"tune.steps={steps}"])
    known = hashlib.sha256(f"{backbone.card.hash} {recipe.document!r} {count}".encode())
    folder = root / f"{backbone.card.id}-{LORA}-fits-{known.hexdigest()[:12]}"
    files = [folder / str(number) for number in range(count)]
    if not fresh and all((file / "manifest.json").is_file() for file in files):
        artifacts = [load(file) for file in files]
    else:
        artifacts = fit(recipe, subjects, backbone, seed=0)
        for artifact, file in zip(artifacts, files, strict=True):
            save(artifact, file, overwrite=True)
    note = f"{steps} steps together"
    return Prepared(recipe, tuple(artifacts), tuple(subjects), None, shipped(backbone), note)


def prompts_of(artifact: Personalization) -> list[str]:
    """Return the prompts of the quality gate."""
    return [f"a photo of {artifact.concepts[0].token} {place}" for place in PLACES]


def untuned_prompt(prompt: str, artifact: Personalization) -> str:
    """Return ``prompt`` with the noun where the token stood, for a judge of texts."""
    concept = artifact.concepts[0]
    return prompt.replace(concept.token, concept.noun)


@dataclass(frozen=True, slots=True)
class Judge:
    """Who compares pictures with references and prompts."""

    name: str
    model: Any

    def identity(self, references: Sequence[Tensor]) -> Any:
        """Return a function: pictures [n 3 h w] to the mean cosine to the references [n]."""
        from pcs_core import fit_image

        known = self.features(torch.stack([fit_image(r, REFERENCE) for r in references]))

        def similarity(pictures: Tensor) -> Tensor:
            cosines: Tensor = (self.features(pictures) @ known.T).mean(1)
            return cosines

        return similarity

    def text(self, prompts: Sequence[str]) -> Any:
        """Return a function: pictures to the cosine to their prompts [n]; None if it reads no text."""
        if not hasattr(self.model, "text_features"):
            return None
        known = self.model.text_features(list(prompts))
        return lambda pictures: (self.features(pictures) * known).sum(1)

    @torch.no_grad()
    def features(self, pictures: Tensor) -> Tensor:
        """Return unit vectors [n d]."""
        read = getattr(self.model, "image_features", None) or self.model.pooled
        return torch.nn.functional.normalize(read(pictures.float()), dim=-1)


def judge(backbone: Backbone) -> Judge:
    """Return the scorer that comes with the backbone, else a random one."""
    name = f"{backbone.card.id}.clip"
    if name not in catalogue().ids("feature_models"):
        name = "tiny.image"
    return Judge(name, catalogue().get("feature_models", name)())
