"""Where the uses of a recipe meet: each word that one writes or reads, and who does."""

from __future__ import annotations

from collections.abc import Sequence

from pcs_core.data.recipe import FurtherModel, Use
from pcs_core.data.words import GIVEN, meet


def meetings(
    uses: Sequence[Use], models: Sequence[FurtherModel] = ()
) -> list[tuple[str, str, tuple[str, ...], tuple[str, ...]]]:
    """Return (kind, name, uses that write it, uses that read it) of each word of a recipe, in order.

    A word of the user or the engine that nobody reads is left out. A model is the recipe's own word.
    """
    named = [f"model:{model.name}" for model in models]
    spoken = {use.name: use.technique.words() for use in uses}
    written = dict.fromkeys(word for words in spoken.values() for word in words.writes)
    asked = dict.fromkeys(w for words in spoken.values() for w in (*words.reads, *words.may_read))
    rows = []
    for word in dict.fromkeys((*written, *asked)):
        writers = tuple(
            u for u, words in spoken.items() if any(meet(word, w) for w in words.writes)
        )
        readers = tuple(
            u
            for u, words in spoken.items()
            if any(meet(w, word) for w in (*words.reads, *words.may_read))
        )
        if any(meet(word, given) for given in GIVEN):
            writers = ("(given)", *writers)
        if any(meet(word, mine) for mine in named):
            writers = ("(the recipe)", *writers)
        if writers:
            kind, _, name = word.partition(":")
            rows.append((kind, name, writers, readers))
    return rows
