"""Which system runs on which family of backbones, as `scripts/families.py` found."""

from __future__ import annotations

import json
from typing import Any

from pages.tree import DOCS, escape, row


def recorded() -> Any:
    """Return family -> system -> "" where it runs, else what it said."""
    return json.loads((DOCS / "families.json").read_text("utf-8"))


def word(said: str) -> str:
    """Return "runs", "refused" (by name, with a reason), or "fails"."""
    if not said:
        return "runs"
    return "fails" if "failed in its" in said else "refused"


def matrix_part() -> str:
    """Return a line per system, a column per family."""
    families = recorded()
    text = "| system | " + " | ".join(families) + " |\n" + "|---" * (len(families) + 1) + "|\n"
    for system in next(iter(families.values())):
        words = (word(families[family].get(system, "not tried")) for family in families)
        text += row(f"`{system}`", *(f"**{w}**" if w == "runs" else w for w in words))
    return text


def reasons_part() -> str:
    """Return what was said where a system does not run."""
    text = ""
    for family, systems in recorded().items():
        for system, said in systems.items():
            if said:
                text += f"- {family}, `{system}` ({word(said)}): {escape(said)}\n"
    return text
