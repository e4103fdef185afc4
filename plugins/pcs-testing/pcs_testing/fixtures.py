"""Small subjects, recipes and fusions, one look through the network, and a picture of its state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.backbone import Attachment, tokenise, trainable
from pcs_core.data import (
    Concept,
    Features,
    Fusion,
    Phase,
    Recipe,
    SampleSettings,
    Subject,
    TokenEdit,
    Use,
)
from pcs_core.merge import merge_fusions
from pcs_engine.prepare import extract
from pcs_engine.run import EngineRun

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from pcs_core.backbone import Backbone
    from pcs_core.data import Evaluation
    from pcs_core.technique import Technique


FACE_POINTS = [[0.35, 0.4], [0.65, 0.4], [0.5, 0.55], [0.4, 0.7], [0.6, 0.7]]
"""Key points of a face in the middle: eyes, nose, corners of the mouth."""


def make_picture(seed: int = 0, size: tuple[int, int] = (32, 32)) -> Tensor:
    """Return a smooth random picture [3 h w] in [0, 1]."""
    coarse = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    fine = torch.nn.functional.interpolate(coarse, size=size, mode="bicubic", align_corners=False)
    return fine[0].clamp(0, 1)


def pixels(file: Path) -> bytes:
    """Return the pixels of a picture's file, and not what else it says: what it comes from may differ."""
    from PIL import Image

    with Image.open(file) as picture:
        return str(picture.size).encode() + picture.convert("RGB").tobytes()


def make_subject(
    name: str = "fido",
    *,
    token: str = "<fido>",
    noun: str = "dog",
    images: int = 2,
    size: tuple[int, int] = (32, 32),
    captions: Sequence[str | None] = (),
    seed: int = 0,
) -> Subject:
    """Return a subject of one concept with ``images`` random pictures."""
    pictures = tuple(make_picture(1000 * seed + i, size) for i in range(images))
    return Subject(
        name=name,
        concepts=(Concept(name=name, token=token, noun=noun),),
        images=pictures,
        captions=tuple(captions) or (None,) * images,
        files=tuple(f"{name}-{i}.png" for i in range(images)),
        extra=({"points": FACE_POINTS},) * images,
    )


def make_recipe(
    uses: Mapping[str, Technique] | Sequence[Technique],
    *phases: Phase,
    cycles: int = 1,
    sample: SampleSettings | None = None,
) -> Recipe:
    """Return a recipe of technique instances, by use name or under their ids.

    It has no document, so what is fitted with it cannot be saved: ``recipe_from_document`` makes
    one that can.
    """
    named = uses if isinstance(uses, Mapping) else {t.id: t for t in uses}
    return Recipe(
        id="made-for-a-test",
        uses=tuple(Use(name, technique) for name, technique in named.items()),
        phases=phases,
        cycles=cycles,
        sample=sample or SampleSettings(steps=3, scale=2.0),
    )


def build_fusion(
    recipe: Recipe, subjects: Sequence[Subject], backbone: Backbone, *, seed: int = 0
) -> Fusion:
    """Return what the recipe's techniques plug in for ``subjects``: `mask`, `extract`, `fuse`."""
    return build(recipe, subjects, backbone, seed=seed)[0]


def build(
    recipe: Recipe, subjects: Sequence[Subject], backbone: Backbone, *, seed: int = 0
) -> tuple[Fusion, Features]:
    """Return the fusion of :func:`build_fusion` and the features it was made from."""
    run, features, _ = extracted(recipe, subjects, backbone, seed=seed)
    return merge_fusions(run.call("fuse", features=features)), features


def extracted(
    recipe: Recipe, subjects: Sequence[Subject], backbone: Backbone, *, seed: int = 0
) -> tuple[EngineRun, Features, tuple[Features, ...]]:
    """Return a run of ``recipe``, what it extracts of all subjects, and of each with its examples."""
    run = EngineRun(
        recipe,
        backbone,
        seed=seed,
        names=[s.name for s in subjects],
        concepts=[s.concepts for s in subjects],
    )
    run.features, per_subject = extract(run, subjects)
    return run, run.features, per_subject


