"""What goes to the terminal: results to stdout, everything else to stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any


def emit(text: str) -> None:
    """Print a result to stdout. A reader that leaves early, as ``head`` does, is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        silence_pipe()


def emit_json(data: Any) -> None:
    """Print ``data`` to stdout as JSON, and nothing else."""
    emit(json.dumps(data, indent=2, ensure_ascii=False))


def notice(text: str) -> None:
    """Tell the user something on stderr."""
    print(text, file=sys.stderr, flush=True)


def complain(text: str, prefix: str = "Error: ") -> None:
    """Print an error to stderr, on one line."""
    notice(prefix + " ".join(text.split()))


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
