"""Do the uses of a recipe understand each other: is each word that one reads written, and by one alone?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pcs_core.data.recipe import Use
from pcs_core.data.words import EXCLUSIVE, GIVEN, meet
from pcs_core.errors import ConflictError, RecipeError, nearest


def check_words(
    uses: Sequence[Use], places: Sequence[str], models: Mapping[str, str] | None = None
) -> None:
    """Refuse what would be missing, or given twice, before anything is opened.

    ``places`` say where each use stands ("my.toml:12"), ``models`` where each of the recipe's further models
    does.

    Raises
    ------
    RecipeError
        A use reads a word that nobody writes; names the nearest one that somebody does. Or no use asks
        one of the models.
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
    models = models or {}
    known = (*writers, *GIVEN, *(f"model:{name}" for name in models))
    for use, place in zip(uses, places, strict=True):
        for word in spoken[use.name].reads:
            if not any(meet(word, written) for written in known):
                kind, _, name = word.partition(":")
                alike = [w.partition(":")[2] for w in known if w.startswith(f"{kind}:")]
                if kind == "model":
                    raise RecipeError(
                        f"{place}: {use.name} asks a model {name!r}, and the recipe has no [[model]] of that "
                        f"name{nearest(name, alike)} (it has: {', '.join(alike) or 'none'})"
                    )
                raise RecipeError(
                    f"{place}: {use.name} reads the {kind} {name!r}, which no technique of the recipe "
                    f"gives{nearest(name, alike)} ({kind}s written: {', '.join(alike) or 'none'}): add "
                    "one that does"
                )
    asked = [w for words in spoken.values() for w in (*words.reads, *words.may_read)]
    for name, place in models.items():
        if not any(meet(word, f"model:{name}") for word in asked):
            raise RecipeError(
                f"{place}: no technique of the recipe asks the model {name!r}: leave it out, or "
                "add one that does"
            )
