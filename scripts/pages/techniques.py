"""docs/techniques.md: every technique with its settings, their types, bounds and defaults."""

from __future__ import annotations

import json
from typing import Any

from pages.tree import escape, prose, row
from pcs_core.catalogue import catalogue
from pcs_core.technique import Technique


def techniques_page() -> str:
    """Return docs/techniques.md."""
    text = "# Techniques\n\nEvery technique of the plugins in this repository, with its settings.\n"
    return text + "".join(technique_section(id) for id in catalogue().ids("techniques"))


def technique_section(id: str) -> str:
    """Return what the page says of one technique: its settings with their types, bounds and defaults."""
    known = catalogue()
    technique: type[Technique] = known.get("techniques", id)
    text = f"\n## {id}\n\n{prose(technique)}\n\n"
    text += f"From `{known.distribution('techniques', id)}`"
    if technique.catalogue:
        text += f"; in the catalogue's words: {', '.join(technique.catalogue)}"
    text += f". Several subjects in one forward: {'yes' if technique.stacks_subjects else 'no'}."
    if technique.neutral is not None:
        zero = ", ".join(f"{k} = {json.dumps(v)}" for k, v in technique.neutral.items())
        text += f" Changes nothing at: `{zero}`."
    if technique.rowwise:
        text += " Rows of a fit step are apart: several processes may share them out."
    words = {"Reads": technique.reads, "Writes": technique.writes}
    for verb, names in words.items():
        if names:
            text += f" {verb} {', '.join(f'`{name}`' for name in names)}."
    return text + "\n\n" + _settings(technique)


def _settings(technique: type[Technique]) -> str:
    names = technique.setting_names()
    if not names:
        return "No settings.\n"
    schema, help = technique.schema(), technique.setting_help()
    text = "| setting | type | default | meaning |\n|---|---|---|---|\n"
    for name in names:
        entry = schema["properties"][name]
        default = "required" if name in schema.get("required", ()) else _short(entry.get("default"))
        words = escape(" ".join(help.get(name, "").split()).replace("``", "`"))
        text += row(f"`{name}`", _type(entry, schema), default, words)
    return text


def _type(entry: dict[str, Any], schema: dict[str, Any]) -> str:
    if "$ref" in entry:
        entry = schema["$defs"][entry["$ref"].rpartition("/")[2]]
    if "anyOf" in entry:
        return " or ".join(_type(option, schema) for option in entry["anyOf"])
    if "enum" in entry:
        return " or ".join(f"`{json.dumps(value)}`" for value in entry["enum"])
    if "const" in entry:
        return f"`{json.dumps(entry['const'])}`"
    if entry.get("type") == "array":
        inner = entry.get("items") or next(iter(entry.get("prefixItems", [])), {})
        return f"list of {_type(inner, schema)}" if inner else "list"
    if entry.get("type") == "null":
        return "none"
    bounds = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = [f"{sign} {entry[key]:g}" for key, sign in bounds.items() if key in entry]
    return " ".join([str(entry.get("type", "any")), *([", ".join(limits)] if limits else [])])


def _short(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list) and len(value) > 6:
        return f"{len(value)} entries"
    return f"`{json.dumps(value)}`"
