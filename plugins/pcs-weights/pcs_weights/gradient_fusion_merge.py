"""The merger of Mix-of-Show (arXiv:2305.18292, section 3.3): inputs recorded, each layer solved for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import nn

from pcs_core.backbone import select_sites
from pcs_core.errors import InputError
from pcs_weights.gradient_fusion import solve

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Personalization, Use

FACTORS = "weights.lora"
TEMPLATES = ("a photo of {}", "{}")
"""Prompts that the recorded inputs come from; ``{}`` stands for the tokens."""


def gradient_fusion(
    artifacts: Sequence[Personalization],
    backbone: Any,
    *,
    iterations: int = 500,
    spatial_iterations: int = 50,
    templates: Sequence[str] = TEMPLATES,
    steps: int = 10,
    seed: int = 0,
) -> Personalization:
    """Fuse low-rank updates; every concept's layers keep answering as they did to their own inputs.

    ``iterations`` for layers that read text (the encoder's, and cross-attention keys and values), the
    authors' 500, and ``spatial_iterations`` for the denoiser's others, their 50. ``steps`` of sampling each
    of the ``templates`` record the inputs.

    Raises
    ------
    InputError
        A personalization owns other tensors than words and low-rank updates, or they do not fit together.
    """
    from pcs_core import recipe_from_document

    words = [word_uses(p) for p in artifacts]
    deltas = [deltas_of(p) for p in artifacts]
    check_alike(artifacts, words, deltas)
    grams = [
        record(p, backbone, sorted(deltas[0]), templates, steps=steps, seed=seed) for p in artifacts
    ]
    cross = {site.name for site in select_sites(backbone.sites, "cross")}
    fused = {}
    for key in sorted(deltas[0]):
        part, name = key
        site, _, projection = name.rpartition(".")
        text = part == "text" or (site in cross and projection in ("to_k", "to_v"))
        own = [d[key] for d in deltas]
        fused[name] = solve(
            [g[key] for g in grams], own, iterations if text else spatial_iterations
        )
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
        tensors={**tokens, **{f"weights.gradient_fusion/{k}/delta": v for k, v in fused.items()}},
        features={},
        losses={},
        subject="+".join(p.subject for p in artifacts),
        extra={"merged_from": [p.subject for p in artifacts]},
    )


def word_uses(artifact: Personalization) -> list[Use]:
    """Return the uses that own words; refuse those whose tensors a fusion would lose."""
    owners = {name.split("/", 1)[0] for name in artifact.tensors}
    found = []
    for use in artifact.recipe.uses:
        kind = use.technique.id
        if use.name in owners and kind.startswith("tokens."):
            found.append(use)
        elif use.name in owners and kind != FACTORS:
            raise InputError(
                f"{artifact.subject!r}: the tensors of the use {use.name!r} ({kind}) would be lost: gradient "
                f"fusion joins words and {FACTORS}"
            )
    return found


def deltas_of(artifact: Personalization) -> dict[tuple[str, str], Tensor]:
    """Return dW [out in] of each layer by (part, name)."""
    found: dict[tuple[str, str], Tensor] = {}
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
                found[part, layer] = found.get((part, layer), 0) + scale * (b @ a)
    if not found:
        raise InputError(f"{artifact.subject!r} (recipe {artifact.recipe.id!r}) has no {FACTORS}")
    return found


def check_alike(
    artifacts: Sequence[Personalization],
    words: Sequence[Sequence[Use]],
    deltas: Sequence[Mapping[tuple[str, str], Tensor]],
) -> None:
    """Refuse personalizations that one recipe cannot hold; names the first that differs."""
    for artifact, uses, own in zip(artifacts, words, deltas, strict=True):
        kinds = [[u.technique.id for u in w] for w in (uses, words[0])]
        if set(own) != set(deltas[0]) or kinds[0] != kinds[1]:
            raise InputError(
                f"{artifact.subject!r} and {artifacts[0].subject!r} have other layers or words: fit both with "
                "one recipe"
            )


def record(
    artifact: Personalization,
    backbone: Any,
    layers: Sequence[tuple[str, str]],
    templates: Sequence[str],
    *,
    steps: int,
    seed: int,
) -> dict[tuple[str, str], Tensor]:
    """Return the mean Gram matrix [in in] of each layer's inputs while ``artifact`` draws."""
    from pcs_core import sample

    named = " and ".join(c.token for c in artifact.concepts)
    prompts = [t.format(named) for t in templates]
    with listening(backbone, layers) as grams:
        sample(artifact, backbone, prompts, steps=steps, scale=1.0, seed=seed)
    return grams


@contextmanager
def listening(
    backbone: Any, layers: Sequence[tuple[str, str]]
) -> Iterator[dict[tuple[str, str], Tensor]]:
    """Sum the Gram matrices of the inputs of ``layers``; nothing is left behind."""
    grams: dict[tuple[str, str], Tensor] = {}
    handles = []

    def listen(key: tuple[str, str]) -> Any:
        def hear(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            rows = inputs[0].detach().reshape(-1, inputs[0].shape[-1]).double().cpu()
            grams[key] = grams.get(key, 0) + rows.T @ rows / len(rows)

        return hear

    try:
        for part, name in layers:
            module = backbone.parts[part].get_submodule(name)
            handles.append(module.register_forward_pre_hook(listen((part, name))))
        yield grams
    finally:
        for handle in handles:
            handle.remove()


def fused_document(artifact: Personalization) -> Mapping[str, Any]:
    """Return the recipe of the fused personalization: its low-rank uses become one of fused deltas."""
    document: dict[str, Any] = dict(artifact.recipe.document)
    globs: dict[str, list[str]] = {"denoiser": [], "text": []}
    for use in artifact.recipe.uses:
        if use.technique.id == FACTORS:
            settings = use.technique.settings()
            globs[settings["part"]].append(settings["sites"])
    kept = [u for u in document["use"] if u["technique"] != FACTORS]
    fused = {
        "technique": "weights.gradient_fusion",
        "sites": "|".join(globs["denoiser"]),
        "text_sites": "|".join(globs["text"]),
    }
    document["use"] = [*kept, fused]
    document["phase"] = []
    return document
