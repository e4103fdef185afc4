"""Who is in the world: what training draws, how often, and what is held out for good."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from pcs_core.errors import nearest
from pcs_mini.world.assets import Assets, AssetsError

WORDS_FILE = Path(__file__).parent / "words.toml"
HELD_OUT_FILE = Path(__file__).parent / "held_out.toml"

KINDS: Mapping[str, float] = {"drawn": 0.70, "solid": 0.16, "person": 0.14}
"""Kind of subject -> share of the draws."""
CORE_SHARE = 0.55
"""Share of the drawn subjects that is a concept of `core`, those that people name first."""
SOLID, PERSON = "solid", "person"
"""Style word of solids; concept word of people."""


@dataclass(frozen=True)
class HeldOut:
    """What ``held_out.toml`` says."""

    concepts: frozenset[str]
    instances: frozenset[tuple[str, str]]
    """Concept and style."""
    styles: frozenset[str]
    avatar_styles: frozenset[str]
    identities: frozenset[tuple[str, str]]
    """Style and identity."""
    relations: frozenset[str]


@dataclass(frozen=True, order=True)
class Member:
    """Something that can be drawn: a concept in a style, or an identity in a style."""

    kind: str
    """``drawn``, ``solid`` or ``person``."""
    concept: str
    style: str
    identity: str = ""
    """Of a person; empty otherwise."""


@cache
def held_out() -> HeldOut:
    """The list of the shipped world."""
    data = tomllib.loads(HELD_OUT_FILE.read_text(encoding="utf-8"))

    def pairs(key: str) -> frozenset[tuple[str, str]]:
        return frozenset((a, b) for a, _, b in (entry.partition("/") for entry in data[key]))

    return HeldOut(
        concepts=frozenset(data["concepts"]),
        instances=pairs("instances"),
        styles=frozenset(data["styles"]),
        avatar_styles=frozenset(data["avatar_styles"]),
        identities=pairs("identities"),
        relations=frozenset(data["relations"]),
    )


@cache
def core() -> tuple[str, ...]:
    """Concepts that people name first, and that are drawn more often."""
    return tuple(_words()["core"]["names"])


@cache
def left_out() -> frozenset[str]:
    """Drawings that are scenes and not subjects: nobody draws them."""
    return frozenset(_words()["left_out"])


@cache
def _words() -> dict[str, Any]:
    return tomllib.loads(WORDS_FILE.read_text(encoding="utf-8"))


def is_held_out(assets: Assets, member: Member) -> bool:
    """Whether training must never draw this member."""
    lists = held_out()
    if member.kind == PERSON:
        return (
            member.style in lists.avatar_styles
            or (member.style, member.identity) in lists.identities
            or assets.people[member.style][member.identity].held_out
        )
    return (
        member.concept in lists.concepts
        or member.style in lists.styles
        or (member.concept, member.style) in lists.instances
    )


def members(assets: Assets) -> list[Member]:
    """Everything in the archive, in a fixed order."""
    everything = [
        Member("drawn", concept, style)
        for concept, about in assets.drawn.items()
        if concept not in left_out()
        for style in sorted(about.styles)
    ]
    everything += [Member("solid", concept, SOLID) for concept in assets.solids]
    everything += [
        Member("person", PERSON, style, identity)
        for style, those in assets.people.items()
        for identity in those
    ]
    return everything


class Population:
    """Members to draw from. `open_cast` gives the trained ones or the held-out ones."""

    def __init__(self, chosen: Sequence[Member]) -> None:
        self.members = tuple(chosen)
        self._drawn: dict[str, list[Member]] = {}
        self._people: dict[str, list[Member]] = {}
        self._solids: list[Member] = []
        for member in self.members:
            if member.kind == "drawn":
                self._drawn.setdefault(member.concept, []).append(member)
            elif member.kind == "solid":
                self._solids.append(member)
            else:
                self._people.setdefault(member.style, []).append(member)
        self._core = [concept for concept in core() if concept in self._drawn]
        self._rest = [concept for concept in self._drawn if concept not in set(core())]
        self._styles = list(self._people)
        by_kind = {"drawn": self._drawn, "solid": self._solids, "person": self._people}
        self._kinds = [kind for kind in KINDS if by_kind[kind]]
        shares = np.array([KINDS[kind] for kind in self._kinds])
        self._shares = np.cumsum(shares / shares.sum()) if len(shares) else shares

    @property
    def concepts(self) -> list[str]:
        """Concepts that this population draws, drawn and solid, sorted."""
        return sorted({m.concept for m in self.members if m.kind != PERSON})

    def styles(self, concept: str) -> list[str]:
        """Styles in which this population draws the concept."""
        return sorted({m.style for m in self.members if m.concept == concept})

    def find(self, concept: str, style: str | None = None) -> list[Member]:
        """Members of this concept, in this style if one is given.

        Raises
        ------
        AssetsError
            If this population has none.
        """
        if concept in self._drawn and style != SOLID:
            those = self._drawn[concept]
        else:
            those = [m for m in self.members if m.concept == concept]
        those = [m for m in those if style is None or m.style == style]
        if not those:
            what = f"{style!r} {concept!r}" if style else repr(concept)
            raise AssetsError(f"this population draws no {what}{nearest(concept, self.concepts)}")
        return those

    def pick(
        self, rng: np.random.Generator, kind: str | None = None, style: str | None = None
    ) -> Member:
        """Draw a member. `style` is kept where the concept that comes up is drawn in it."""
        if kind is None:
            if not self._kinds:
                raise AssetsError(
                    "this population is empty: the archive holds nothing that it may draw"
                )
            at = int(np.searchsorted(self._shares, rng.random(), side="right"))
            kind = self._kinds[min(at, len(self._kinds) - 1)]
        if kind not in self._kinds:
            raise AssetsError(f"this population has no {kind!r}: one of {', '.join(self._kinds)}")
        if kind == "solid":
            return self._solids[rng.integers(len(self._solids))]
        if kind == "person":
            those = self._people[self._styles[rng.integers(len(self._styles))]]
            return those[rng.integers(len(those))]
        often = bool(self._core) and (not self._rest or rng.random() < CORE_SHARE)
        pool = self._core if often else self._rest
        those = self._drawn[pool[rng.integers(len(pool))]]
        same = [member for member in those if member.style == style]
        return same[0] if same else those[rng.integers(len(those))]


def open_population(assets: Assets, *, trained: bool = True) -> Population:
    """The members that training draws, or with ``trained=False`` those it never draws."""
    return Population([m for m in members(assets) if is_held_out(assets, m) != trained])
