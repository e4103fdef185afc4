"""Claims about pictures: what moves them, what leaves them alone, and what words stand for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from pcs_checks.claims.general import with_tensors
from pcs_checks.observe import NOUN, PROMPT, TOKEN, Observation
from pcs_core import load_recipe, sample
from pcs_core.backbone import Attachment, import_tensors
from pcs_core.data import Box, CheckRow, Layout
from pcs_testing import build_fusion, conditioning


def off_is_base(
    seen: Observation, *, strengths: Mapping[str, float], most: float = 1e-6
) -> Iterator[CheckRow]:
    """With these strengths at 0 the picture is the untuned network's."""
    off = seen.draw(strengths=dict(strengths))
    away = float((off - seen.untuned).abs().max())
    yield CheckRow.compare("largest difference of strength 0 from the base", away, "<=", most)
    on = float((off - seen.picture).abs().max())
    yield CheckRow.compare("largest difference of strength 0 from the picture", on, ">", 1e-5)


def starts_at_base(seen: Observation, *, text: str, most: float = 1e-6) -> Iterator[CheckRow]:
    """Before any step the picture is that of ``text`` in place of the token, by the network alone."""
    steps = [f"{phase.name}.steps=0" for phase in seen.recipe.phases]
    steps += ["fit.caption_dropout=0"] if seen.recipe.caption_dropout else []  # no row is shown
    recipe = load_recipe(seen.recipe, overrides=steps)
    fresh = type(seen)(recipe, seen.backbone_id, seen.concepts)
    settings = seen.recipe.sample
    words = text.replace("{noun}", NOUN)
    plain = sample(
        None,
        seen.backbone,
        PROMPT.replace(TOKEN, words),
        seed=1,
        steps=settings.steps,
        scale=settings.scale,
    )
    away = float((fresh.picture - plain).abs().max())
    yield CheckRow.compare("largest difference of the start from the base", away, "<=", most)


def words(seen: Observation, *, text: str) -> Iterator[CheckRow]:
    """The token stands for ``text`` and nothing is added to the vocabulary."""
    from pcs_checks.observe import random_pictures

    subject = random_pictures(1, clips=seen.clips)
    size = len(seen.backbone.tokenizer.inner)  # type: ignore[attr-defined]
    fusion = build_fusion(seen.recipe, [subject], seen.backbone)
    meanings = [word.text for word in fusion.words if word.token == TOKEN]
    expected = text.replace("{noun}", NOUN)
    yield CheckRow.compare("meanings of the token", len(meanings), "==", 1)
    yield CheckRow.compare("meanings beside the method's", int(meanings != [expected]), "==", 0)
    grown = len(seen.backbone.tokenizer.inner) - size  # type: ignore[attr-defined]
    yield CheckRow.compare("words added to the vocabulary", grown, "==", 0)


def learned_rows(seen: Observation, *, vectors: int, start: str = "") -> Iterator[CheckRow]:
    """A token has ``vectors`` rows of the text encoder's width, which began at the noun's (``start``)."""
    rows = [t for n, t in seen.artifact.tensors.items() if n.endswith("/rows")]
    table: Any = seen.backbone.embedding.weight
    width = int(table.shape[1])
    shapes = sum(tuple(r.shape) != (vectors, width) for r in rows)
    yield CheckRow.compare("learned words", len(rows), ">=", 1)
    yield CheckRow.compare(f"words that are not {vectors} rows of the encoder", shapes, "==", 0)
    if start == "noun":
        first = next(iter(seen.notes.starts.values()), {})
        began = next(
            (t for n, t in first.items() if n.endswith("/rows")), torch.full((width,), torch.nan)
        )
        ids = seen.backbone.tokenizer.encode(NOUN)
        noun = table[ids[0]].detach()
        away = float((began.reshape(-1, width)[0] - noun).abs().max())
        yield CheckRow.compare("largest difference of the start from the noun", away, "<=", 1e-6)


def rank_at_most(seen: Observation, *, use: str, rank: int) -> Iterator[CheckRow]:
    """The change of every layer, B A, has at least rank 1 and at most this one."""
    pairs = [
        (b, seen.artifact.tensors[n[:-1] + "A"])
        for n, b in seen.artifact.tensors.items()
        if n.startswith(f"{use}/") and n.endswith("/B")
    ]
    ranks = [int(torch.linalg.matrix_rank((b @ a).double(), rtol=1e-5)) for b, a in pairs]
    yield CheckRow.compare("layers that are changed", len(ranks), ">", 0)
    yield CheckRow.compare("largest rank of W' - W", max(ranks, default=0), "<=", rank)
    yield CheckRow.compare("smallest rank of W' - W", min(ranks, default=0), ">=", 1)


def follows_boxes(seen: Observation) -> Iterator[CheckRow]:
    """Another box gives another picture, and without a layout the picture is another one too."""
    moved = seen.draw(layout=Layout((Box(TOKEN, (0.5, 0.0, 1.0, 1.0)),), ()))
    apart = float((moved - seen.picture).abs().max())
    yield CheckRow.compare("picture moved by another box", apart, ">", 1e-6)


