"""How words stand in a text: Unicode's normal form, and where a word begins and ends."""

from __future__ import annotations

import re
import unicodedata

UNSPACED = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai and Lao, Burmese, Khmer
    r"\u1100-\u11ff\uac00-\ud7af"  # Korean, whose particles follow a noun without a space
    r"\u3005-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Japanese, Chinese
)
"""Letters of scripts that put no space between words: nothing says there where a word ends."""
LETTER = rf"[^\W{UNSPACED}]"


def composed(text: str) -> str:
    """Return ``text`` in Unicode's normal form C: an accent may be typed as one character or as two.

    CLIP's tokenizer reads its text in this form, so that the ids of a prompt stay the same.
    """
    return unicodedata.normalize("NFC", text)


def token_pattern(token: str, *, any_case: bool = False) -> str:
    """Return the regular expression of ``token`` where it stands by itself, not inside a word.

    Both it and the text are to be :func:`composed`. In scripts without spaces every place counts. Case
    counts, as a token is a name; ``any_case`` is for words of the language.
    """
    token = composed(token)
    before = rf"(?<!{LETTER})" if re.match(LETTER, token) else ""
    after = rf"(?!{LETTER})" if re.search(rf"{LETTER}\Z", token) else ""
    words = r"\s+".join(map(re.escape, re.split(r"\s+", token)))
    return before + (f"(?i:{words})" if any_case else words) + after


def names_token(text: str, token: str) -> bool:
    """Return whether ``token`` stands in ``text``: "og" does not stand in "dog"."""
    return re.search(token_pattern(token), composed(text)) is not None


def word_in(text: str, words: str) -> re.Match[str] | None:
    """Return where ``words``, one or several, first stand in ``text`` as it is composed; case does not count.

    A sign at their end, as in "St. Bernard" or "R2-D2", is theirs; one behind them ends them.
    """
    pattern = token_pattern(words.strip(), any_case=True)
    return re.search(pattern, composed(text)) if words.strip() else None


def alike(one: str, other: str) -> bool:
    """Return whether two words are the same but for case, normal form and the space between them."""
    first, second = (" ".join(composed(text).casefold().split()) for text in (one, other))
    return first == second
