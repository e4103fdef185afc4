"""Finding plugins: entry points of installed distributions, each imported on its own."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

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
    for point in points:
        try:
            plugin = point.load()
        except (Exception, SystemExit) as error:
            broken.append(BrokenPlugin(point.name, _distribution(point), one_line(error)))
            continue
        version = point.dist.version if point.dist else ""
        plugins.append(FoundPlugin(point.name, _distribution(point), version, point.module, plugin))
    return plugins, broken


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
