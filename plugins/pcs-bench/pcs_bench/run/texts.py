"""A suite's prompt as a tuned system is told it, and in plain words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pcs_core.data import Concept

_PAIR = re.compile(r"\b(?:an? )?\{token(\d*)\} \{noun\1\}")
_TOKEN = re.compile(r"(\b(?:an?|the|my|his|her|this|that) )?\{token(\d*)\}")
_NOUN = re.compile(r"(\ban? )?\{noun(\d*)\}")


def with_tokens(text: str, concepts: Sequence[Concept]) -> str:
    """Return the prompt with placeholders: ``"a {token} {noun}"`` and ``"{token}"`` are the token.

    A placeholder stands for the whole subject: whether it also says the noun is the system's affair.
    ``{token2}`` and ``{noun2}`` are those of a second concept.
    """
    text = _PAIR.sub(lambda m: _concept(concepts, m[1]).token, text)
    text = _TOKEN.sub(lambda m: (m[1] or "") + _concept(concepts, m[2]).token, text)
    return _NOUN.sub(lambda m: _noun(_concept(concepts, m[2]).noun, m[1]), text)


def plain(text: str, concepts: Sequence[Concept]) -> str:
    """Return the prompt in words that everyone knows: what is measured, and what is told untuned."""
    text = _PAIR.sub(lambda m: _article(_concept(concepts, m[1]).noun), text)

    def named(match: re.Match[str]) -> str:
        noun = _concept(concepts, match[2]).noun
        if match[1] and match[1].strip().lower() not in ("a", "an"):
            return match[1] + noun
        return _article(noun)

    text = _TOKEN.sub(named, text)
    return _NOUN.sub(lambda m: _noun(_concept(concepts, m[2]).noun, m[1]), text)


def _concept(concepts: Sequence[Concept], number: str) -> Concept:
    return concepts[min(max(int(number or 1), 1), len(concepts)) - 1]


def _noun(noun: str, article: str | None) -> str:
    return _article(noun) if article else noun


def _article(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"
