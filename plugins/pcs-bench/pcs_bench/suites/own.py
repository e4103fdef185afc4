"""A suite of one's own photographs: a TOML file beside the folders, with a manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from pcs_bench.suites import prompts
from pcs_bench.suites.reading import KINDS
from pcs_core.errors import InputError

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
    found = sorted(p for p in folder.glob("*") if p.is_dir() and not p.name.startswith("."))
    if not found:
        raise InputError(f"{folder} holds no folders: put the pictures of each subject in one")
    named = dict(entry.split("=", 1) for entry in nouns if "=" in entry)
    common = next((entry for entry in nouns if "=" not in entry), None)
    sums, rows = [], []
    for path in found:
        noun = named.get(path.name, common)
        own = (path / "subject.toml").exists()
        if noun is None and not own:
            raise InputError(f"{path} has no noun: add --noun {path.name}=NOUN")
        token = f"<{path.name.replace('_', '-').replace(' ', '-')}>"
        subject = load_subject(path, noun=None if own else noun, token=None if own else token)
        concept = subject.concept
        rows.append((path.name, concept.noun, concept.token))
        for file in sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith(".")):
            sha = hashlib.sha256(file.read_bytes()).hexdigest()
            sums.append(f"{sha}  {file.relative_to(folder).as_posix()}")
    text = (
        f"[suite]\nid = {json.dumps(folder.resolve().name)}\nkind = {json.dumps(kind)}\n"
        f'\n[images]\nchecksums = "checksums.sha256"\n\n[prompts]\n{kind} = {json.dumps(lists)}\n'
    )
    for name, noun, token in rows:
        text += f"\n[[subject]]\nname = {json.dumps(name)}\nnoun = {json.dumps(noun)}\n"
        text += f"token = {json.dumps(token)}\n"
    (folder / "checksums.sha256").write_text("\n".join(sums) + "\n", encoding="utf-8")
    (folder / "suite.toml").write_text(text, encoding="utf-8")
    return folder / "suite.toml"
