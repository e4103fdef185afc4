"""Several personalizations in one drawing, each as it is: nothing is merged, and nothing written.

Their edits stand side by side on one network, so that low-rank updates add up (W + B A + B' A') and learned
words stand in one prompt. What two of them cannot both have is refused from their recipes and the names of
their tensors, before any network is opened.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcs_core.arguments import checks_arguments
from pcs_core.errors import ArtifactError, InputError
from pcs_engine.opening import resolve_artifact
from pcs_merging.plain_uses import acts, is_plain, rare_word, rewrites

if TYPE_CHECKING:
    from pcs_core.data import Personalization, Use

LOGGER = logging.getLogger("pcs")


@checks_arguments
def stack_personalizations(
    artifacts: Sequence[Personalization | Path | str], names: Sequence[str] | None = None
) -> Personalization:
    """Return personalizations of one backbone as one to draw with, the first as it is and the others behind it.

    The others' uses are called ``"<name>:<use>"``, by ``names`` (default: of their folders, else subjects). A
    token that was taken before gets a number: ``<dog>`` becomes ``<dog-2>``. The numbers of a drawing are the
    first one's.

    Raises
    ------
    InputError
        None, or several that want the same thing for themselves: a layer's weight, or what a drawing has once.
    ArtifactError
        They were made on different backbones.
    """
    given = list(artifacts)
    loaded = [p for p in (resolve_artifact(q) for q in given) if p is not None]
    if not loaded or len(loaded) < len(given):
        raise InputError("give personalizations to draw with, at least one")
    if len(loaded) == 1:
        return loaded[0]
    labels = labelled(names or [name_of(q, p) for q, p in zip(given, loaded, strict=True)])
    check_one_backbone(loaded, labels)
    check_layers(loaded, labels)
    lead = leading(loaded, labels)
    tell_shared_identifiers(loaded, labels)
    parts = with_own_tokens(loaded)
    order = [lead, *(i for i in range(len(parts)) if i != lead)]  # its concepts are counted first
    first = parts[0]
    prefixes = ["", *(f"{label}:" for label in labels[1:])]
    return replace(
        first,
        recipe=replace(
            first.recipe,
            id="+".join(p.recipe.id for p in parts),
            uses=tuple(
                replace(use, name=prefix + use.name)
                for prefix, part in zip(prefixes, parts, strict=True)
                for use in part.recipe.uses
            ),
        ),
        concepts=tuple(c for i in order for c in parts[i].concepts),
        tensors={
            prefix + name: value
            for prefix, part in zip(prefixes, parts, strict=True)
            for name, value in part.tensors.items()
        },
        features=parts[lead].features,
        losses={},
        subject="+".join(p.subject for p in parts),
        extra={"words": {t: w for p in parts for t, w in _words(p).items()}},
        parts=tuple(zip(prefixes, parts, strict=True)),
    )


def labelled(names: Sequence[str]) -> list[str]:
    """Return ``names`` without signs that strengths are written with, and no two alike."""
    labels: list[str] = []
    for name in names:
        plain = re.sub(r"[:=/\s]+", "-", name) or "artifact"
        labels.append(_free(plain, labels, "{}-{}"))
    return labels


def check_one_backbone(parts: Sequence[Personalization], labels: Sequence[str]) -> None:
    """Refuse personalizations of different weights.

    Raises
    ------
    ArtifactError
        Names both, and their backbones.
    """
    first = parts[0].backbone
    for label, part in zip(labels[1:], parts[1:], strict=True):
        if part.backbone.hash != first.hash:
            raise ArtifactError(
                f"{labels[0]!r} was made on backbone {first.id!r} (sha256 {first.hash[:12]}), {label!r} on "
                f"{part.backbone.id!r} ({part.backbone.hash[:12]}): only those of one backbone draw together"
            )


def check_layers(parts: Sequence[Personalization], labels: Sequence[str]) -> None:
    """Refuse two that each rewrite the weight of one layer.

    Raises
    ------
    InputError
        Names both, their uses and the layer.
    """
    layers = [rewritten(part) for part in parts]
    for i, j in combinations(range(len(parts)), 2):
        for layer in layers[i].keys() & layers[j].keys():
            raise InputError(
                f"{labels[i]!r} ({layers[i][layer]}) and {labels[j]!r} ({layers[j][layer]}) both rewrite the "
                f"weight of {layer}, which one of them can: draw with one, or merge them (pcs merge)"
            )


def rewritten(part: Personalization) -> dict[str, str]:
    """Return layer -> use of the weights that ``part`` has for itself, from the names of its tensors."""
    uses = {u.name for u in part.recipe.uses if rewrites(u)}
    layers = {}
    for name in part.tensors:
        owner, *rest = name.split("/")
        if owner in uses:
            # "<layer>/<param>" or "<part>/<path of a parameter>"
            path = next((word for word in rest if "." in word), rest[0])
            layers[re.sub(r"\.(weight|bias)$", "", path)] = owner
    return layers


def leading(parts: Sequence[Personalization], labels: Sequence[str]) -> int:
    """Return the index of the one that does more than to change weights and words; 0 where none does.

    Raises
    ------
    InputError
        Two do: names both, and one use of each.
    """
    more = {i: use for i, part in enumerate(parts) if (use := beyond(part)) is not None}
    if len(more) > 1:
        (i, one), (j, other), *_ = more.items()
        raise InputError(
            f"{labels[i]!r} ({one.technique.id}) and {labels[j]!r} ({other.technique.id}) cannot draw "
            "together: of what does more than to change weights and words, a drawing has one"
        )
    return next(iter(more), 0)


def beyond(part: Personalization) -> Use | None:
    """Return the first use that acts in a drawing and is not plain."""
    for use in part.recipe.uses:
        if acts(use) and not is_plain(use):
            return use
    return None


def tell_shared_identifiers(parts: Sequence[Personalization], labels: Sequence[str]) -> None:
    """Warn where two were taught by one rare string: what one learned shows in the other's subject too."""
    owners: dict[str, str] = {}
    for label, part in zip(labels, parts, strict=True):
        for use in part.recipe.uses:
            rare = rare_word(use)
            if rare and owners.setdefault(rare, label) != label:
                LOGGER.warning(
                    "%r and %r share the identifier %r: features of one subject may appear in the other",
                    *(owners[rare], label, rare),
                )


