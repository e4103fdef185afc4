"""How the results of a hook become one: product, union, concatenation, sum, or a named conflict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from pcs_core.errors import CapabilityError, ConflictError

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
    CapabilityError
        A use gives transforms, which nothing applies so far.
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
        if features.transforms:
            _refuse(name, "Features.transforms")
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
    CapabilityError
        A use sets a field that nothing reads so far.
    """
    from pcs_core.data import Fusion

    lists: dict[str, list[Any]] = {
        k: []
        for k in (
            "words tokens attention weights layers pixels swaps injections streams branches heads "
            "rows records guidance".split()
        )
    }
    maps: dict[str, dict[str, Any]] = {"strengths": {}, "dropout": {}}
    named: dict[tuple[str, str], str] = {}
    single: dict[str, Any] = {"source": None, "noise_law": None, "decoder": None}
    origin: dict[str, str] = {}
    speakers: list[tuple[str, Word]] = []
    unread: list[tuple[str, str]] = []
    for name, fusion in results:
        for key, target in lists.items():
            target += getattr(fusion, key)
        speakers += [(name, word) for word in fusion.words]
        unread += [(name, field) for field in _unread(fusion)]
        for edit in fusion.edits():
            edit.owner = name
        for key, entries in _names(fusion):
            for entry in entries:
                if (other := named.setdefault((key, entry), name)) != name:
                    raise ConflictError(
                        f"the {key} {entry!r} is claimed by both {other!r} and {name!r}"
                    )
        for key, table in maps.items():
            for entry, value in getattr(fusion, key).items():
                if entry in table:
                    raise ConflictError(
                        f"{key[:-1]} {entry!r} is claimed by both {origin[key + entry]!r} and {name!r}"
                    )
                table[entry], origin[key + entry] = value, name
        for key in single:
            if (value := getattr(fusion, key)) is not None:
                if single[key] is not None:
                    raise ConflictError(f"{key} is claimed by both {origin[key]!r} and {name!r}")
                single[key], origin[key] = value, name
    parts: dict[str, Any] = {k: tuple(v) for k, v in lists.items()} | maps | single
    merged = Fusion(**parts, origin=origin)
    check_claims(merged.edits())
    check_placeholders(merged, speakers)
    for name, seam in unread:
        _refuse(name, seam)
    return merged


def _names(fusion: Fusion) -> Iterable[tuple[str, list[str]]]:
    """Yield what must have one owner in a run, by kind."""
    yield "stream", [e.name for e in fusion.streams]
    yield "control branch", [e.name for e in fusion.branches]
    yield "head", [e.name for e in fusion.heads]
    yield "row", [r.role for r in fusion.rows]


def _unread(fusion: Fusion) -> Iterable[str]:
    """Yield what ``fusion`` sets although nothing reads it so far."""
    for term in fusion.guidance:
        if term.mask is not None:
            yield "GuidanceTerm.mask"


def _refuse(use: str, seam: str) -> None:
    raise CapabilityError(
        f"the use {use!r} sets {seam}, which nothing in this version reads: leave it out"
    )


def check_claims(edits: Sequence[Edit]) -> None:
    """Refuse two edits that claim the same exclusive thing at the same site.

    Exclusive: ``weight`` and ``call`` per layer (a swap and an injection claim the weight too), edits
    that declare ``claims = ("probs",)`` or ``("out",)`` per attention site (rewriting, not adding).

    Raises
    ------
    ConflictError
        Names both uses and the place.
    """
    held: dict[tuple[str, str], str] = {}
    for edit in edits:
        for place, claim in _claims(edit):
            other = held.setdefault((place, claim), edit.owner)
            if other != edit.owner:
                raise ConflictError(
                    f"{other!r} and {edit.owner!r} both claim the {claim} of {place}: "
                    "remove one of them or narrow its sites"
                )


def _claims(edit: Edit) -> Iterable[tuple[str, str]]:
    from pcs_core.data import AttnEdit, InjectEdit, SwapEdit, WeightEdit

    if isinstance(edit, WeightEdit) and edit.stage() in {"weight", "call"}:
        yield str(edit.site), edit.stage()
    elif isinstance(edit, AttnEdit):
        for claim in edit.claims:
            yield str(edit.site), claim
    elif isinstance(edit, SwapEdit):
        for path in edit.paths:
            yield f"{edit.part}:{path.rpartition('.')[0]}", "weight"
    elif isinstance(edit, InjectEdit):
        for claim in edit.claims:
            yield claim, "weight"


def check_placeholders(fusion: Fusion, words: Sequence[tuple[str, Word]]) -> None:
    """Refuse a placeholder that two uses give a meaning; the one of the first would be lost silently.

    ``words`` are the plain-text placeholders with the names of their uses.

    Raises
    ------
    ConflictError
        Names both uses and the placeholder.
    """
    held: dict[tuple[str, int | None], str] = {}
    for name, word in words:
        for (token, subject), other in list(held.items()):
            shared = subject == word.subject or None in (subject, word.subject)
            if token == word.token and shared and other != name:
                raise ConflictError(
                    f"the token {token!r} is replaced by plain text by both {other!r} and {name!r}: "
                    "remove one of them"
                )
        held[word.token, word.subject] = name
    replaced = {word.token: name for name, word in words}
    owners: dict[str, str] = {}
    for edit in fusion.tokens:
        for token in edit.tokens:
            if edit.stage() == "output":  # edits of the encoder's output chain, on any words
                continue
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


def flatten_losses(results: Named, wanted: Sequence[str] = ("*",)) -> list[Loss]:
    """Return the loss terms of all uses in order, those that match ``wanted``; duplicates conflict."""
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
            if any(fnmatchcase(loss.name, glob) for glob in wanted):
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
