"""Who is in the world and who is held out of it, read from ``holdout.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HOLDOUT_FILE = Path(__file__).parent / "holdout.toml"


@dataclass(frozen=True)
class Roster:
    """Nouns and styles of the world; the held-out ones are never drawn for training."""

    nouns: Mapping[str, str]
    """Trained noun -> icon name."""
    styles: Mapping[str, str]
    """Trained style word -> icon set."""
    scorer_nouns: Mapping[str, str]
    """Further nouns, in the trained styles, that only the scorer's training draws."""
    held_out_nouns: Mapping[str, str]
    held_out_styles: Mapping[str, str]

    @property
    def world_nouns(self) -> dict[str, str]:
        """Trained and held-out nouns: what the tokenizer knows as whole words."""
        return {**self.nouns, **self.held_out_nouns}

    @property
    def all_nouns(self) -> dict[str, str]:
        """Every noun that has drawings."""
        return {**self.world_nouns, **self.scorer_nouns}

    @property
    def all_styles(self) -> dict[str, str]:
        """Trained and held-out styles."""
        return {**self.styles, **self.held_out_styles}

    def is_trained(self, noun: str, style: str) -> bool:
        """Whether training may draw this noun in this style."""
        return noun in self.nouns and style in self.styles


@cache
def roster() -> Roster:
    """The roster of the shipped world."""
    data = tomllib.loads(HOLDOUT_FILE.read_text(encoding="utf-8"))
    return Roster(
        nouns=data["nouns"],
        styles=data["styles"],
        scorer_nouns=data["scorer"]["nouns"],
        held_out_nouns=data["held_out"]["nouns"],
        held_out_styles=data["held_out"]["styles"],
    )
