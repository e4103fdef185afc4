"""Texts that are longer than a text encoder reads at once: cut into windows.

Each window has a start and an end of its own, and what the encoder says of them stands side by side. So do
the web UI of AUTOMATIC1111 (``modules/sd_hijack_clip.py``: chunks of 75 tokens, and empty ones behind shorter
prompts), compel (``truncate_long_prompts=False``) and diffusers' community pipelines
(``lpw_stable_diffusion``). A word or a placeholder is never split between two windows here, as an embedding is
not in the web UI.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pcs_core.backbone.protocol import Tokenizer

LOGGER = logging.getLogger("pcs")


@dataclass(slots=True)
class Reading:
    """A text as one tokenizer reads it, uncut and without start and end.

    ``ids`` [n]; ``places`` in them by name; ``weights`` [n]; ``pieces``: where each piece begins, and its text
    where it is plain words, "" where it is a placeholder.
    """

    ids: list[int] = field(default_factory=list)
    places: dict[str, list[int]] = field(default_factory=dict)
    weights: list[float] = field(default_factory=list)
    pieces: list[tuple[int, str]] = field(default_factory=list)


def reads_windows(tokenizer: Tokenizer) -> bool:
    """Return whether a longer text is read in windows: else its end is cut off."""
    return bool(getattr(tokenizer, "windows", False))


def windows_of(reading: Reading, tokenizer: Tokenizer, room: int) -> list[tuple[int, int]]:
    """Return where each window of ``room`` ids begins and ends in ``reading.ids``; one at least."""
    count, begin, windows = len(reading.ids), 0, []
    borders = _borders(reading, tokenizer) if count > room else []
    while count - begin > room:
        # a word longer than a window is split all the same
        stop = max((b for b in borders if begin < b <= begin + room), default=begin + room)
        windows.append((begin, stop))
        begin = stop
    return [*windows, (begin, count)]


def _borders(reading: Reading, tokenizer: Tokenizer) -> list[int]:
    """Return where in the ids a word or a placeholder begins."""
    borders = []
    for number, (first, text) in enumerate(reading.pieces):
        last = len(reading.ids)
        if number + 1 < len(reading.pieces):
            last = reading.pieces[number + 1][0]
        inside, at = [], first
        for word in text.split():
            inside.append(at)
            at += len(tokenizer.encode(word))
        borders += [first, *(inside if at == last else ())]
    return borders


def tell_windows(texts: Sequence[str], counts: Sequence[int], room: int) -> None:
    """Say which texts are read in several windows, and in how many."""
    longer = {text: count for text, count in zip(texts, counts, strict=True) if count > 1}
    if longer:
        text = max(longer, key=lambda t: longer[t])
        _tell(text, longer[text], len(longer) - 1, room)


@lru_cache(maxsize=1024)  # one text is read again and again in a drawing or a fit: say it once
def _tell(text: str, count: int, others: int, room: int) -> None:
    beginning = text if len(text) <= 40 else f"{text[:40].rstrip()}..."
    LOGGER.info(
        "the text %r%s: longer than the %d tokens that the text encoder reads at once, so it is read in %d "
        "windows of these",
        beginning,
        f" and {others} more" if others else "",
        room,
        count,
    )
