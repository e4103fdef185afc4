"""Chunks of text in a PNG (W3C PNG, 11.3.4.3: ``tEXt``), read without decoding the picture."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

from pcs_core.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MOST = 2**20
"""Bytes of a chunk of text that are read; longer ones are passed over."""


def read_texts(file: Path) -> dict[str, str]:
    """Return the texts of a PNG by their keywords.

    Raises
    ------
    InputError
        It is no PNG, or cut off, or a text in it is damaged.
    """
    texts: dict[str, str] = {}
    try:
        with file.open("rb") as opened:
            if opened.read(len(SIGNATURE)) != SIGNATURE:
                raise InputError(f"{file} is no PNG")
            while True:
                size, kind = struct.unpack(">I4s", opened.read(8))
                if kind == b"IEND":
                    return texts
                if kind != b"tEXt" or size > MOST:
                    opened.seek(size + 4, 1)
                    continue
                content = opened.read(size)
                (check,) = struct.unpack(">I", opened.read(4))
                if check != zlib.crc32(kind + content):
                    raise InputError(
                        f"{file} is damaged: a text in it is not the one that was written"
                    )
                keyword, _, text = content.partition(b"\0")
                texts[keyword.decode("latin-1")] = text.decode("latin-1")
    except struct.error as error:
        raise InputError(f"{file} is cut off: it ends before its last chunk") from error
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}") from error
