"""docs/coverage.md: how each system of the catalogue is, or will be, a recipe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from pages.tree import escape, row
from pcs_core.assembly import load_recipe
from pcs_core.catalogue import Head, catalogue
from pcs_evidence import SystemRow


def coverage_page(rows: Sequence[SystemRow]) -> str:
    """Return docs/coverage.md: the path of every catalogued system, from its file and the code."""
    known = catalogue()
    facts = {t.id: t for t in known.get("datasets", "catalogue.techniques")()}
    needs = known.get("datasets", "catalogue.needs")()
    heads = known.heads()
    asking = Counter(need for head in heads.values() for need in head.table.get("needs", ()))
    built = known.implementations()
    impossible = sum("impossible" in head.table for head in heads.values())
    text = "# Coverage\n\nHow each of the catalogued systems is, or will be, a recipe. "
    text += (
        f"Of {len(facts)} techniques {sum(id in built for id in facts)} are built in part or in "
    )
    text += f"full, of {len(needs)} needs {sum(bool(n.code) for n in needs)}; "
    text += f"{impossible} system cannot be expressed.\n"
    text += "\n## Needs\n\nWhat some systems ask of the design beyond the plain flow of a fit.\n\n"
    text += "| need | what it is | in the code | how far | systems |\n|---|---|---|---|---|\n"
    for need in needs:
        where = f"`{need.code}`" if need.code else "planned"
        text += row(need.name, need.what, where, escape(need.note) or "-", asking[need.id])
    text += (
        "\n## Systems\n\nThe words are the survey's. One in **bold** is built, in brackets what "
        "implements it: in a system that has a recipe its uses, in a planned one all that could. Others and "
        "needs in *italics* are planned. Where a recipe differs from the survey's words, its file says why.\n\n"
    )
    text += "| system | status | techniques | needs |\n|---|---|---|---|\n"
    for system in rows:
        head = heads[system.id]
        asked = head.table.get("needs", ())
        named = ", ".join(n.name if n.code else f"*{n.name}*" for n in needs if n.id in asked)
        if "impossible" in head.table:
            text += row(f"`{system.id}`", system.status, "-", head.table["impossible"])
            continue
        words = _built_words(system, head) if head.built else _planned_words(system, facts, built)
        text += row(f"`{system.id}`", system.status, "; ".join(words), named or "-")
    return text


def _built_words(system: SystemRow, head: Head) -> list[str]:
    """Return the survey's words of a system that has a recipe, by what the recipe does about each."""
    uses: dict[str, list[str]] = {}
    for use in load_recipe(system.id).uses:
        for word in use.technique.implements():
            if use.technique.id not in uses.setdefault(word, []):
                uses[word].append(use.technique.id)
    words = []
    for word in system.techniques:
        if word in head.left_out:
            words.append(f"left out: {word} ({_clause(head.left_out[word])})")
        else:
            words.append(f"**{word}**{_codes(uses.get(word, ()))}")
    for word, reason in head.beyond.items():
        words.append(f"besides: **{word}**{_codes(uses.get(word, ()))} ({_clause(reason)})")
    return words


def _planned_words(
    system: SystemRow, facts: dict[str, Any], built: dict[str, list[str]]
) -> list[str]:
    """Return the survey's words of a planned system, by what could implement each."""
    return [
        f"**{word}**{_codes(built[word])}"
        if word in built
        else f"*{word}* ({facts[word].distribution})"
        for word in system.techniques
    ]


def _clause(sentence: str) -> str:
    return escape(sentence.rstrip("."))


def _codes(ids: Iterable[str]) -> str:
    return f" ({', '.join(f'`{id}`' for id in ids)})"