def with_own_tokens(parts: Sequence[Personalization]) -> list[Personalization]:
    """Return ``parts`` with tokens that no two share: a later one's gets a number."""
    taken: list[str] = []
    renamed = []
    for part in parts:
        names = {}
        for concept in part.concepts:
            names[concept.token] = _free(concept.token, taken, "{}-{}")
            taken.append(names[concept.token])
        renamed.append(_renamed(part, names) if any(k != v for k, v in names.items()) else part)
    return renamed


def _renamed(part: Personalization, names: Mapping[str, str]) -> Personalization:
    tensors = {
        "/".join(names.get(word, word) for word in name.split("/")): value
        for name, value in part.tensors.items()
    }
    words = {
        names.get(token, token): {**word, "text": _replaced(word["text"], names)}
        for token, word in _words(part).items()
    }
    return replace(
        part,
        concepts=tuple(replace(c, token=names[c.token]) for c in part.concepts),
        tensors=tensors,
        extra={**part.extra, "words": words} if words else part.extra,
    )


def _replaced(text: str, names: Mapping[str, str]) -> str:
    """Return a word's text with the tokens in it renamed ("<dog> dog")."""
    return " ".join(names.get(word, word) for word in text.split(" "))


def _words(part: Personalization) -> Mapping[str, Any]:
    words: Mapping[str, Any] = part.extra.get("words", {})
    return words


def _free(name: str, taken: Sequence[str], form: str) -> str:
    """Return ``name``, or with the first number that makes it none of ``taken``: "<dog>" -> "<dog-2>"."""
    number, free = 2, name
    while free in taken:
        closed = name.endswith(">")
        free = form.format(name.removesuffix(">") if closed else name, number) + ">" * closed
        number += 1
    return free


def name_of(given: Any, part: Personalization) -> str:
    """Return what a personalization is called: by its folder, where it was given as one, else its subject."""
    return Path(given).name if isinstance(given, str | Path) else part.subject
