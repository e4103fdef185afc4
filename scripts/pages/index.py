"""docs/index.md: every page and every decision that is there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from pages.tree import DOCS, distributions, first_sentence, row, title


def pages_part(generated: Mapping[Path, str]) -> str:
    """Return a line per page of ``docs``, with its first sentence; generated pages are as they will be."""
    lines = []
    for page in (*DOCS.glob("*.md"), *DOCS.glob("*/README.md")):
        if page.name == "index.md":
            continue
        text = generated.get(page) or page.read_text("utf-8")
        name = title(page, text)
        lines.append(f"- [{name}]({page.relative_to(DOCS)}): {first_sentence(page, text)}\n")
    return "".join(sorted(lines))


def decisions_part() -> str:
    """Return a line per decision record, in the order of their numbers."""
    text = ""
    for page in sorted(DOCS.glob("decisions/*.md")):
        name = title(page, page.read_text("utf-8"))
        words = re.sub(r"^(?:Decision )?\d+[.:]? *", "", name)
        text += f"- {int(page.name[:4])}: [{words}](decisions/{page.name})\n"
    return text


def plugins_page() -> str:
    """Return docs/plugins.md: a line per distribution."""
    text = "# Plugins\n\nEvery distribution of this repository, each installable alone beside `pcs-core`.\n\n"
    text += "| distribution | what it holds |\n|---|---|\n"
    for dist in distributions():
        path = dist.folder.relative_to(DOCS.parent)
        text += row(f"[`{dist.name}`](../{path}/README.md)", dist.description)
    return text
