"""The result on disk: JSON with the rows, and a plot of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from inference.plot import bars
from inference.rows import KEYS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ABOUT = {
    "seconds": "median over rounds; sides take turns in every round, after warm-up",
    "spread": "interquartile range in seconds (lowest to highest below four rounds)",
    "max_error": "largest difference from the eager output, relative to its largest value",
    "ratio": "seconds of the row named in versus over own seconds: above 1 is faster",
    "share_of_matmul": "FLOP a second over the machine's own rate of square matrix products of that dtype",
}


def write(report: Mapping[str, Any], out: Path) -> None:
    """Write ``out`` and an SVG of the same name.

    Raises
    ------
    ValueError
        A row lacks a key, its name is not unique, or ``versus`` names no row.
    """
    check(report["rows"])
    out.parent.mkdir(parents=True, exist_ok=True)
    document = {"about": ABOUT, **rounded(report)}
    out.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    machine = report["machine"]
    below = (
        f"{machine['processor']}, {machine['threads']} threads, torch {report['versions']['torch']}"
    )
    svg = bars(report["rows"], "Seconds by engine (shorter is better)", below)
    out.with_suffix(".svg").write_text(svg, encoding="utf-8")


def check(rows: list[dict[str, Any]]) -> None:
    """Refuse rows that a reader could not follow."""
    names = [row["name"] for row in rows]
    for row in rows:
        if missing := [key for key in KEYS if key not in row]:
            raise ValueError(f"row {row.get('name')!r} lacks {missing[0]!r}")
        if row["versus"] not in names:
            raise ValueError(f"row {row['name']!r} is versus {row['versus']!r}, which is no row")
        if names.count(row["name"]) > 1:
            raise ValueError(f"two rows are called {row['name']!r}")


def rounded(value: Any) -> Any:
    """Return the same with floats of five significant digits."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {str(k): rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    return value
