"""``pcs check``: a system's defining check."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from pcs_cli.options import Json
from pcs_cli.output import columns, emit, emit_json
from pcs_core.errors import InputError, PcsError, UnknownNameError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable

    from pcs_core.data import CheckReport


def check(
    system: Annotated[str, typer.Argument(metavar="SYSTEM", help="A system (see pcs systems).")],
    neutral: Annotated[
        bool,
        typer.Option("--neutral", help="With its key setting at zero: then it must not hold."),
    ] = False,
    json: Json = False,
) -> None:
    """Measure the property that defines a system.

    Exits with 0 if it holds, with 1 if not.
    """
    report = find_check(system)(neutral=neutral)
    if json:
        emit_json({**asdict(report), "neutral": neutral})
    else:
        emit(render(report, neutral))
    raise typer.Exit(0 if report.holds else 1)


def find_check(system: str) -> Callable[..., CheckReport]:
    """Return the function that checks ``system``.

    Raises
    ------
    UnknownNameError
        No such system; names the nearest.
    InputError
        A system without a check.
    """
    from pcs_core.catalogue import catalogue

    known = catalogue()
    checks = known.ids("checks")
    if system in checks:
        function: Callable[..., CheckReport] = known.get("checks", system)
        return function
    try:
        known.recipe_file(system)
    except UnknownNameError as error:
        if "did you mean" not in str(error) and "planned" in str(error):
            raise
        hint = nearest(system, checks) or f" (with a check: {', '.join(checks) or 'none'})"
        raise UnknownNameError(f"no system {system!r}{hint}") from error
    except PcsError:
        raise
    raise InputError(f"system {system!r} has a recipe, but no installed plugin checks it")


def render(report: CheckReport, neutral: bool) -> str:
    """Return a report as text: what was measured against which bound."""
    rows = [
        (
            f"  {'holds' if row.holds else 'FAILS'}",
            row.name,
            f"{row.measured:.6g} {row.relation} {row.bound:.6g}",
        )
        for row in report.rows
    ]
    setting = ", key setting at zero" if neutral else ""
    on = f" on {report.backbone}" if report.backbone else ""
    lines = [
        f"{report.system}{on}{setting}: {'holds' if report.holds else 'does not hold'} "
        f"({report.seconds:.1f} s)"
    ]
    if rows:
        lines += columns((), rows).splitlines()
    if report.note:
        lines.append(f"  {report.note}")
    return "\n".join(lines)