def strength_moves(seen: Observation, *, strength: str) -> Iterator[CheckRow]:
    """Half the strength gives a picture between none and all of it, unlike both."""
    none, half = (seen.draw(strengths={strength: s}) for s in (0.0, 0.5))
    yield CheckRow.compare(
        "picture moved by half the strength", float((half - none).abs().max()), ">", 1e-6
    )
    yield CheckRow.compare(
        "picture moved by the other half", float((half - seen.picture).abs().max()), ">", 1e-6
    )


def pixels_within(seen: Observation, *, bound: float) -> Iterator[CheckRow]:
    """References are changed by at most ``bound`` per channel (pixels in [-1, 1]), and by a part of it."""
    subject = seen.subject(1)
    fusion = build_fusion(seen.recipe, [subject], seen.backbone)
    import_tensors(fusion, dict(seen.artifact.tensors))
    size = seen.backbone.card.size
    pictures = torch.full((len(subject.images), 3, *size), 0.5)
    index = torch.arange(len(pictures))
    with torch.no_grad(), Attachment(seen.backbone, fusion) as net:
        changed = net.pixels(pictures, "input", index)
    largest = 2 * float((changed - pictures).abs().max())  # [0, 1] to [-1, 1]
    yield CheckRow.compare("largest change of a pixel", largest, "<=", bound * (1 + 1e-5))
    yield CheckRow.compare("largest change of a pixel", largest, ">=", bound / 5)


def per_layer(seen: Observation, *, use: str, vectors: int = 1) -> Iterator[CheckRow]:
    """A use stores ``vectors`` embeddings per cross-attention layer, and no two of them are alike."""
    from pcs_core.backbone import select_sites

    layers = vectors * len(select_sites(seen.backbone.sites, "cross"))
    rows = [t for n, t in seen.artifact.tensors.items() if n.startswith(f"{use}/")]
    flat = [r.reshape(-1, r.shape[-1]) for r in rows]
    distinct = {tuple(v.tolist()) for r in flat for v in r}
    yield CheckRow.compare("stored embeddings", sum(len(v) for v in flat), "==", layers)
    yield CheckRow.compare("embeddings unlike all others", len(distinct), "==", layers)


def matters(seen: Observation, *, set: Sequence[str]) -> Iterator[CheckRow]:
    """With these settings the picture is another one: the method's own are not idle."""
    moved = float((seen.variant(set).picture - seen.picture).abs().max())
    yield CheckRow.compare(f"picture moved by {', '.join(set)}", moved, ">", 1e-6)


def base_moves(seen: Observation, *, use: str) -> Iterator[CheckRow]:
    """Without a use the picture is another one."""
    left = tuple(u for u in seen.recipe.uses if u.name != use)
    yield CheckRow.compare(f"uses called {use}", len(seen.recipe.uses) - len(left), "==", 1)
    reads = any(u.technique.reads_layout for u in left)
    bare = seen.draw(
        replace(seen.artifact, recipe=replace(seen.recipe, uses=left)),
        layout=seen.layout if reads else None,
    )
    moved = float((bare - seen.picture).abs().max())
    yield CheckRow.compare(f"picture moved by {use}", moved, ">", 1e-6)


def deaf_to(seen: Observation, *, glob: str) -> Iterator[CheckRow]:
    """Tensors of ``glob`` change nothing when drawing: they act in the fit alone."""
    from fnmatch import fnmatchcase

    tensors = {n: t + 0.5 if fnmatchcase(n, glob) else t for n, t in seen.artifact.tensors.items()}
    touched = sum(fnmatchcase(n, glob) for n in tensors)
    yield CheckRow.compare("tensors of the fit alone", touched, ">", 0)
    away = float((seen.draw(with_tensors(seen.artifact, tensors)) - seen.picture).abs().max())
    yield CheckRow.compare("picture moved by them", away, "==", 0.0)


def normed_tokens(seen: Observation, *, stream: str) -> Iterator[CheckRow]:
    """Each token of a stream has mean 0 and variance 1 before the scale and shift of a LayerNorm of its own."""
    stored = seen.artifact.tensors
    scale, shift = (
        next((t for n, t in stored.items() if n.endswith(f"/{stream}/norm/{part}")), None)
        for part in ("weight", "bias")
    )
    tokens = conditioning(seen.artifact, seen.backbone, PROMPT, layout=seen.layout).streams[stream]
    missing = int(scale is None or shift is None)
    yield CheckRow.compare(f"{stream}: parameters of a norm that are missing", missing, "==", 0)
    if scale is None or shift is None:
        return
    plain = (tokens - shift) / scale
    mean = float(plain.mean(-1).abs().max())
    yield CheckRow.compare(f"{stream}: largest |mean| of a token", mean, "<=", 1e-3)
    spread = float((plain.var(-1, unbiased=False) - 1).abs().max())
    yield CheckRow.compare(f"{stream}: largest |variance - 1| of a token", spread, "<=", 1e-2)
