"""Texts that are longer than a text encoder reads: what is cut off is said."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from pcs_core.backbone.written import LETTER

LOGGER = logging.getLogger("pcs")


class Cut(NamedTuple):
    """A text, its end that an encoder of ``length`` tokens (start and end among them) does not read."""

    text: str
    rest: str
    length: int


def behind(prompt: str, fits: Callable[[str], bool]) -> str:
    """Return the end of ``prompt`` behind the longest beginning, of whole words, that ``fits``."""
    low, high = 0, len(prompt)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(prompt[:middle]) else (low, middle)
    if word := re.search(rf"{LETTER}+\Z", prompt[:low]):
        low = word.start() if re.match(LETTER, prompt[low:]) else low
    return prompt[low:].strip()


def warn_of_cuts(cuts: Sequence[Mapping[int, Cut]]) -> None:
    """Say what is cut off: for each text encoder, by row, the texts that it does not read whole."""
    for row in dict.fromkeys(row for by_row in cuts for row in by_row):
        cut = next(by_row[row] for by_row in cuts if row in by_row)
        _tell(cut, read_elsewhere=not all(row in by_row for by_row in cuts))


@lru_cache(maxsize=1024)  # one text is read again and again in a drawing or a fit: say it once
def _tell(cut: Cut, *, read_elsewhere: bool) -> None:
    beginning = cut.text if len(cut.text) <= 40 else f"{cut.text[:40].rstrip()}..."
    LOGGER.warning(
        "the text %r is too long: the text encoder reads %d tokens, and these words are cut off%s: %r",
        beginning,
        cut.length,
        " (another text encoder of this backbone reads them)" if read_elsewhere else "",
        cut.rest,
    )
