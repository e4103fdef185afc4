"""Choosing sites by name glob and kind."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from pcs_core.data import Site
from pcs_core.errors import RecipeError

SHORTHANDS = {
    "attention": ("self", "cross", "joint", "temporal"),
    "cross": ("cross",),
    "joint": ("joint",),
    "self": ("self",),
    "temporal": ("temporal",),
}


def select_sites(
    sites: Sequence[Site], glob: str, *, kind: str = "*", part: str = "denoiser"
) -> tuple[Site, ...]:
    """Return the sites of ``part`` whose name matches ``glob`` and kind matches ``kind``.

    ``glob`` may be "attention", "cross", "self", "joint" or "temporal": all attention sites of that kind.
    Several globs are joined by ``|``. A ``/regex/`` is matched against the whole name.
    """
    if glob in SHORTHANDS:
        kinds = SHORTHANDS[glob]
        return tuple(s for s in sites if s.part == part and s.kind in kinds)
    if len(glob) > 1 and glob.startswith("/") and glob.endswith("/"):
        try:
            pattern = re.compile(glob[1:-1])
        except re.error as error:
            raise RecipeError(f"sites {glob!r} are no regular expression: {error}") from error
        matches: Callable[[str], bool] = lambda name: pattern.fullmatch(name) is not None  # noqa: E731
    else:
        globs = glob.split("|")
        matches = lambda name: any(fnmatchcase(name, g) for g in globs)  # noqa: E731
    return tuple(s for s in sites if s.part == part and (kind in ("*", s.kind)) and matches(s.name))
