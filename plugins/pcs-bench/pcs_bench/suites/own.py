"""A suite of one's own photographs: a TOML file beside the folders, with a manifest."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path

from pcs_bench.suites import prompts
from pcs_bench.suites.reading import KINDS
from pcs_core.errors import InputError, nearest

PROMPTS = {"object": "dreambooth-object", "pet": "dreambooth-live", "face": "identity"}
"""Kind -> the prompt list taken without another."""


def make(
    folder: Path, nouns: Sequence[str] = (), *, kind: str = "object", lists: Sequence[str] = ()
) -> Path:
    """Write ``suite.toml`` and ``checksums.sha256`` into ``folder`` and return the former.

    Each folder in it is a subject; ``nouns`` ("NAME=NOUN" or one NOUN for all) name their classes,
    and a ``subject.toml`` in a folder goes before them.

    Raises
    ------
    InputError
        No folders, one that cannot be read, one without a noun, or a kind or list that is unknown.
    """
    from pcs_core import load_subject

    if kind not in KINDS or (kind not in PROMPTS and not lists):
        known = ", ".join(PROMPTS)
        raise InputError(f"kind {kind!r}: one of {known}; another kind needs --prompts")
    lists = list(lists) or [PROMPTS[kind]]
    prompts.prompts(lists)
    folders = sorted(p for p in folder.glob("*") if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise InputError(f"{folder} holds no folders: put the pictures of each subject in one")
    named = dict(entry.split("=", 1) for entry in nouns if "=" in entry)
    names = [path.name for path in folders]
    for name in named:
        if name not in names:
            raise InputError(
                f"--noun {name}=...: {folder} holds no folder {name!r}{nearest(name, names)}"
            )
    common = next((entry for entry in nouns if "=" not in entry), None)
    sums, rows = [], []
    for path in folders:
        noun = named.get(path.name, common)
        described = (path / "subject.toml").exists()
        if noun is None and not described:
            raise InputError(f"{path} has no noun: add --noun {path.name}=NOUN")
        token = f"<{path.name.replace('_', '-').replace(' ', '-')}>"
        subject = load_subject(
            path, noun=None if described else noun, token=None if described else token
        )
        concept = subject.concept
        rows.append((path.name, concept.noun, concept.token))
        sums += _sums(path, folder)
    text = (
        f"[suite]\nid = {json.dumps(folder.resolve().name)}\nkind = {json.dumps(kind)}\n"
        f'\n[images]\nchecksums = "checksums.sha256"\n\n[prompts]\n{kind} = {json.dumps(lists)}\n'
    )
    for name, noun, token in rows:
        text += f"\n[[subject]]\nname = {json.dumps(name)}\nnoun = {json.dumps(noun)}\n"
        text += f"token = {json.dumps(token)}\n"
    return _write(folder, text, sums)


def make_like(folder: Path, like: str) -> Path:
    """Write a suite of the subjects and prompts of a shipped one, with the pictures in ``folder``.

    For pictures that differ from the originals, as resized ones do: the new manifest is theirs, and the
    suite says that its scores are not those of the original.

    Raises
    ------
    InputError
        No such suite, one that is not of single photographed subjects, or a subject without a folder.
    """
    from pcs_bench.suites.reading import DATA, load
    from pcs_core import load_subject

    suite = load(like)
    document = tomllib.loads((DATA / f"{suite.id}.toml").read_text(encoding="utf-8"))
    rows = document.get("subject", [])
    if not document.get("prompts") or not rows or any("noun" not in row for row in rows):
        raise InputError(f"--like {like!r}: give a suite that lists subjects, as dreambench")
    if "world" in document["images"]:
        raise InputError(f"--like {like!r} is drawn, and has no photographs to stand in for")
    text = (
        f"[suite]\nid = {json.dumps(folder.resolve().name)}\nkind = {json.dumps(suite.kind)}\n"
        f"stands_for = {json.dumps(f'{suite.id}, with other files: scores are not comparable')}\n"
        '\n[images]\nchecksums = "checksums.sha256"\n\n[prompts]\n'
    )
    for name, lists in document["prompts"].items():
        text += f"{name} = {json.dumps(lists)}\n"
    sums: list[str] = []
    for row in rows:
        path = folder / row.get("folder", row["name"])
        if not path.is_dir():
            raise InputError(f"{path} is not there: {like!r} has a subject of this name")
        load_subject(path, noun=row["noun"], token="<any>")
        sums += _sums(path, folder)
        text += "\n[[subject]]\n"
        text += "".join(f"{key} = {json.dumps(value)}\n" for key, value in row.items())
    return _write(folder, text, sums)


def _sums(path: Path, folder: Path) -> list[str]:
    files = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
    return [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(folder).as_posix()}"
        for file in files
    ]


def _write(folder: Path, text: str, sums: Sequence[str]) -> Path:
    from pcs_bench.run.store import write_bytes

    write_bytes(folder / "checksums.sha256", ("\n".join(sums) + "\n").encode())
    write_bytes(folder / "suite.toml", text.encode())
    return folder / "suite.toml"
