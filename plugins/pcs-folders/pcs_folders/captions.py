"""The captions beside the pictures, as this and other trainers write them."""

from __future__ import annotations

import csv
import io
import posixpath
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pcs_core.errors import InputError, nearest
from pcs_core.small_files import inside, parse_json, read_text
from pcs_folders.same_names import plain, sibling
from pcs_folders.text_files import check_whole

SUFFIXES = (".txt", ".caption")
"""Of captions beside a picture, by its name."""
TABLES = ("metadata.jsonl", "metadata.csv")
"""Captions of a whole folder, in the layout of Hugging Face's imagefolder."""
COLUMNS = ("text", "caption", "prompt")
"""Names under which a table may give the caption."""
NUMBERS = re.compile(r"-?\d+(?:\s+-?\d*\.?\d+){4,}")
"""A line of a file of labels: a class and the numbers of a box or an outline."""
DRAWN = re.compile(r"(?:Steps: \d+, |Negative prompt: )")
"""Lines that the web UI of AUTOMATIC1111 writes below a prompt."""
MARKS = re.compile(r"\[(?:trigger|name|filewords)\]|\{[^{}|]+(?:\|[^{}|]*)+\}|__[\w/-]+__")
"""Words in place of others: ai-toolkit's and A1111's names in brackets, alternatives and files of wildcards."""
MOST_CAPTION, MOST_TABLE = 2**16, 2**26
"""Bytes of a caption file, and of a table of captions."""


def read_captions(file: Path) -> tuple[tuple[str, ...], str]:
    """Return the captions in ``file``, one a line, and what a user should know of them.

    Several are alternatives: in each step of a fit one is drawn. Empty lines are none.

    Raises
    ------
    InputError
        It is not UTF-8 text, or cannot be read.
    """
    text = read_text(inside(file.parent, file.name, file.parent), most=MOST_CAPTION)
    lines = [" ".join(line.split()) for line in re.split("\r\n|\r|\n", text)]
    captions = tuple(line for line in lines if line)
    check_captions(captions, str(file))
    if not captions:
        return captions, "empty: it says nothing"
    notes = [alternatives_note(len(captions)), *marks_in(captions)]
    return captions, "; ".join(note for note in notes if note)


def check_captions(captions: Sequence[str], place: str) -> None:
    """Refuse what other programs write beside pictures and is no caption.

    Raises
    ------
    InputError
        Boxes as YOLO writes them, or the settings of a drawing; names the line.
    """
    for line in captions:
        if NUMBERS.fullmatch(line):
            raise InputError(
                f"{place}: {line[:40]!r} is no caption but numbers, as YOLO writes boxes: write a caption, the "
                "boxes into a .json, or move it away"
            )
        if DRAWN.match(line):
            raise InputError(
                f"{place}: {line[:40]!r} is no caption but settings of a drawing: keep the prompt alone"
            )


def marks_in(captions: Sequence[str]) -> list[str]:
    """Return what a user should know of marks that other trainers replace, and that are read as words here."""
    marks = dict.fromkeys(match[0] for line in captions for match in MARKS.finditer(line))
    return (
        [f"{', '.join(marks)} is read as it is written: nothing is put in its place"]
        if marks
        else []
    )


def alternatives_note(count: int) -> str:
    """Return what is said of ``count`` captions of one picture; nothing of one."""
    return f"its {count} captions are alternatives: one is drawn each time" if count > 1 else ""


def own_caption(image: Path) -> Path | None:
    """Return the caption file beside ``image``, or None.

    Raises
    ------
    InputError
        There are two.
    """
    files = [file for s in SUFFIXES if (file := sibling(image, s)).is_file()]
    if len(files) > 1:
        names = " and ".join(file.name for file in files)
        raise InputError(f"{image}: {names} are both its caption: keep one")
    return files[0] if files else None


def read_table(file: Path, images: Sequence[Path]) -> tuple[dict[Path, tuple[str, ...]], str]:
    """Return image -> captions of a table of captions, and what a user should know of it.

    A cell of JSON may be a list of captions, which are alternatives.

    Raises
    ------
    InputError
        It cannot be read, names no image of its folder, or one twice; names the line.
    """
    rows = _json_rows(file) if file.suffix == ".jsonl" else _csv_rows(file)
    known = {plain(path.relative_to(file.parent).as_posix()): path for path in images}
    captions: dict[Path, tuple[str, ...]] = {}
    unread: dict[str, None] = {}
    for number, row in rows:
        place = f"{file}:{number}"
        name = row.get("file_name")
        if not isinstance(name, str) or not name:
            has = ", ".join(str(key) for key in row)
            mend = ": divide its columns by commas" if ";" in has or "\t" in has else ""
            raise InputError(
                f"{place}: no 'file_name' that says which picture it is about (it has {has[:80]!r}){mend}"
            )
        name = plain(posixpath.normpath(name))
        if name not in known:
            raise InputError(f"{place}: there is no picture {name!r}{nearest(name, known)}")
        keys = [key for key in COLUMNS if row.get(key) not in (None, "")]
        unread.update(dict.fromkeys(k for k in row if k not in ("file_name", *COLUMNS)))
        if len(keys) > 1:
            raise InputError(f"{place}: {' and '.join(keys)} are both a caption: keep one")
        if not keys:
            continue
        cell = row[keys[0]]
        texts = cell if isinstance(cell, list) else [cell]
        if not all(isinstance(text, str) for text in texts):
            raise InputError(
                f"{place}: {keys[0]} is a caption, as text, or a list of them, got {cell!r}"
            )
        if known[name] in captions:
            raise InputError(
                f"{place}: {name!r} has a caption above already: keep one, or write several as a list"
            )
        for text in texts:
            check_whole(text, place)
        joined = (" ".join(text.split()) for text in texts)
        captions[known[name]] = tuple(text for text in joined if text)
    notes = [f"not read: {', '.join(unread)}"] if unread else []
    if several := sum(len(texts) > 1 for texts in captions.values()):
        notes.append(f"{several} pictures have several captions: one is drawn each time")
    note = "; ".join(notes)
    if not captions:
        note = f"no captions: it has none of {', '.join(COLUMNS)}"
    return captions, note


def _json_rows(file: Path) -> list[tuple[int, Mapping[str, Any]]]:
    rows: list[tuple[int, Mapping[str, Any]]] = []
    text = read_text(inside(file.parent, file.name, file.parent), most=MOST_TABLE)
    # a text in a row may hold other ends of a line, which splitlines() would take for one
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        row = parse_json(line, f"{file}:{number}")
        if not isinstance(row, dict):
            raise InputError(f"{file}:{number}: a line holds one JSON object, got {line[:40]!r}")
        rows.append((number, row))
    return rows


def _csv_rows(file: Path) -> list[tuple[int, Mapping[str, Any]]]:
    try:
        text = read_text(inside(file.parent, file.name, file.parent), most=MOST_TABLE)
        reader = csv.DictReader(io.StringIO(text), strict=True)
        rows: list[tuple[int, Mapping[str, Any]]] = []
        heads = list(reader.fieldnames or ())
        if twice := [head for head in dict.fromkeys(heads) if heads.count(head) > 1]:
            raise InputError(f"{file}:1: the column {twice[0]!r} appears twice: keep one")
        for row in reader:
            if None in row:
                raise InputError(f"{file}:{reader.line_num}: more cells than columns: quote commas")
            rows.append((reader.line_num, row))
    except csv.Error as error:
        raise InputError(f"{file} is not valid CSV: {error}") from error
    return rows