@torch.no_grad()
def perturb(fusion: Fusion, *, seed: int = 0, scale: float = 0.05) -> None:
    """Add Gaussian noise to every parameter of ``fusion``, so that nothing is at its start value."""
    rng = torch.Generator().manual_seed(seed)
    for param in trainable(fusion).values():
        param.add_(scale * torch.randn(param.shape, generator=rng).to(param))


def evaluate_attached(
    net: Attachment,
    prompts: Sequence[str],
    subject: Sequence[int] | None = None,
    *,
    latents: Tensor | None = None,
    time: int = 400,
    model: str = "self",
    features: Features | None = None,
    **options: Any,
) -> Evaluation:
    """Encode ``prompts`` and run the attached network once on fixed latents, a row per prompt.

    ``features`` are what the fusion was built from: its streams read them.
    """
    backbone, fusion = net.backbone, net.fusion
    owners = [0] * len(prompts) if subject is None else list(subject)
    if latents is None:
        rng = torch.Generator().manual_seed(7)
        noise = torch.randn(len(prompts), *backbone.latent_shape, generator=rng)
        latents = backbone.sampler("ddim", 1).start(noise)  # of tokens: all masked
    index = torch.tensor(owners, device=backbone.device)
    known = features or Features()
    tokens = tokenise(
        prompts,
        backbone.tokenizer,
        words=fusion.words,
        tokens=fusion.of(TokenEdit),
        subjects=owners,
        concepts=[[c.token for c in concepts] for concepts in known.concepts],
    )
    level = backbone.process.level(torch.full((len(prompts),), time, device=backbone.device))
    streams = net.streams(net.read_features(known.tensors, index)) if model == "self" else {}
    extra = net.strengths(len(prompts))
    at = backbone.process.fraction(level)
    cond = net.encode_text(tokens, index, time=at, streams=streams, extra=extra, model=model)
    return net.evaluate(latents.to(backbone.device), level, cond, model=model, **options)


def evaluate(
    backbone: Backbone,
    fusion: Fusion | None = None,
    prompts: Sequence[str] = ("a photo of a dog", "a red toy on the beach"),
    subject: Sequence[int] | None = None,
    **options: Any,
) -> Tensor:
    """Attach ``fusion`` (None: nothing), look once without gradients, and return the output."""
    with torch.no_grad(), Attachment(backbone, fusion or Fusion()) as net:
        return evaluate_attached(net, prompts, subject, **options).output


class Snapshot:
    """Everything about a backbone's modules that attaching must give back."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.parameters = {
            part: [(n, id(p), p.requires_grad, p.grad is None) for n, p in m.named_parameters()]
            for part, m in backbone.parts.items()
        }
        self.tensors = {
            part: {n: t.detach().clone() for n, t in m.state_dict().items()}
            for part, m in backbone.parts.items()
        }
        self.modules = {
            part: [(n, id(m), m.training, sorted(vars(m))) for n, m in root.named_modules()]
            for part, root in backbone.parts.items()
        }

    def assert_unchanged(self) -> None:
        """Compare keys, order, values, objects, gradients' flags, modules and their attributes.

        Raises
        ------
        AssertionError
            Something is not as it was.
        """
        now = Snapshot(self.backbone)
        for part, before in self.tensors.items():
            after = now.tensors[part]
            assert list(before) == list(after), f"{part}: the state dict's keys or order changed"
            for name, tensor in before.items():
                assert torch.equal(tensor, after[name]), f"{part}: the values of {name} changed"
            assert self.parameters[part] == now.parameters[part], (
                f"{part}: parameters were replaced, or requires_grad or gradients were left behind"
            )
            assert self.modules[part] == now.modules[part], (
                f"{part}: modules, their mode or their attributes changed"
            )
