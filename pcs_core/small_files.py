"""Small files of text, as people and other machines bring them: read within bounds, or refused.

TOML and JSON are looked through before a parser sees them: nesting without end would end in the parsers'
recursion, a dotted key of ten thousand parts in gigabytes, a number of thousands of digits in a bug's message.
"""

from __future__ import annotations

import json
import re
import stat
import tomllib
from pathlib import Path
from typing import Any

from pcs_core.errors import InputError, PcsError

MOST_BYTES = 8 * 2**20
"""Of one small file."""
MOST_DEPTH = 48
"""Of brackets in one another, and parts of one dotted key."""
MOST_DIGITS = 400
"""Of one number: a double has no more than 309 before its point."""
LONGEST_PATTERN, MOST_REPEATS = 300, 4
"""Of a regular expression: its length, and how often something repeats in it."""
_STRING = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*+(?:""")?|'
    + r"'''(?:[^']|'(?!''))*+(?:''')?|"
    + r'"(?:[^"\\\n]|\\.)*+"?|'
    + r"'[^'\n]*+'?|#[^\n]*+",
    re.DOTALL,
)
"""A string of TOML or JSON, also one that is not closed, or a comment of TOML: found in one pass."""
_BRACKET = re.compile(r"[\[\]{}]")
_NUMBER = re.compile(rf"(?<![\d_])\d(?:_?\d){{{MOST_DIGITS}}}")
_DOTTED = re.compile(rf"(?<![\w-])(?:[\w-]++[ \t]*+\.[ \t]*+){{{MOST_DEPTH}}}")


def read_bytes(file: Path, *, most: int = MOST_BYTES) -> bytes:
    """Return what is in a file of ``most`` bytes at most.

    Raises
    ------
    InputError
        It cannot be read, is larger, or no regular file (a device, a pipe): those may never end.
    """
    try:
        about = file.stat()
        if not stat.S_ISREG(about.st_mode):
            raise InputError(f"{file} is no regular file: copy what it holds into one")
        with file.open("rb") as opened:
            content = opened.read(most + 1)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}") from error
    if len(content) > most:
        raise InputError(f"{file} is larger than {most / 2**20:g} MiB, the most that is read of it")
    return content


def read_text(file: Path, *, most: int = MOST_BYTES) -> str:
    """Return the text in ``file``, UTF-8 with or without a mark at its beginning.

    Raises
    ------
    InputError
        As :func:`read_bytes`; or it is not UTF-8: names the first byte that is not, its offset and its line; or
        it holds a byte of zero, as UTF-16 does.
    """
    content = read_bytes(file, most=most)
    if b"\0" in content and content[:2] not in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(
            f"{file} is no text, or UTF-16: byte {content.index(0)} of it is 0. Save it as UTF-8"
        )
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


def parse_json(text: str, place: object, *, error: type[PcsError] = InputError) -> Any:
    """Return the data of a JSON text; ``place`` begins the message of ``error``.

    Raises
    ------
    PcsError
        ``error``: no JSON, beyond the bounds, a key twice in one object, NaN or infinity, half a character.
    """
    check_bounds(text, place, error=error)
    try:
        data = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_once)
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError as cause:
        raise error(
            f"{place} holds half of a character (the surrogate U+{ord(cause.object[cause.start]):04X})"
        ) from cause
    except (ValueError, RecursionError) as cause:
        raise error(f"{place} is not valid JSON: {cause}") from cause
    return data


def read_json(file: Path, *, most: int = MOST_BYTES) -> Any:
    """Return the data of a JSON file. Raises as :func:`read_text` and :func:`parse_json`."""
    return parse_json(read_text(file, most=most), file)


def parse_toml(text: str, place: object, *, error: type[PcsError] = InputError) -> dict[str, Any]:
    """Return the tables of a TOML text; ``place`` begins the message of ``error``.

    Raises
    ------
    PcsError
        ``error``: no TOML, or beyond the bounds.
    """
    check_bounds(text, place, error=error)
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as cause:
        raise error(f"{place} is not valid TOML: {cause}") from cause


def read_toml(file: Path) -> dict[str, Any]:
    """Return the tables of a TOML file. Raises as :func:`read_text` and :func:`parse_toml`."""
    return parse_toml(read_text(file), file)


def check_bounds(text: str, place: object, *, error: type[PcsError] = InputError) -> None:
    """Refuse a text, TOML or JSON, that is nested deeper or holds longer numbers than any that is meant.

    Raises
    ------
    PcsError
        ``error``: says which bound, and the line.
    """
    # strings may hold anything; their lines stay, so that a line can be named
    bare = _STRING.sub(lambda one: "\n" * one[0].count("\n") + "s" * (one[0][:1] != "#"), text)
    if long := _NUMBER.search(bare):
        line = bare.count("\n", 0, long.start()) + 1
        raise error(f"{place}: line {line}: a number of more than {MOST_DIGITS} digits")
    deep = _DOTTED.search(bare)
    depth, at = 0, -1 if deep is None else deep.start()
    for bracket in _BRACKET.finditer(bare):
        depth += 1 if bracket[0] in "[{" else -1
        if depth > MOST_DEPTH and at < 0:
            at = bracket.start()
    if at >= 0:
        line = bare.count("\n", 0, at) + 1
        raise error(f"{place}: line {line}: nested more than {MOST_DEPTH} deep")


def parse_pattern(text: str, place: object) -> re.Pattern[str]:
    """Return a file's regular expression, if it is one that ends: no repetition of a group, few in all.

    Raises
    ------
    InputError
        It is none, or may match for ever; ``place`` says whose it is.
    """
    repeats = len(re.findall(r"[*+?{]", text))
    if len(text) > LONGEST_PATTERN or repeats > MOST_REPEATS or re.search(r"\)[*+?{]", text):
        raise InputError(f"{place}: the expression {text[:80]!r} may match for ever")
    try:
        return re.compile(text)
    except re.error as error:
        raise InputError(f"{place}: {text[:80]!r} is no expression: {error}") from error


def is_plain_name(name: str) -> bool:
    """Return whether ``name``, from a file, names an entry of a folder and nothing beyond it.

    No separator of any system, no drive, no ``.`` or ``..``, nothing that cannot be printed.
    """
    return (
        0 < len(name) <= 255
        and name.strip(". ") != ""
        and not set(name) & set("/\\:\0")
        and name.isprintable()
    )


def is_plain_path(path: str) -> bool:
    """Return whether ``path``, from a file, leads downwards alone: plain names between slashes."""
    return 0 < len(path) <= 4096 and all(is_plain_name(part) for part in path.split("/"))


def beneath(folder: Path, path: str, place: object) -> Path:
    """Return what lies at ``path``, names between slashes, anywhere below ``folder``.

    Raises
    ------
    InputError
        A part is no plain name (:func:`is_plain_name`), or a link out of it; ``place`` says whose it is.
    """
    if not is_plain_path(path):
        raise InputError(f"{place} names a file outside its folder: {path[:80]!r}")
    entry = folder / path
    if not entry.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{entry} is a link out of {folder}: copy what it leads to there")
    return entry


def inside(folder: Path, name: str, place: object, *, links: bool = False) -> Path:
    """Return the entry ``name`` of ``folder``; a name from a file never leads out of it.

    ``links`` out of it are followed where they are how a folder is made, as a hub's cache.

    Raises
    ------
    InputError
        It is no plain name (:func:`is_plain_name`), or a link out of the folder; ``place`` says who names it.
    """
    if not is_plain_name(name):
        if not name.isprintable() or (":" in name and not set(name) & set("/\\")):
            raise InputError(
                f"{place}: the name {name[:80]!r} holds a character that names may not have (a colon, or one "
                "that cannot be printed): rename it"
            )
        raise InputError(f"{place} names a file outside its folder: {name[:80]!r}")
    path = folder / name
    if not links and path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{path} is a link out of its folder: copy the file to there")
    return path


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:40]!r} is there twice")
    return data
