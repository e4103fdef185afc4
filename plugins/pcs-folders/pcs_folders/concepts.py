"""Who is in the pictures: ``--noun`` and ``--token``, or ``subject.toml``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pcs_core.data.concepts import check_concepts
from pcs_core.data.subject import Concept
from pcs_core.errors import InputError, nearest
from pcs_core.small_files import inside, read_toml
from pcs_folders.same_names import plain

FILE = "subject.toml"
KEYS = ("name", "token", "noun", "kind")


def read_concepts(folder: Path, *, noun: str | None, token: str | None) -> tuple[Concept, ...]:
    """Return the concepts of a subject folder.

    They come from its ``subject.toml``, else from ``noun`` and ``token``. Where both speak about a
    single concept, ``noun`` and ``token`` win.

    Raises
    ------
    InputError
        Neither says it, or what they say cannot be used.
    """
    file = folder / FILE
    if not file.exists():
        missing = [name for name, value in (("noun", noun), ("token", token)) if value is None]
        if missing:
            words = " and ".join(f"--{name}" for name in missing)
            raise InputError(f"{folder} has no {FILE}: give {words}")
        concepts: tuple[Concept, ...] = (_concept(str(token), str(noun)),)
        check_concepts(concepts, str(folder))
        check_noun(str(noun), str(folder))
        return concepts
    concepts = _read(file)
    if noun is not None or token is not None:
        if len(concepts) > 1:
            raise InputError(
                f"{file} names {len(concepts)} concepts: leave out --noun and --token, "
                "which name one"
            )
        (concept,) = concepts
        concepts = (replace(concept, noun=noun or concept.noun, token=token or concept.token),)
    check_concepts(concepts, str(file))
    for concept in concepts:
        check_noun(concept.noun, str(file))
    return concepts


def _read(file: Path) -> tuple[Concept, ...]:
    data = read_toml(inside(file.parent, file.name, file.parent))
    for key in data:
        if key != "concept":
            raise InputError(f"{file}: unknown table or key {key!r}: it holds [[concept]] tables")
    tables = data.get("concept")
    if not isinstance(tables, list) or not tables or not all(isinstance(t, dict) for t in tables):
        raise InputError(f"{file}: write a [[concept]] table with token and noun for each concept")
    return tuple(_from_table(table, f"{file}: concept {n}") for n, table in enumerate(tables, 1))


def _from_table(table: dict[str, Any], place: str) -> Concept:
    for key, value in table.items():
        if key not in KEYS:
            hint = nearest(key, KEYS) or f" (known: {', '.join(KEYS)})"
            raise InputError(f"{place}: unknown key {key!r}{hint}")
        if not isinstance(value, str):
            raise InputError(f"{place}: {key} must be text, got {value!r}")
    for key in ("token", "noun"):
        if key not in table:
            raise InputError(f"{place} has no {key}")
    concept = _concept(table["token"], table["noun"])
    return replace(concept, **{key: table[key] for key in ("name", "kind") if key in table})


def _concept(token: str, noun: str) -> Concept:
    return Concept(name=name_of(noun), token=token, noun=noun)


def name_of(noun: str) -> str:
    """Return the name of a concept that has none: its noun, as it may stand in the names of mask files."""
    return "-".join(re.findall(r"[^\s./\\]+", noun)) or noun


def check_noun(noun: str, place: str) -> None:
    """Refuse an article in front of a noun: prompts and captions put their own there.

    Raises
    ------
    InputError
        Says it without.
    """
    article, _, rest = noun.strip().partition(" ")
    if article.lower() in ("a", "an", "the") and rest.strip():
        raise InputError(f"{place}: noun {noun!r}: leave out the article: {rest.strip()!r}")


def called(word: str, concepts: Sequence[Concept]) -> str:
    """Return the name of the concept that ``word`` calls by its name, noun or token, else ``word`` itself.

    Its name as it stands comes first; case and normal form do not count where one concept alone is meant.
    """
    if any(concept.name == word for concept in concepts):
        return word
    spelled = plain(word).casefold()
    meant = {
        c.name
        for c in concepts
        for spelling in (c.name, c.noun, c.token)
        if plain(spelling).casefold() == spelled
    }
    return meant.pop() if len(meant) == 1 else word
