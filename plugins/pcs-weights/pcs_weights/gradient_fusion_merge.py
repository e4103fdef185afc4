"""The merger of Mix-of-Show (arXiv:2305.18292, section 3.3): inputs recorded, each layer solved for.

In the order of the authors' `gradient_fusion.py`: the text encoder's layers, from what each personalization's
own encoder reads of its prompts; keys and values of cross-attention, from what the fused encoder says of its
words; the denoiser's other layers, from what it reads while it draws with its own updates there and all that is
fused so far.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.backbone import select_sites
from pcs_core.data import Use
from pcs_core.errors import InputError
from pcs_weights.gradient_fusion import solve
from pcs_weights.gradient_fusion_inputs import WordListener, hearing, listening, summed

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Personalization
    from pcs_weights.gradient_fusion_inputs import Grams, Layer

FACTORS = "weights.lora"
FUSED = "weights.gradient_fusion"
TEMPLATES = ("photo of a {}", "{}")
"""Prompts that the recorded inputs come from; ``{}`` stands for the tokens, and ends the prompt. The first is
what pictures are drawn of."""
Deltas = dict["Layer", "Tensor"]


def gradient_fusion(
    artifacts: Sequence[Personalization],
    backbone: Any,
    *,
    iterations: int = 500,
    spatial_iterations: int = 50,
    steps: int = 20,
    seed: int = 0,
) -> Personalization:
    """Fuse low-rank updates; every concept's layers keep answering as they did to their own inputs.

    ``iterations`` for layers that read text (the encoder's, and cross-attention keys and values), the
    authors' 500, and ``spatial_iterations`` for the denoiser's others, their 50. ``steps`` of sampling one
    picture, each of which is recorded, their 20; no guidance, DPM-Solver++.

    Raises
    ------
    InputError
        A personalization owns other tensors than words and low-rank updates, or they do not fit together.
    """
    from pcs_core import recipe_from_document

    words = [word_uses(p) for p in artifacts]
    deltas = [deltas_of(p) for p in artifacts]
    check_alike(artifacts, words, deltas)
    fused: Deltas = {}
    for layers, record, budget in stages(deltas[0], backbone, iterations, spatial_iterations):
        if not layers:
            continue
        grams = [
            record(stand_in(p, updates, fused), backbone, layers, steps, seed)
            for p, updates in zip(artifacts, deltas, strict=True)
        ]
        for layer in layers:
            fused[layer] = solve(summed(grams, layer), [d[layer] for d in deltas], budget)
    tokens = {
        f"{ours.name}/{name.removeprefix(f'{theirs.name}/')}": value
        for artifact, uses in zip(artifacts, words, strict=True)
        for ours, theirs in zip(words[0], uses, strict=True)
        for name, value in artifact.tensors.items()
        if name.startswith(f"{theirs.name}/")
    }
    return replace(
        artifacts[0],
        recipe=recipe_from_document(fused_document(artifacts[0])),
        concepts=tuple(c for p in artifacts for c in p.concepts),
        tensors={**tokens, **stored(fused)},
        features={},
        losses={},
        subject="+".join(p.subject for p in artifacts),
        extra={"merged_from": [p.subject for p in artifacts]},
    )


def stages(
    deltas: Mapping[Layer, Tensor], backbone: Any, text: int, spatial: int
) -> list[tuple[list[Layer], Callable[..., Grams], int]]:
    """Return of each stage: its layers, how their inputs are recorded, and the iterations of one solution."""
    cross = {site.name for site in select_sites(backbone.sites, "cross")}
    encoder, words, others = [], [], []
    for layer in sorted(deltas):
        part, name = layer
        site, _, projection = name.rpartition(".")
        if part == "text":
            encoder.append(layer)
        elif site in cross and projection in ("to_k", "to_v"):
            words.append(layer)
        else:
            others.append(layer)
    return [
        (encoder, record_encoder, text),
        (words, record_words, text),
        (others, record_drawing, spatial),
    ]


def prompts_of(artifact: Personalization) -> list[str]:
    """Return the prompts whose texts are recorded."""
    named = " and ".join(c.token for c in artifact.concepts)
    return [t.format(named) for t in TEMPLATES]


def record_encoder(
    artifact: Personalization, backbone: Any, layers: Sequence[Layer], steps: int, seed: int
) -> Grams:
    """Return what layers of the text encoder read of the prompts, without padding."""
    from pcs_core import sample

    with listening(backbone, layers, padding=False) as grams:
        sample(artifact, backbone, prompts_of(artifact), steps=1, scale=1.0, seed=seed)
    return grams


def record_words(
    artifact: Personalization, backbone: Any, layers: Sequence[Layer], steps: int, seed: int
) -> Grams:
    """Return what keys and values read at the concept's words and at the end of the prompts."""
    from pcs_core import sample

    recipe = replace(artifact.recipe, uses=(*artifact.recipe.uses, Use("listener", WordListener())))
    with hearing() as grams:
        heard = replace(artifact, recipe=recipe)
        sample(heard, backbone, prompts_of(artifact), steps=1, scale=1.0, seed=seed)
    return grams


def record_drawing(
    artifact: Personalization, backbone: Any, layers: Sequence[Layer], steps: int, seed: int
) -> Grams:
    """Return what the denoiser's layers read in every step of one picture."""
    from pcs_core import sample

    prompt = prompts_of(artifact)[0]
    with listening(backbone, layers) as grams:
        sample(artifact, backbone, prompt, steps=steps, scale=1.0, scheduler="dpm++", seed=seed)
    return grams


def stand_in(artifact: Personalization, deltas: Deltas, fused: Deltas) -> Personalization:
    """Return ``artifact`` with fused differences in place of its own, where there are any."""
    from pcs_core import recipe_from_document

    if not fused:
        return artifact
    tensors = dict(artifact.tensors)
    for use in artifact.recipe.uses:
        if use.technique.id == FACTORS:
            part = use.technique.settings()["part"]
            for name in [n for n in tensors if n.startswith(f"{use.name}/") and n.endswith("/B")]:
                layer = name.removeprefix(f"{use.name}/").removesuffix("/B")
                if (part, layer) in fused:
                    tensors[name] = torch.zeros_like(tensors[name])
    document = dict(artifact.recipe.document)
    document["use"] = [*document["use"], fused_use(artifact)]
    document["phase"] = []
    every = {layer: fused.get(layer, torch.zeros_like(delta)) for layer, delta in deltas.items()}
    return replace(
        artifact, recipe=recipe_from_document(document), tensors={**tensors, **stored(every)}
    )


def stored(deltas: Deltas) -> dict[str, Tensor]:
    """Return differences by the names of an artifact."""
    return {f"{FUSED}/{name}/delta": delta for (_, name), delta in deltas.items()}


def word_uses(artifact: Personalization) -> list[Use]:
    """Return the uses that own words; refuse those whose tensors a fusion would lose."""
    owners = {name.split("/", 1)[0] for name in artifact.tensors}
    uses = []
    for use in artifact.recipe.uses:
        kind = use.technique.id
        if use.name in owners and kind.startswith("tokens."):
            uses.append(use)
        elif use.name in owners and kind != FACTORS:
            raise InputError(
                f"{artifact.subject!r}: the tensors of the use {use.name!r} ({kind}) would be lost: gradient "
                f"fusion joins words and {FACTORS}"
            )
    return uses


def deltas_of(artifact: Personalization) -> dict[tuple[str, str], Tensor]:
    """Return dW [out in] of each layer by (part, name)."""
    deltas: dict[tuple[str, str], Tensor] = {}
    for use in artifact.recipe.uses:
        if use.technique.id != FACTORS:
            continue
        settings = use.technique.settings()
        rank, alpha, part = settings["rank"], settings["alpha"], settings["part"]
        scale = (rank if alpha is None else alpha) / rank
        for name, b in artifact.tensors.items():
            if name.startswith(f"{use.name}/") and name.endswith("/B"):
                layer = name.removeprefix(f"{use.name}/").removesuffix("/B")
                a = artifact.tensors[f"{use.name}/{layer}/A"]
                deltas[part, layer] = deltas.get((part, layer), 0) + scale * (b @ a)
    if not deltas:
        raise InputError(f"{artifact.subject!r} (recipe {artifact.recipe.id!r}) has no {FACTORS}")
    return deltas


def check_alike(
    artifacts: Sequence[Personalization],
    words: Sequence[Sequence[Use]],
    deltas: Sequence[Mapping[tuple[str, str], Tensor]],
) -> None:
    """Refuse personalizations that one recipe cannot hold; names the first that differs."""
    for artifact, uses, layer_deltas in zip(artifacts, words, deltas, strict=True):
        kinds = [[u.technique.id for u in w] for w in (uses, words[0])]
        if set(layer_deltas) != set(deltas[0]) or kinds[0] != kinds[1]:
            raise InputError(
                f"{artifact.subject!r} and {artifacts[0].subject!r} have other layers or words: fit both with "
                "one recipe"
            )


def fused_use(artifact: Personalization) -> dict[str, Any]:
    """Return the use of the fused differences, at all layers that have low-rank updates."""
    globs: dict[str, list[str]] = {"denoiser": [], "text": []}
    for use in artifact.recipe.uses:
        if use.technique.id == FACTORS:
            settings = use.technique.settings()
            globs[settings["part"]].append(settings["sites"])
    return {
        "technique": FUSED,
        "name": FUSED,
        "sites": "|".join(globs["denoiser"]),
        "text_sites": "|".join(globs["text"]),
    }


def fused_document(artifact: Personalization) -> Mapping[str, Any]:
    """Return the recipe of the fused personalization: its low-rank uses become one of fused deltas."""
    document: dict[str, Any] = dict(artifact.recipe.document)
    kept = [u for u in document["use"] if u["technique"] != FACTORS]
    document["use"] = [*kept, fused_use(artifact)]
    document["phase"] = []
    return document
