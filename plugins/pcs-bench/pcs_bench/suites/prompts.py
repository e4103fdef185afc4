"""Prompt lists by name, and prompt files of other projects."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from pcs_bench.suites.suite import BenchPrompt
from pcs_core.errors import InputError, nearest
from pcs_core.small_files import read_text

FILE = Path(__file__).parent / "data" / "prompts.toml"


@cache
def _data() -> dict[str, Any]:
    return tomllib.loads(FILE.read_text(encoding="utf-8"))


def names() -> list[str]:
    """Return the names of the shipped lists."""
    return sorted([*_data()["lists"], *_data()["products"]])


def prompts(lists: Sequence[str]) -> tuple[BenchPrompt, ...]:
    """Return the prompts of named lists, in their order.

    Raises
    ------
    InputError
        No such list.
    """
    listed: list[BenchPrompt] = []
    for name in lists:
        if name in _data()["lists"]:
            kinds = _data()["lists"][name]
            listed += [BenchPrompt(text, kind) for kind, texts in kinds.items() for text in texts]
        elif name in _data()["products"]:
            for kind, parts in _data()["products"][name].items():
                pairs = product(parts["frames"], parts["endings"])
                listed += [BenchPrompt(f"{frame} {end}", kind) for frame, end in pairs]
        else:
            raise InputError(f"no prompt list {name!r}{nearest(name, names())}")
    return tuple(listed)


def custom_diffusion(file: Path, nouns: Sequence[str]) -> tuple[BenchPrompt, ...]:
    """Read a prompt file of Custom Diffusion: ``<new1> noun`` is the subject, a line each.

    In the lists of pairs the nouns stand alone; the first mention of each becomes its subject.

    Raises
    ------
    InputError
        It cannot be read, or is not UTF-8.
    """
    read = []
    for line in read_text(file).splitlines():
        if text := " ".join(line.split()):
            read.append(BenchPrompt(_placed(text, nouns), "pair" if len(nouns) > 1 else "custom"))
    return tuple(read)


def _placed(text: str, nouns: Sequence[str]) -> str:
    if len(nouns) == 1:
        return re.sub(rf"<new1>(?: {re.escape(nouns[0])})?", "{token} {noun}", text)
    for number, noun in enumerate(nouns, 1):
        suffix = "" if number == 1 else str(number)
        mark = f"{{token{suffix}}} {{noun{suffix}}}"
        text = re.sub(rf"\b{re.escape(noun)}\b", mark, text, count=1, flags=re.IGNORECASE)
    return text


def survey(texts: Sequence[str], kind: str) -> list[BenchPrompt]:
    """Return prompts of the survey's ``info.json``: ``{0}`` is the token, ``{1}`` the noun."""
    return [
        BenchPrompt(text.replace("{0}", "{token}").replace("{1}", "{noun}"), kind) for text in texts
    ]
