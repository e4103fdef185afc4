"""Merging personalizations into one, by a method a plugin provides."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcs_core.arguments import checks_arguments
from pcs_core.backbone import suspended
from pcs_core.backbone.written import composed
from pcs_core.engine.opening import resolve_artifact, resolve_backbone
from pcs_core.engine.restoring import restored
from pcs_core.errors import InputError

if TYPE_CHECKING:
    from pcs_core.backbone import Backbone
    from pcs_core.data import Personalization

LOGGER = logging.getLogger("pcs")


@checks_arguments
def merge_personalizations(
    artifacts: Sequence[Personalization | Path | str],
    backbone: Backbone | str | Path | None = None,
    *,
    method: str = "closed-form",
    **settings: Any,
) -> Personalization:
    """Merge two or more personalizations of one backbone into one that knows all their concepts.

    ``method`` is the id of an installed merger; ``settings`` are its own.

    Raises
    ------
    InputError
        Fewer than two, two that share a token, or two tokens that stand for the same words.
    ArtifactError
        They were made on different backbones.
    """
    from pcs_core import installed

    loaded = [p for p in (resolve_artifact(q) for q in artifacts) if p is not None]
    if len(loaded) < 2:
        raise InputError("a merge needs at least two personalizations")
    if any(artifact.parts for artifact in loaded):
        raise InputError(
            "personalizations that are drawn together do not merge: give each by itself"
        )
    tokens: dict[str, str] = {}
    for artifact in loaded:
        for concept in artifact.concepts:
            if concept.token in tokens:
                raise InputError(
                    f"{tokens[concept.token]!r} and {artifact.subject!r} share the token "
                    f"{concept.token!r}: fit one of them again with another token"
                )
            tokens[concept.token] = artifact.subject
    opened = resolve_backbone(backbone, loaded[0])
    for artifact in loaded[1:]:
        resolve_backbone(opened, artifact)
    words = words_of(loaded, opened)
    merged: Personalization = installed().get("mergers", method)(loaded, opened, **settings)
    return replace(merged, extra={**merged.extra, "words": words}) if words else merged


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
