"""The table of docs/formats.md: files of other tools, from the list beside their readers."""

from __future__ import annotations

from pages.tree import row


def formats_part() -> str:
    """Return a row for each layout of files."""
    from pcs_formats.supported import FORMATS

    text = "| files | told by | in | out | become | refused |\n|---|---|---|---|---|---|\n"
    for one in FORMATS:
        writes = f"`--to {one.exporter}`" if one.exporter else "no"
        reads = "yes" if one.importer else "no"
        text += row(one.name, one.marks, reads, writes, one.becomes, one.refused)
    return text
