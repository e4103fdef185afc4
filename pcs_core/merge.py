"""How the results of a hook become one: product, union, concatenation, sum, or a named conflict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from pcs_core.errors import ConflictError

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Batch, Edit, Features, Fusion, Loss, Masks, Word

Named = Iterable[tuple[str, Any]]
"""Pairs of (name of the use, what its hook returned), in recipe order."""


def merge_masks(results: Iterable[Masks], given: Mapping[str, Tensor] | None = None) -> Masks:
    """Multiply masks of the same key, unite keys; masks ``given`` by the user replace techniques'."""
    from pcs_core.data import Masks

    merged: dict[str, Tensor] = {}
    for masks in results:
        for key, value in masks.by_name.items():
            merged[key] = merged[key] * value if key in merged else value
    return Masks({**merged, **(given or {})})


def merge_features(results: Named) -> Features:
    """Unite tensors (a duplicate key is a conflict); examples and captions concatenate.

    Raises
    ------
    ConflictError
        Two uses give a tensor of one key.
    """
    from pcs_core.data import Features

    tensors: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    examples, captions, keep = [], [], []
    for name, features in results:
        for key, value in features.tensors.items():
            if key in tensors:
                raise ConflictError(f"features {key!r} come from both {origin[key]!r} and {name!r}")
            tensors[key], origin[key] = value, name
        examples += features.examples
        captions += features.captions
        keep += features.keep
    return Features(
        tensors=tensors,
        examples=tuple(examples),
        captions=tuple(dict.fromkeys(captions)),
        keep=tuple(keep),
        origin=origin,
    )


def merge_fusions(results: Named) -> Fusion:
    """Concatenate edits in recipe order, mark each with its owner, refuse clashing exclusive claims.

    Raises
    ------
    ConflictError
        Two uses claim the same thing.
    """
    from pcs_core.data import Fusion

    results = list(results)
    for name, fusion in results:
        for edit in fusion.edits:
            edit.owner = name
    merged: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for field in fields(Fusion):
        if field.name != "origin":
            answers = [(name, getattr(fusion, field.name)) for name, fusion in results]
            if isinstance(field.default, tuple):
                merged[field.name] = tuple(entry for _, answer in answers for entry in answer)
            else:
                only = _only if field.default is None else _union
                merged[field.name] = only(field.name, answers, origin)
    fusion = Fusion(**merged, origin=origin)
    check_claims(fusion.edits)
    check_names(results)
    check_placeholders(fusion, [(n, word) for n, one in results for word in one.words])
    return fusion


def _union(
    what: str, answers: Sequence[tuple[str, Mapping[str, Any]]], origin: dict[str, str]
) -> dict[str, Any]:
    """Return the union of the mappings; ``origin`` learns where each entry is from."""
    united: dict[str, Any] = {}
    for name, entries in answers:
        for entry, value in entries.items():
            if entry in united:
                raise ConflictError(
                    f"{what.removesuffix('s')} {entry!r} is claimed by both {origin[what + entry]!r} "
                    f"and {name!r}"
                )
            united[entry], origin[what + entry] = value, name
    return united


def _only(what: str, answers: Sequence[tuple[str, Any]], origin: dict[str, str]) -> Any:
    """Return the one answer that is not None; ``origin`` learns where it is from."""
    answer = None
    for name, value in answers:
        if value is not None:
            if answer is not None:
                raise ConflictError(f"{what} is claimed by both {origin[what]!r} and {name!r}")
            answer, origin[what] = value, name
    return answer


def check_names(results: Sequence[tuple[str, Fusion]]) -> None:
    """Refuse a name that must have one owner in a run and has two.

    Raises
    ------
    ConflictError
        Names both uses, and what is named.
    """
    owners: dict[tuple[str, str], str] = {}
    for name, fusion in results:
        named = [pair for edit in fusion.edits for pair in edit.sole_names()]
        roles = [row.role for row in fusion.rows] + [row.role for row in fusion.fit_rows]
        for pair in (*named, *(("row", role) for role in roles)):
            if (other := owners.setdefault(pair, name)) != name:
                raise ConflictError(
                    f"the {pair[0]} {pair[1]!r} is claimed by both {other!r} and {name!r}"
                )


def check_claims(edits: Sequence[Edit]) -> None:
    """Refuse two edits of different uses that claim the same thing at the same place.

    What a kind of edit claims, it says itself (:meth:`pcs_core.data.Edit.exclusive`).

    Raises
    ------
    ConflictError
        Names both uses and the place.
    """
    owners: dict[tuple[str, str], str] = {}
    for edit in edits:
        for place, claim in edit.exclusive():
            other = owners.setdefault((place, claim), edit.owner)
            if other != edit.owner:
                raise ConflictError(
                    f"{other!r} and {edit.owner!r} both claim the {claim} of {place}: "
                    "remove one of them or narrow its sites"
                )


def check_placeholders(fusion: Fusion, words: Sequence[tuple[str, Word]]) -> None:
    """Refuse a placeholder that two uses give a meaning; the one of the first would be lost silently.

    ``words`` are the plain-text placeholders with the names of their uses.

    Raises
    ------
    ConflictError
        Names both uses and the placeholder.
    """
    named: dict[tuple[str, int | None], str] = {}
    for name, word in words:
        for (token, subject), other in list(named.items()):
            shared = subject == word.subject or None in (subject, word.subject)
            if token == word.token and shared and other != name:
                raise ConflictError(
                    f"the token {token!r} is replaced by plain text by both {other!r} and {name!r}: "
                    "remove one of them"
                )
        named[word.token, word.subject] = name
    replaced = {word.token: name for name, word in words}
    owners: dict[str, str] = {}
    for edit in fusion.edits:
        for token in edit.placeholders():
            # a use may say what stands around its own token ("<dog>" -> "<dog> dog")
            if token in replaced and replaced[token] != edit.owner:
                raise ConflictError(
                    f"the token {token!r} is both replaced by plain text by {replaced[token]!r} and "
                    f"learned by {edit.owner!r}: use one of the two"
                )
            if owners.setdefault(token, edit.owner) != edit.owner:
                raise ConflictError(
                    f"the token {token!r} is learned by both {owners[token]!r} and {edit.owner!r}: "
                    "remove one of them"
                )


def flatten_losses(results: Named, globs: Sequence[str] = ("*",)) -> list[Loss]:
    """Return the loss terms of all uses in order, those that match ``globs``; duplicates conflict."""
    losses: list[Loss] = []
    owner: dict[str, str] = {}
    for name, result in results:
        for loss in [result] if hasattr(result, "value") else list(result):
            if loss.name in owner:
                raise ConflictError(
                    f"loss {loss.name!r} comes from both {owner[loss.name]!r} and {name!r}: "
                    "give one of the uses a name"
                )
            owner[loss.name] = name
            if any(fnmatchcase(loss.name, glob) for glob in globs):
                losses.append(loss)
    return losses


def reduce_loss(loss: Loss, batch: Batch) -> Tensor:
    """Return the loss per subject [S]: example weights applied, mean over its rows in each subject.

    A subject without rows of this loss contributes zero.
    """
    import torch

    rows = torch.ones_like(batch.weight) if loss.rows is None else loss.rows.to(batch.weight.dtype)
    value = loss.value.float() * batch.weight * rows
    zeros = torch.zeros(batch.subjects, dtype=torch.float32, device=value.device)
    total = zeros.index_add(0, batch.subject, value)
    count = zeros.index_add(0, batch.subject, rows.float())
    return loss.weight * total / count.clamp_min(1.0)
