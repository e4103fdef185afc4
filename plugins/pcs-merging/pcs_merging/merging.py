"""Merging personalizations into one, by a method a plugin provides."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcs_core.arguments import checks_arguments
from pcs_core.backbone import suspended
from pcs_core.backbone.written import composed
from pcs_core.errors import InputError
from pcs_engine.opening import resolve_artifact, resolve_backbone
from pcs_engine.restoring import restored
from pcs_merging.plain_uses import rare_word
from pcs_merging.stacking import labelled, name_of
from pcs_merging.weighing import read_weights, weighed

if TYPE_CHECKING:
    from pcs_core.backbone import Backbone
    from pcs_core.data import Personalization

LOGGER = logging.getLogger("pcs")


@checks_arguments
def merge_personalizations(
    artifacts: Sequence[Personalization | Path | str],
    backbone: Backbone | str | Path | None = None,
    *,
    method: str | None = None,
    strengths: Mapping[str, float] | None = None,
    names: Sequence[str] | None = None,
    **settings: Any,
) -> Personalization:
    """Merge two or more personalizations of one backbone into one that knows all their concepts.

    ``method`` is the id of an installed merger, None: see :func:`usual_method`; ``settings`` are its own.
    ``strengths`` weigh them before, as a drawing does: ``{"dog": 0.7, "cat:lora": 0.5}``, by ``names``
    (default: of their folders, else subjects); a use's name alone is the first one's.

    Raises
    ------
    InputError
        Fewer than two, two that share a token, two tokens that stand for the same words, or a strength that
        nothing of them has.
    ArtifactError
        They were made on different backbones.
    """
    from pcs_core import installed

    loaded = [p for p in (resolve_artifact(q) for q in artifacts) if p is not None]
    if len(loaded) < 2 or len(loaded) < len(artifacts):
        raise InputError("a merge needs at least two personalizations")
    if names is not None and len(names) != len(loaded):
        raise InputError(f"names: {len(names)} of {len(loaded)} personalizations")
    if any(artifact.parts for artifact in loaded):
        raise InputError(
            "personalizations that are drawn together do not merge: give each by itself"
        )
    labels = labelled(names or [name_of(q, p) for q, p in zip(artifacts, loaded, strict=True)])
    chosen = method or usual_method(loaded)
    merger = installed().get("mergers", chosen)
    check_tokens(loaded, labels, one_subject=chosen == "sum")
    weights = read_weights(strengths or {}, loaded, labels)
    opened = resolve_backbone(backbone, loaded[0])
    for artifact in loaded[1:]:
        resolve_backbone(opened, artifact)
    words = words_of(loaded, opened)
    acting = [weighed(p, opened, by_use) for p, by_use in zip(loaded, weights, strict=True)]
    merged: Personalization = merger(acting, opened, **settings)
    extra = {**merged.extra, **({"words": words} if words else {})}
    if strengths:
        extra["strengths"] = {
            f"{label}:{use}": value
            for label, by_use in zip(labels, weights, strict=True)
            for use, value in by_use.items()
        }
    return replace(merged, extra=extra)


def check_tokens(
    artifacts: Sequence[Personalization], labels: Sequence[str], *, one_subject: bool
) -> None:
    """Refuse a token that two share, but of fits of ``one_subject`` that name it by the same usual words.

    Raises
    ------
    InputError
        Names both, and the token.
    """
    first: dict[str, tuple[str, Personalization]] = {}
    for label, artifact in zip(labels, artifacts, strict=True):
        for concept in artifact.concepts:
            other, before = first.setdefault(concept.token, (label, artifact))
            if before is artifact and other == label:
                continue
            if not (one_subject and rare_words(before) == rare_words(artifact) != ()):
                raise InputError(
                    f"{other!r} and {label!r} share the token {concept.token!r}: fit one of them again with "
                    "another --token, or draw with both as they are: `pcs sample A --add B PROMPT` tells them "
                    "apart"
                )
            LOGGER.warning(
                "%r and %r call their subject %s by the same words: merged as fits of one",
                *(other, label, concept.token),
            )


def rare_words(artifact: Personalization) -> tuple[str, ...]:
    """Return the rare words that name the subjects of ``artifact``, and their nouns; none of learned words.

    Such a subject is nothing but what the words mean to the network as the fit left it.
    """
    rare = tuple(word for use in artifact.recipe.uses if (word := rare_word(use)))
    learned = any(f"/{c.token}/" in name for name in artifact.tensors for c in artifact.concepts)
    return () if learned or not rare else (*rare, *(c.noun for c in artifact.concepts))


def usual_method(artifacts: Sequence[Personalization]) -> str:
    """Return the merger that a technique of each names as its paper's, else "sum", which adds them up."""
    named = [
        {use.technique.merges_by for use in artifact.recipe.uses} - {""} for artifact in artifacts
    ]
    return next(iter(sorted(set.intersection(*named))), "sum")


def words_of(artifacts: Sequence[Personalization], backbone: Backbone) -> dict[str, dict[str, str]]:
    """Return what the tokens of all artifacts stand for: token -> text and noun.

    Raises
    ------
    InputError
        Two tokens stand for the same words: nothing would tell their subjects apart.
    """
    words: dict[str, dict[str, str]] = {}
    meant: dict[str, tuple[str, str]] = {}
    shared: dict[str, tuple[str, str]] = {}
    for artifact in artifacts:
        if not artifact.tensors:
            continue  # of a pre-trained system: what tells its subject apart is its features, not words
        with suspended(backbone), restored(artifact, backbone, 0) as (_, fusion):
            fusion_words = fusion.words
        for word in fusion_words:
            text = " ".join(composed(word.text).lower().split())
            if meant.get(text, ("",))[0] == word.token:
                continue  # of one subject, fitted twice
            if text in meant:
                token, subject = meant[text]
                raise InputError(
                    f"{token!r} of {subject!r} and {word.token!r} of {artifact.subject!r} both stand for "
                    f"{word.text!r}, which cannot mean two subjects: fit one of them again with another "
                    "identifier (for lora-dreambooth: --set tokens.rare.identifier=...)"
                )
            rare = text.removesuffix(composed(word.noun).lower()).strip()
            if (
                rare
                and shared.setdefault(rare, (word.token, artifact.subject))[1] != artifact.subject
            ):
                LOGGER.warning(
                    "%r and %r share the identifier %r: features of one subject may appear in the other",
                    shared[rare][0],
                    word.token,
                    rare,
                )
            meant[text] = (word.token, artifact.subject)
            words[word.token] = {"text": word.text, "noun": word.noun}
    return words
