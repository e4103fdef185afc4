"""Choosing sites: by role (which means the same in every family), by name, by kind."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from pcs_core.edits.attention import ATTENTION
from pcs_core.edits.block import PLACES
from pcs_core.edits.site import Site
from pcs_core.errors import RecipeError, nearest

SHORTHANDS = {"attention": ATTENTION, **{kind: (kind,) for kind in (*ATTENTION, *PLACES)}}
ROLES = ("attention", "ff", "temporal")
"""First words of roles; no module of a network is called so."""
TIME = "temporal."
PARTS = ("q", "k", "v", "out", "text_q", "text_k", "text_v", "text_out")
KNOWN_ROLES = (
    *(f"attention.{kind}" for kind in ("self", "cross", "joint")),
    *(f"attention.{kind}.{made}" for kind in ("self", "cross", "joint") for made in PARTS),
    "temporal.attention",
    *(f"temporal.attention.{made}" for made in PARTS[:4]),
    *(f"{over}ff.{side}" for over in ("", "temporal.") for side in ("in", "out")),
    *("ff.text_in", "ff.text_out"),
)
"""All roles that a family may give its sites."""


def is_selector(glob: str) -> bool:
    """Return whether ``glob`` chooses by role, as "attention.cross.k", "ff.*" or "cross@mid" do."""
    role, at, _ = glob.partition("@")
    return role.partition(".")[0] in ROLES if "." in role else bool(at) and role in SHORTHANDS


def select_sites(
    sites: Sequence[Site], glob: str, *, kind: str = "*", part: str = "denoiser"
) -> tuple[Site, ...]:
    """Return the sites of ``part`` that ``glob`` chooses and whose kind matches ``kind``, in their order.

    ``glob`` may be "attention", "cross", "self", "joint" or "temporal": all attention sites of that kind; or
    a place in the residual stream, as "after_cross" (:data:`pcs_core.edits.block.PLACES`).
    Otherwise several may be joined by ``|``, each a role ("attention.*.k", "ff.in", "temporal.*"), a
    shorthand or role at a place ("cross@up", "attention.self.q@down.1", "attention.*@scale=2"), or a glob
    over module names. A ``/regex/`` is matched against the whole name.
    """
    if glob in SHORTHANDS:
        kinds = SHORTHANDS[glob]
        return tuple(s for s in sites if s.part == part and s.kind in kinds)
    if len(glob) > 1 and glob.startswith("/") and glob.endswith("/"):
        try:
            pattern = re.compile(glob[1:-1])
        except re.error as error:
            raise RecipeError(f"sites {glob!r} are no regular expression: {error}") from error
        matches: Callable[[Site], bool] = lambda site: pattern.fullmatch(site.name) is not None  # noqa: E731
    else:
        tests = [_test(one) for one in glob.split("|")]
        matches = lambda site: any(test(site) for test in tests)  # noqa: E731
    return tuple(s for s in sites if s.part == part and (kind in ("*", s.kind)) and matches(s))


def _test(glob: str) -> Callable[[Site], bool]:
    if not is_selector(glob):
        # a place in the stream is no layer: a glob over names must say it
        return lambda site: (
            fnmatchcase(site.name, glob) and (site.kind not in PLACES or site.kind in glob)
        )
    role, _, place = glob.partition("@")
    if role in SHORTHANDS:
        kinds = SHORTHANDS[role]
        return lambda site: site.kind in kinds and _stands(site, place)
    if not any(_matches(known, role) for known in KNOWN_ROLES):
        raise RecipeError(
            f"no layer of any network is {role!r}{nearest(role, KNOWN_ROLES)} "
            f"(roles: attention.<self, cross or joint>.<q, k, v or out>, ff.<in or out>, temporal.<...>)"
        )
    return lambda site: has_role(site, role) and _stands(site, place)


def globs_of(sites: Sequence[Site], among: Sequence[Site]) -> str:
    """Return globs over module names that choose exactly ``sites`` of those ``among``, of one part and kind."""
    chosen = {site.name for site in sites}
    names = [site.name for site in among]
    by_pattern: dict[str, list[str]] = {}
    for name in sorted(chosen):
        by_pattern.setdefault(re.sub(r"(?<![^.])\d+(?![^.])", "*", name), []).append(name)
    globs: list[str] = []
    for pattern, members in by_pattern.items():
        exact = all(name in chosen for name in names if fnmatchcase(name, pattern))
        globs += [pattern] if exact else members
    return "|".join(globs)


def has_role(site: Site, role: str) -> bool:
    """Return whether ``site`` has the ``role`` (a glob). "attention.*.k" is of attention over time, too."""
    return bool(site.role) and _matches(site.role, role)


def _matches(known: str, role: str) -> bool:
    over_time = known.removeprefix(f"{TIME}attention")
    spellings = [known] if over_time == known else [known, f"attention.temporal{over_time}"]
    return any(fnmatchcase(spelling, role) for spelling in spellings)


def attention_kind(glob: str) -> str:
    """Return the one kind of attention whose sites or layers ``glob`` chooses, or ""."""
    kinds = set()
    for one in glob.split("|"):
        role = one.partition("@")[0]
        words = role.split(".")
        if role in SHORTHANDS:
            kinds.add(role)
        else:
            kinds.add(words[1] if words[0] == "attention" and len(words) > 1 else "")
    return kinds.pop() if len(kinds) == 1 else ""


def _stands(site: Site, place: str) -> bool:
    """Return whether ``site`` stands at ``place``: a block ("up.1"), several ("up"), or "scale=2"."""
    if place.startswith("scale="):
        return str(site.scale) == place.removeprefix("scale=")
    return not place or site.block == place or site.block.startswith(f"{place}.")
