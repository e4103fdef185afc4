"""What the tree itself says: its distributions and its pages."""

from __future__ import annotations

import inspect
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


@dataclass(frozen=True)
class Distribution:
    """One ``pyproject.toml`` of this repository: ``package`` is the folder that it installs."""

    name: str
    folder: Path
    package: str
    description: str


def distributions() -> list[Distribution]:
    """Return every distribution but the core, by name."""
    listed = []
    for path in (*ROOT.glob("plugins/*/pyproject.toml"), *ROOT.glob("optimizers/*/pyproject.toml")):
        project = tomllib.loads(path.read_text("utf-8"))["project"]
        words = project["description"].removeprefix("PCS ")
        package = project["name"].replace("-", "_")
        listed.append(Distribution(project["name"], path.parent, package, words))
    return sorted(listed, key=lambda d: d.name)


def title(page: Path, text: str) -> str:
    """Return the first heading of a page with this text."""
    match = re.search(r"^# (.+)$", text, re.MULTILINE)
    if match is None:
        raise SystemExit(f"{page.relative_to(ROOT)} has no heading")
    return match[1].strip()


def first_sentence(page: Path, text: str) -> str:
    """Return the first sentence below the heading of a page, on one line: what the page is for."""
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    paragraph = text.partition("# ")[2].partition("\n")[2].strip().split("\n\n")[0]
    sentence = re.split(r"(?<=[.!?]) (?=[A-Z`])", " ".join(paragraph.split()))[0]
    if not sentence or sentence[0] in "#|!-<":
        raise SystemExit(f"{page.relative_to(ROOT)} does not begin with a sentence about itself")
    return sentence


def escape(text: str) -> str:
    """Return ``text`` with < escaped outside of code, where it would read as a tag."""
    parts = text.split("`")
    parts[::2] = [part.replace("<", "&lt;") for part in parts[::2]]
    return "`".join(parts)


def row(*cells: object) -> str:
    """Return a line of a table."""
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |\n"


def prose(thing: Any) -> str:
    """Return the docstring of a class or function as Markdown."""
    text = inspect.cleandoc(thing.__doc__ or "")
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"`\1`", text)
    text = text.replace("``", "`").split("\nClass attributes")[0].strip()
    return escape(text)
