"""What of personalizations merges in closed form: learned words, and deltas of the text's keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pcs_core.backbone import select_sites
from pcs_core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Personalization, Use

TOKENS = ("tokens.learnable",)
"""Techniques whose tensors a merge keeps, by token."""

DELTAS = ("weights.kv", "weights.merge")
"""Techniques whose deltas it merges."""

START_ONLY = frozenset({"init", "init_word", "noise", "sigma", "templates"})
"""Settings of a token that mean nothing once it is trained."""


def token_uses(artifact: Personalization) -> list[Use]:
    """Return the uses that hold learned tokens, in recipe order.

    Raises
    ------
    InputError
        Another use, neither tokens nor key/value deltas, acts on the pictures: merging would lose it.
    """
    for use in artifact.recipe.uses:
        # what has neither hook acts in a fit alone
        acts = any(hasattr(use.technique, hook) for hook in ("fuse", "sample"))
        if acts and use.technique.id not in (*TOKENS, *DELTAS):
            raise InputError(
                f"{artifact.subject!r}: what the use {use.name!r} ({use.technique.id}) does would be lost: "
                f"only systems of {', '.join((*TOKENS, *DELTAS))} merge"
            )
    owners = {use.name for use in artifact.recipe.uses if use.technique.id in (*TOKENS, *DELTAS)}
    for name in artifact.tensors:
        if (owner := name.split("/", 1)[0]) not in owners:
            raise InputError(
                f"{artifact.subject!r}: the tensors of the use {owner!r} would be lost: "
                f"only systems of {', '.join((*TOKENS, *DELTAS))} merge"
            )
    return [use for use in artifact.recipe.uses if use.technique.id in TOKENS]


def check_words(artifacts: Sequence[Personalization], words: Sequence[Sequence[Use]]) -> None:
    """Refuse personalizations whose tokens one recipe cannot hold.

    Raises
    ------
    InputError
        Names the personalization, the use and the setting.
    """
    first = words[0]
    for artifact, uses in zip(artifacts[1:], words[1:], strict=True):
        if len(uses) != len(first):
            raise InputError(
                f"{artifact.subject!r} has {len(uses)} uses of tokens.learnable "
                f"({', '.join(u.name for u in uses) or 'none'}), {artifacts[0].subject!r} has "
                f"{len(first)} ({', '.join(u.name for u in first) or 'none'}): they do not merge"
            )
        for ours, theirs in zip(first, uses, strict=True):
            settings, expected = theirs.technique.settings(), ours.technique.settings()
            for key, value in settings.items():
                if key not in START_ONLY and value != expected[key]:
                    raise InputError(
                        f"{artifact.subject!r}: the use {theirs.name!r} has {key} = {value!r}, "
                        f"{artifacts[0].subject!r} has {expected[key]!r}: fit one of them again"
                    )


def check_sites(artifact: Personalization, keys: Sequence[str], backbone: Any) -> None:
    """Refuse deltas of projections that do not read the text.

    Raises
    ------
    InputError
        Names the personalization and the site.
    """
    cross = {site.name for site in select_sites(backbone.sites, "cross")}
    for key in keys:
        if (site := key.rpartition("/")[0]) not in cross:
            raise InputError(
                f"{artifact.subject!r} has a delta at {site!r}, which is no cross attention: "
                "only keys and values of the text merge"
            )


def deltas_of(artifact: Personalization) -> dict[str, Tensor]:
    """Return the key/value deltas in force, by ``"<site>/<k or v>"``, the strength multiplied in.

    Raises
    ------
    InputError
        The personalization has none, or also deltas of another projection.
    """
    deltas: dict[str, Tensor] = {}
    for use in artifact.recipe.uses:
        if use.technique.id not in DELTAS:
            continue
        strength = float(getattr(use.technique, "strength", 1.0))
        for name, value in artifact.tensors.items():
            owner, _, key = name.partition("/")
            if owner != use.name:
                continue
            if (part := key.rpartition("/")[2]) not in ("k", "v"):
                raise InputError(
                    f"{artifact.subject!r}: the use {use.name!r} has deltas of {part!r}: only keys and "
                    'values merge; fit with parts = ["k", "v"]'
                )
            deltas[key] = deltas[key] + strength * value if key in deltas else strength * value
    if not deltas:
        raise InputError(
            f"{artifact.subject!r} (recipe {artifact.recipe.id!r}) has no key/value deltas: these are what "
            "merges in closed form or as an average, of weights.kv, as in custom-diffusion; --method sum "
            "adds up low-rank updates and learned words, --method gradient-fusion fuses low-rank updates"
        )
    return deltas
