"""Plugins' READMEs: the list of techniques that a distribution holds."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence

from pages.tree import Distribution, distributions, escape
from pcs_core.catalogue import catalogue
from pcs_evidence import SystemRow


def technique_lists(rows: Sequence[SystemRow]) -> dict[Distribution, str]:
    """Return, for each distribution that holds techniques, a line for each, with the systems that use it."""
    known = catalogue()
    lists: dict[Distribution, str] = {}
    for dist in distributions():
        ids = [
            i for i in known.ids("techniques") if known.distribution("techniques", i) == dist.name
        ]
        if ids:
            lists[dist] = "".join(_line(id, rows) for id in ids)
    return lists


def _line(id: str, rows: Sequence[SystemRow]) -> str:
    technique = catalogue().get("techniques", id)
    paragraph = inspect.cleandoc(technique.__doc__ or "").split("\n\n")[0]
    words = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"`\1`", " ".join(paragraph.split()))
    sentence = escape(re.split(r"(?<=[.!?]) (?=[A-Z])", words.replace("``", "`"))[0])
    module = inspect.getmodule(technique)
    paper = re.search(r"arXiv:\d{4}\.\d{5}", (module.__doc__ or "") if module else "")
    text = f"- `{id}`: {sentence.rstrip('.')}{f' ({paper[0]})' if paper else ''}."
    if systems := [f"`{r.id}`" for r in rows if id in r.uses]:
        text += f" Used by {', '.join(systems)}."
    return text + "\n"
