"""Merging personalizations into one, by a method a plugin provides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcs_core.engine.opening import resolve_artifact, resolve_backbone
from pcs_core.errors import InputError

if TYPE_CHECKING:
    from pcs_core.backbone import Backbone
    from pcs_core.data import Personalization


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
        Fewer than two, or two that share a token.
    ArtifactError
        They were made on different backbones.
    """
    from pcs_core import installed

    loaded = [p for p in (resolve_artifact(q) for q in artifacts) if p is not None]
    if len(loaded) < 2:
        raise InputError("a merge needs at least two personalizations")
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
    merged: Personalization = installed().get("mergers", method)(loaded, opened, **settings)
    return merged
