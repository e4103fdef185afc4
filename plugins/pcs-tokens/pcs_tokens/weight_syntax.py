r"""Two common ways to write weights into a prompt, read as pieces of text with a weight each.

``a1111``: ``parse_prompt_attention`` of the web UI of AUTOMATIC1111 (``modules/prompt_parser.py``): ``(word)``
weighs 1.1, ``[word]`` 1 / 1.1, ``(word:1.3)`` 1.3; brackets inside brackets multiply, one that nobody closes
reaches to the end, and ``\(``, ``\)``, ``\[``, ``\]``, ``\\`` are the signs themselves.

``compel``: ``doc/syntax.md`` of compel: ``word+`` and ``(some words)++`` weigh 1.1 and 1.1^2, ``word-`` 0.9,
``(some words)1.3`` 1.3; brackets inside brackets multiply, brackets without a weight vanish, and ``\(``,
``\)``, ``\+``, ``\-`` are the signs themselves.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from pcs_core.errors import InputError

Parts = tuple[tuple[str, float], ...]

_A1111 = re.compile(r"\\[()\[\]\\]|:\s*([+-]?\d*\.?\d+)\s*\)|[()\[\]]|[^()\[\]\\:]+|[\\:]")
_COMPEL = re.compile(
    r"\\[()\"+\-]|\(|\)(\++|-+|\d*\.?\d+)?"
    r"|(?:[^\s()\\+\-]|\\[()\"+\-]|[+\-]+(?![\s(),.;:!?+\-]|$))+(\++|-+)(?=[\s(),.;:!?]|$)"
    r"|[^()\\\s]+|\s+|\\"
)
_UNREAD_A1111 = {
    r"(?<!\\)\[[^\[\]]*(?:\|[^\[\]]*|:\s*[\d.]+\s*)\]": "words that change on the way ([a:b:0.5], [a|b])",
    r"\bAND\b": "prompts joined by AND",
    r"\bBREAK\b": "BREAK",
    r"<(?:lora|lyco|hypernet):[^>]*>": "files named in a prompt (fit or import an artifact)",
}
_UNREAD_COMPEL = {
    r"\)\s*\.(?:blend|and|add|swap|attend)\(": ".blend(), .and(), .swap() and .attend()",
    r"\b(?:withLora|useLora)\(": "files named in a prompt (fit or import an artifact)",
    r'(?<!\\)"[^"]*"(?:[+\-]|\.?\d)': 'a weight behind quotes: write (red car)+ for "red car"+',
}


def a1111(text: str) -> Parts:
    """Return the pieces of ``text`` with their weights, as the web UI of AUTOMATIC1111 reads them.

    Raises
    ------
    InputError
        Something of its syntax that is not read here.
    """
    _check(text, "a1111", _UNREAD_A1111)
    pieces: list[tuple[str, float]] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def close(bracket: str, factor: float) -> None:
        first = opened[bracket].pop()
        pieces[first:] = [(piece, weight * factor) for piece, weight in pieces[first:]]

    for match in _A1111.finditer(text):
        sign, number = match[0], match[1]
        if sign in opened:
            opened[sign].append(len(pieces))
        elif number is not None and opened["("]:
            close("(", float(number))
        elif sign == ")" and opened["("]:
            close("(", 1.1)
        elif sign == "]" and opened["["]:
            close("[", 1 / 1.1)
        else:
            pieces.append((sign[1:] if len(sign) == 2 and sign[0] == "\\" else sign, 1.0))
    for bracket, factor in (("(", 1.1), ("[", 1 / 1.1)):
        while opened[bracket]:
            close(bracket, factor)
    return _joined(pieces)


def compel(text: str) -> Parts:
    """Return the pieces of ``text`` with their weights, as compel reads them.

    Raises
    ------
    InputError
        Something of its syntax that is not read here; a bracket without its other one.
    """
    _check(text, "compel", _UNREAD_COMPEL)
    pieces: list[tuple[str, float]] = []
    opened: list[int] = []
    for match in _COMPEL.finditer(text):
        part, behind, signs = match[0], match[1], match[2]
        if part == "(":
            opened.append(len(pieces))
        elif part.startswith(")"):
            if not opened:
                raise _unpaired(")")
            first = opened.pop()
            factor = _factor(behind) if behind else 1.0
            pieces[first:] = [(piece, weight * factor) for piece, weight in pieces[first:]]
        elif signs:
            pieces.append((_bare(part[: -len(signs)]), _factor(signs)))
        else:
            pieces.append((_bare(part), 1.0))
    if opened:
        raise _unpaired("(")
    return _joined(pieces)


MOST = 1000.0
"""A weight beyond is a mistake: no picture comes of it, only overflow. As for scales and strengths."""
SIGNS = 1000
"""Signs behind a word that are told apart: so many ``+`` are far beyond that weight, so many ``-`` are none."""
SYNTAXES: Mapping[str, Callable[[str], Parts]] = {"a1111": a1111, "compel": compel}


def _factor(written: str) -> float:
    """Return the weight that signs or a number say."""
    if written[0] in "+-":
        return float((1.1 if written[0] == "+" else 0.9) ** min(len(written), SIGNS))
    return float(written)


def _bare(text: str) -> str:
    """Return ``text`` without the strokes that say that a sign is itself."""
    return re.sub(r"\\([()\"+\-])", r"\1", text)


def _joined(pieces: list[tuple[str, float]]) -> Parts:
    """Return the pieces, neighbours of one weight joined, empty ones left out.

    Raises
    ------
    InputError
        A weight is none that a picture comes of.
    """
    joined: list[tuple[str, float]] = []
    for text, weight in pieces:
        if not abs(weight) <= MOST:
            raise InputError(
                f"{text.strip()[:40]!r} would weigh {weight:g}: give brackets, signs or a number that make "
                f"{MOST:g} or less"
            )
        if joined and joined[-1][1] == weight:
            joined[-1] = (joined[-1][0] + text, weight)
        elif text:
            joined.append((text, weight))
    return tuple(joined)


def _check(text: str, syntax: str, unread: Mapping[str, str]) -> None:
    for pattern, what in unread.items():
        if match := re.search(pattern, text):
            raise InputError(
                f"{match[0]!r} is of {syntax}'s syntax, which is read for weights alone and not for {what}"
            )


def _unpaired(bracket: str) -> InputError:
    return InputError(
        f"a bracket {bracket!r} has no other one: write \\{bracket} for a bracket that is one"
    )
