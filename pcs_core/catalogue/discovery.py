"""Finding plugins: entry points of installed distributions, each imported on its own."""

from __future__ import annotations

import dis
import io
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pcs_core.catalogue.probing import FINE, GUARDED, guarded, probe
from pcs_core.errors import nearest
from pcs_core.hookspecs import ENTRY_POINT_GROUP

CORE_DISTRIBUTION = "pcs-core"


@dataclass(frozen=True, slots=True)
class BrokenPlugin:
    """A plugin that could not be used: a line for ``pcs doctor``, never a crash."""

    name: str
    distribution: str
    error: str


@dataclass(frozen=True, slots=True)
class FoundPlugin:
    """A plugin module that was imported. ``name`` is its entry point's."""

    name: str
    distribution: str
    version: str
    module: str
    plugin: Any
    remarks: tuple[str, ...] = ()
    """What it printed or warned about while it was imported."""
    guarded: bool = False
    """It reaches past ``sys.stdout`` to the output itself."""


def find_plugins(only: str | None) -> tuple[list[FoundPlugin], list[BrokenPlugin]]:
    """Import the plugin modules named by entry points, in order of distribution and name.

    ``only`` is a comma-separated list of entry points or distributions; None means all, an empty
    string none but the core's own.
    """
    points = _entry_points()
    broken = []
    if only is not None:
        names = [_normal(part) for part in only.split(",") if part.strip()]
        known = {_normal(name) for p in points for name in (p.name, _distribution(p))}
        for name in names:
            if name not in known:
                message = (
                    f"PCS_PLUGINS names {name!r}, which is not installed{nearest(name, known)}"
                )
                broken.append(BrokenPlugin(name, "", message))
        points = [p for p in points if _is_named(p, names)]
    plugins = []
    for point, verdict in zip(points, probe(points), strict=True):
        remarks: list[str] = []
        if verdict not in (FINE, GUARDED):
            broken.append(BrokenPlugin(point.name, _distribution(point), verdict))
            continue
        try:
            with overheard(remarks), guarded() if verdict == GUARDED else nullcontext():
                plugin = point.load()
        except BaseException as error:
            if is_users_interrupt(error):
                raise
            broken.append(BrokenPlugin(point.name, _distribution(point), one_line(error)))
            continue
        if verdict == GUARDED:
            remarks.append("writes to the standard output, or closes it, past Python")
        version = point.dist.version if point.dist else ""
        plugins.append(
            FoundPlugin(
                point.name,
                _distribution(point),
                version,
                point.module,
                plugin,
                tuple(remarks),
                guarded=verdict == GUARDED,
            )
        )
    return plugins, broken


@contextmanager
def overheard(remarks: list[str]) -> Iterator[None]:
    """Keep what code prints or warns about from a command's output; add it to ``remarks``.

    Code that closes its standard output closes a stand-in.
    """
    printed = io.StringIO()
    with warnings.catch_warnings(record=True) as warned, redirect_stdout(printed):
        yield
    remarks += [f"warns {one_line(w.message)}" for w in warned if isinstance(w.message, Warning)]
    text = "" if printed.closed else " ".join(printed.getvalue().split())
    if printed.closed or text:
        remarks.append("closes the standard output" if printed.closed else f"prints {text[:200]!r}")


def is_users_interrupt(error: BaseException) -> bool:
    """Return whether ``error`` is a Ctrl-C, and no KeyboardInterrupt that the code raised by itself.

    A signal's is raised between two instructions, the code's own by its ``raise``.
    """
    if not isinstance(error, KeyboardInterrupt):
        return False
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    if place is None:
        return True
    return dis.opname[place.tb_frame.f_code.co_code[place.tb_lasti]] != "RAISE_VARARGS"


def one_line(error: BaseException) -> str:
    """Return the type and message of ``error`` on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _entry_points() -> list[EntryPoint]:
    # an editable install can be seen twice (its metadata also lies beside the source)
    unique = {(_distribution(p), p.name, p.value): p for p in entry_points(group=ENTRY_POINT_GROUP)}
    return [unique[key] for key in sorted(unique)]


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist else ""


def _is_named(point: EntryPoint, chosen: Iterable[str]) -> bool:
    names = {_normal(point.name), _normal(_distribution(point))}
    return _normal(CORE_DISTRIBUTION) in names or not names.isdisjoint(chosen)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()
