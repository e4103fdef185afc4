"""docs/claims.md: what checks can claim, and what must not pass for each system."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from pcs_core.catalogue import catalogue


def claims_page() -> str:
    """Return the page."""
    from pcs_checks.claims.general import GENERAL
    from pcs_checks.run import find

    text = "# Claims and neighbours\n\n"
    text += (
        "A system's defining check is a list of claims about one short fit on a small random network, and of "
        "neighbours, systems that are almost this one, on which it must fail: "
        "`pcs check SYSTEM --neighbours`. How to write one: [write-a-recipe.md](write-a-recipe.md).\n"
    )
    text += "\n## Claims of every system\n\n| claim | says |\n|---|---|\n"
    text += "".join(_row(f"`{claim.__name__}`", _first(claim)) for claim in GENERAL)
    text += "\n## Claims that a recipe names\n\n| claim | settings | says |\n|---|---|---|\n"
    for id in catalogue().ids("claims"):
        module, _, name = catalogue().where("claims", id).partition(":")
        claim = getattr(importlib.import_module(module), name)
        text += _row(f"`{id}`", ", ".join(f"`{s}`" for s in _settings(claim)), _first(claim))
    text += "\n## Neighbours\n\n| system | neighbour | what it is |\n|---|---|---|\n"
    for system in sorted(catalogue().recipe_files()):
        for neighbour in find(system).table.neighbour:
            text += _row(f"`{system}`", neighbour.name, neighbour.why)
    return text


def _settings(claim: Any) -> list[str]:
    return [p for p in inspect.signature(claim).parameters if p != "seen"]


def _first(claim: Any) -> str:
    return " ".join((inspect.getdoc(claim) or "").split("\n\n")[0].split()).replace("``", "`")


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"
