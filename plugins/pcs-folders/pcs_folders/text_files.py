"""Texts that a user brings are whole: no half of a character."""

from __future__ import annotations

import re

from pcs_core.errors import InputError


def check_whole(text: str, place: str) -> None:
    """Refuse a text with half of a character, as an escape of JSON may say one.

    Raises
    ------
    InputError
        Names the half, its offset in the text, and ``place``.
    """
    if half := re.search("[\ud800-\udfff]", text):
        raise InputError(
            f"{place}: character {half.start()} of the text is half of one (the surrogate "
            f"U+{ord(half[0]):04X}): write it as UTF-8"
        )
