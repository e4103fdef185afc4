"""What goes to the terminal: results to stdout, everything else to stderr."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any


def emit(text: str) -> None:
    """Print a result to stdout. A reader that leaves early, as ``head`` does, is no error."""
    try:
        print(printable(text), flush=True)
    except BrokenPipeError:
        silence_pipe()


def emit_json(data: Any) -> None:
    """Print ``data`` to stdout as JSON, and nothing else."""
    emit(json.dumps(data, indent=2, ensure_ascii=False))


def notice(text: str) -> None:
    """Tell the user something on stderr. Where it cannot be said (a closed pipe), work goes on."""
    with contextlib.suppress(OSError, ValueError):
        print(printable(text), file=sys.stderr, flush=True)


def complain(text: str, prefix: str = "Error: ") -> None:
    """Print an error to stderr, on one line."""
    notice(prefix + " ".join(text.split()))


class Said(logging.Handler):
    """Says what the libraries warn of, as everything is said: with what others wrote made printable."""

    def emit(self, record: logging.LogRecord) -> None:
        """Say one warning."""
        notice(record.getMessage())


@contextlib.contextmanager
def warnings_said() -> Iterator[None]:
    """Say on stderr what is logged below "pcs", where nothing else shows it."""
    logger, handler = logging.getLogger("pcs"), Said(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def printable(text: str) -> str:
    """Return ``text`` with what would move the cursor, colour a terminal or turn the direction written out.

    Names, captions and messages come from files that others made. Line ends and tabs stay; so do the joiners
    that scripts and emoji need. What is written out is valid in a string of JSON, too.
    """
    return "".join(c if _is_shown(c) else json.dumps(c)[1:-1] for c in text)


def _is_shown(character: str) -> bool:
    if character in "\n\t\u200c\u200d":
        return True
    # C0 and C1 controls, direction marks and other invisible characters, ends of lines, halves of characters
    return unicodedata.category(character) not in ("Cc", "Cf", "Zl", "Zp", "Cs")


def columns(head: Sequence[str], rows: Sequence[Sequence[str]], *, gap: int = 2) -> str:
    """Return ``rows`` under ``head`` as aligned text. Never cut: it may be piped into grep."""
    table = [list(head), *(list(row) for row in rows)] if head else [list(row) for row in rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))] if table else []
    lines = (
        (" " * gap).join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in table
    )
    return "\n".join(line.rstrip() for line in lines)


def silence_pipe() -> None:
    """Let the interpreter's last flush go nowhere: the reader of stdout is gone."""
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, sys.stdout.fileno())
    finally:
        os.close(sink)
