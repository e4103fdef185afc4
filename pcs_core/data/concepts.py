"""What concepts may be called, so that a prompt, a caption and a file's name can speak of each."""

from __future__ import annotations

from collections.abc import Sequence

from pcs_core.data.subject import Concept
from pcs_core.errors import InputError


def check_concepts(concepts: Sequence[Concept], place: str) -> None:
    """Refuse tokens, nouns and names that could not be told apart; ``place`` begins the message.

    Raises
    ------
    InputError
        Names the concept's token or noun and what to do.
    """
    for concept in concepts:
        if not isinstance(concept, Concept):
            raise InputError(f"{place}: {concept!r} is no Concept: give Concept(name, token, noun)")
        for key in ("name", "token", "noun"):
            if not isinstance(getattr(concept, key), str):
                raise InputError(f"{place}: {key} must be text, got {getattr(concept, key)!r}")
        token, noun = concept.token, concept.noun
        if not token or any(c.isspace() or not c.isprintable() for c in token):
            raise InputError(f"{place}: token {token!r}: give one word without spaces, as <dog>")
        if "/" in token:
            raise InputError(f"{place}: token {token!r}: leave out '/'")
        if not noun.strip() or not noun.isprintable():
            raise InputError(f"{place}: noun {noun!r}: give the class of the thing, as dog")
        if token.casefold() == noun.casefold():
            raise InputError(
                f"{place}: the token {token!r} is the noun itself: give a word of its own, "
                f"as <my-{noun.replace(' ', '-')}>"
            )
        if not concept.name or any(c.isspace() or c in "./\\" for c in concept.name):
            raise InputError(
                f"{place}: concept name {concept.name!r}: it names mask files, so leave out "
                "spaces, dots and slashes"
            )
    _check_apart(concepts, place)


def _check_apart(concepts: Sequence[Concept], place: str) -> None:
    for index, concept in enumerate(concepts):
        for other in concepts[:index]:
            if concept.name == other.name:
                raise InputError(f"{place}: two concepts are called {concept.name!r}: rename one")
            if concept.token in other.token or other.token in concept.token:
                raise InputError(
                    f"{place}: the tokens {other.token!r} and {concept.token!r} contain one "
                    "another: a prompt could not tell them apart"
                )
