"""What a defining check measured, against which bounds."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

Relation = Literal["<", "<=", "==", "!=", ">=", ">"]

_RELATIONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    ">": operator.gt,
}


@dataclass(frozen=True, slots=True)
class CheckRow:
    """One measurement: it holds when ``measured relation bound`` does. Nan never holds."""

    name: str
    measured: float
    relation: Relation
    bound: float
    holds: bool

    @classmethod
    def compare(cls, name: str, measured: float, relation: Relation, bound: float) -> Self:
        """Return the row of a measurement, compared here."""
        measured, bound = float(measured), float(bound)
        known = measured == measured and bound == bound  # nan differs from itself
        return cls(
            name, measured, relation, bound, known and bool(_RELATIONS[relation](measured, bound))
        )


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The defining check of ``system`` on ``backbone``: it holds when there are rows and all hold.

    ``seconds`` is how long it took, ``note`` what a reader should know.
    """

    system: str
    holds: bool
    rows: tuple[CheckRow, ...]
    seconds: float = 0.0
    backbone: str = ""
    note: str = ""

    @classmethod
    def of(
        cls,
        system: str,
        rows: tuple[CheckRow, ...] | list[CheckRow],
        *,
        seconds: float = 0.0,
        backbone: str = "",
        note: str = "",
    ) -> Self:
        """Return the report of ``rows``. No row is no proof: such a report does not hold."""
        holds = bool(rows) and all(row.holds for row in rows)
        return cls(system, holds, tuple(rows), seconds, backbone, note)
