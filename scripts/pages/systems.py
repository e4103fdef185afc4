"""README.md: how many systems there are, and how far they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pcs_evidence import SystemRow

WORDS = {
    "ready": "do their job, by measurements on the backbone that is named",
    "runs": "run on real pictures",
    "checked": "pass their defining check",
    "loads": "have a recipe that loads",
    "planned": "are listed with what they are made of and what they still need",
}


def counts_part(rows: Sequence[SystemRow]) -> str:
    """Return one sentence: the systems by status, furthest first."""
    rows = [row for row in rows if row.ref]  # a recipe of no paper is no system of the survey
    counts = Counter(row.status for row in rows)
    parts = [f"{counts[s]} {words} (*{s}*)" for s, words in WORDS.items() if counts[s]]
    return f"Of its {len(rows)} systems {', '.join(parts)}: [docs/systems.md](docs/systems.md).\n"
