"""Text files that a user brings: UTF-8, or refused with the place of what is not."""

from __future__ import annotations

import re
from pathlib import Path

from pcs_core.errors import InputError


def read_text(file: Path) -> str:
    """Return the text in ``file``, UTF-8 with or without a mark at its beginning.

    Raises
    ------
    InputError
        It cannot be read, or is not UTF-8; names the first byte that is not, its offset and its line.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise InputError(f"{file} is not UTF-8 text but UTF-16: save it as UTF-8") from error
        # the codec counts behind the mark, where there is one
        offset = error.start + 3 * content.startswith(b"\xef\xbb\xbf")
        line = content[:offset].count(b"\n") + 1
        raise InputError(
            f"{file} is not UTF-8 text: byte {offset} (0x{content[offset]:02X}, line {line}) begins no "
            "character: save it as UTF-8"
        ) from error


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
