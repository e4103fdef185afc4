"""Running a check: general claims, the recipe's own, and a program for what only code can say."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pcs_checks.claims.general import GENERAL
from pcs_checks.observe import Observation
from pcs_checks.table import NEIGHBOURS, CheckTable, Neighbour, read_check
from pcs_checks.variant import Variant, load, under
from pcs_core import PcsError, installed
from pcs_core.data import CheckReport, CheckRow
from pcs_core.errors import InputError
from pcs_testing import brief_settings, tiny_backbone


@dataclass(frozen=True, slots=True)
class Check:
    """The defining check of one system, as its recipe describes it."""

    system: str
    table: CheckTable
    backbone: str

    def run(self, *, neutral: bool = False) -> CheckReport:
        """Return what holds of the system as published, or with the method switched off."""
        return self._report(Variant(self.table.neutral if neutral else ()), neutral=neutral)

    def against(self, neighbour: Neighbour) -> CheckReport:
        """Return what holds of a neighbour: one row at least should not."""
        return self._report(Variant(neighbour.set, neighbour.remove))

    def _report(self, variant: Variant, *, neutral: bool = False) -> CheckReport:
        started = time.monotonic()
        rows: list[CheckRow] = []
        with under(variant):
            try:
                rows += self._claims()
                if all(row.holds for row in rows):  # a program is slow, and one failure is enough
                    rows += self._program(neutral)
            except PcsError as error:
                rows.append(CheckRow(f"refused: {error}", float("nan"), "==", 0.0, False))
        return CheckReport.of(
            self.system, rows, seconds=time.monotonic() - started, backbone=self.backbone
        )

    def _claims(self) -> Iterator[CheckRow]:
        plain = load(self.system)
        recipe = load(self.system, overrides=[*brief_settings(plain), *self.table.set])
        seen = Observation(recipe, self.backbone, concepts=self.table.concepts)
        for general in GENERAL:
            yield from general(seen)
        for named in self.table.claim:
            settings = {key: value for key, value in named.items() if key != "claim"}
            yield from claim(named["claim"])(seen, **settings)

    def _program(self, neutral: bool) -> tuple[CheckRow, ...]:
        if self.system not in installed().ids("checks"):
            return ()
        report: CheckReport = installed().get("checks", self.system)(neutral=neutral)
        return report.rows


def find(system: str) -> Check:
    """Return the check of ``system``.

    Raises
    ------
    UnknownNameError
        No such system, or it is planned.
    InputError
        Its recipe has no ``[check]``.
    RecipeError
        The table is wrong.
    """
    recipe = load(system)
    if not recipe.check:
        raise InputError(f"system {system!r} has a recipe without a [check]: see write-a-recipe.md")
    ids = tuple(installed().ids("claims"))
    table = read_check(recipe.check, recipe.path or system, ids)
    return Check(system, table, tiny_backbone(recipe))


def claim(id: str) -> Callable[..., Iterator[CheckRow]]:
    """Return a claim by id."""
    function: Any = installed().get("claims", id)
    return function  # type: ignore[no-any-return]


__all__ = ["NEIGHBOURS", "Check", "find"]
