"""Do the uses of a recipe understand each other: is each word that one reads written, and by one alone?"""

from __future__ import annotations

from collections.abc import Sequence

from pcs_core.data.recipe import Use
from pcs_core.data.words import EXCLUSIVE, GIVEN, meet
from pcs_core.errors import ConflictError, RecipeError, nearest


def check_words(uses: Sequence[Use], places: Sequence[str]) -> None:
    """Refuse what would be missing, or given twice, before anything is opened.

    ``places`` say where each use stands ("my.toml:12").

    Raises
    ------
    RecipeError
        A use reads a word that nobody writes; names the nearest one that somebody does.
    ConflictError
        Two uses write a word that has one writer; names both.
    """
    spoken = {use.name: use.technique.words() for use in uses}
    writers: dict[str, str] = {}
    for use, place in zip(uses, places, strict=True):
        for word in spoken[use.name].writes:
            if word.partition(":")[0] in EXCLUSIVE and word in writers:
                kind, _, name = word.partition(":")
                raise ConflictError(
                    f"{place}: the {kind} {name!r} is written by both {writers[word]!r} and "
                    f"{use.name!r}: give one of them another key, or leave it out"
                )
            writers.setdefault(word, use.name)
    known = (*writers, *GIVEN)
    for use, place in zip(uses, places, strict=True):
        for word in spoken[use.name].reads:
            if not any(meet(word, written) for written in known):
                kind, _, name = word.partition(":")
                alike = [w.partition(":")[2] for w in known if w.startswith(f"{kind}:")]
                raise RecipeError(
                    f"{place}: {use.name} reads the {kind} {name!r}, which no technique of the recipe "
                    f"gives{nearest(name, alike)} ({kind}s written: {', '.join(alike) or 'none'}): add "
                    "one that does"
                )
