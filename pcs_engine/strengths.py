"""How strongly a personalization acts in a drawing: of each use, and of the numbers that its edits read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from pcs_core.errors import InputError, nearest

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Fusion, Personalization, Use
    from pcs_engine.run import EngineRun

KIND = "strength:"


def strength_names(uses: Sequence[Use]) -> dict[str, str]:
    """Return what a drawing may weigh of ``uses``: each name that is read -> the use's full name.

    That is in full ("weights.lora"), or by its last word ("lora") where no other ends so; of an artifact that
    is added behind another both stand behind its own name ("style:lora").
    """
    weighed = [use.name for use in uses if use.technique.weighed()]
    short = [_short(name) for name in weighed]
    names = {s: name for s, name in zip(short, weighed, strict=True) if short.count(s) == 1}
    return names | {name: name for name in weighed}


def number_names(uses: Sequence[Use]) -> list[str]:
    """Return the names of the numbers that edits of ``uses`` read ("control.scale")."""
    words = [word for use in uses for word in use.technique.words().writes]
    return [word.removeprefix(KIND) for word in words if word.startswith(KIND)]


def part_strengths(
    given: Mapping[str, float], uses: Sequence[Use]
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the strengths of uses by their full names, and those of numbers that edits read.

    The name of an artifact that is added behind another means all of its uses.

    Raises
    ------
    InputError
        A name that nothing reads, or two strengths of one use; lists those there are.
    """
    names, known = strength_names(uses), number_names(uses)
    weights: dict[str, float] = {}
    numbers: dict[str, float] = {}
    for name, value in given.items():
        if name in known:
            numbers[name] = value
            continue
        whole = dict.fromkeys(full for full in names.values() if full.startswith(f"{name}:"))
        meant = [names[name]] if name in names else list(whole)
        if not meant:
            listing = ", ".join(listed_strengths(uses)) or "it has none"
            parts = {part for full in names.values() if (part := full.rpartition(":")[0])}
            raise InputError(
                f"unknown strength {name!r}{nearest(name, [*names, *known, *parts])} (of this "
                f"personalization: {listing})"
            )
        for full in meant:
            if weights.setdefault(full, value) != value:
                raise InputError(f"strength {name!r}: {full!r} is given another already")
    return weights, numbers


def read_numbers(numbers: Mapping[str, float], fusion: Fusion) -> dict[str, float]:
    """Return ``numbers``, if the edits of ``fusion`` read each of them.

    Raises
    ------
    InputError
        With the settings that it has, a technique reads one of its strengths in no edit.
    """
    for name in numbers:
        if name not in fusion.strengths:
            raise InputError(f"strength {name!r} changes nothing here: nothing of it acts")
    return dict(numbers)


def listed_strengths(uses: Sequence[Use]) -> list[str]:
    """Return the names that `part_strengths` reads, one for each thing, the shortest, in recipe order."""
    names = strength_names(uses)
    shortest = {full: full for full in names.values()}
    shortest |= {full: name for name, full in names.items() if len(name) < len(full)}
    return [*shortest.values(), *number_names(uses)]


def weighed_tensors(
    artifact: Personalization,
    tensors: Mapping[str, Tensor],
    weights: Mapping[str, float],
    run: EngineRun,
) -> dict[str, Tensor]:
    """Return ``tensors`` of ``artifact`` as its uses act with ``weights``; those at 1 are the very same."""
    uses = {use.name: use.technique for use in artifact.recipe.uses}
    weighed = dict(tensors)
    for use, strength in weights.items():
        globs = uses[use].weighed() if use in uses and strength != 1 else ()
        for name, value in tensors.items():
            owner, _, rest = name.partition("/")
            if owner == use and any(fnmatchcase(rest, glob) for glob in globs):
                weighed[name] = uses[use].at_strength(run, rest, value, strength)
    return weighed


def _short(name: str) -> str:
    part, colon, use = name.rpartition(":")
    return f"{part}{colon}{use.rpartition('.')[2]}"
