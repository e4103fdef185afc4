"""A catalogue of real technique classes and recipe files made for one test."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from pcs_core.catalogue import Catalogue, FoundPlugin
from pcs_core.catalogue.holdings import Holdings

TOYS = '''
"""Techniques for the assembly's tests."""
from typing import Annotated, Literal

from pydantic import Field

from pcs_core.hookspecs import hookimpl
from pcs_core.technique import Technique


class Shift(Technique):
    id = "toy.shift"
    catalogue = ("shift", "offset")
    rank: Annotated[int, Field(ge=1)] = 4
    """How many."""
    alpha: float = 1.0
    parts: tuple[Literal["k", "v"], ...] = ("k", "v")
    label: str | None = None

    @hookimpl
    def fuse(self, run):
        return None

    @hookimpl
    def regularize(self, run, step):
        return None


class Wrap(Technique):
    id = "toy.wrap"
    weight: Annotated[float, Field(ge=0)] = 0.5

    @hookimpl(wrapper=True)
    def sample(self, run, step):
        return (yield)

    @hookimpl(tryfirst=True)
    def regularize(self, run, step):
        return None


class Denoise(Technique):
    id = "core.denoise"

    @hookimpl(trylast=True)
    def regularize(self, run, step):
        return None

    @hookimpl(trylast=True)
    def sample(self, run, step):
        return None


class Wrong(Technique):
    id = "toy.wrong"

    @hookimpl
    def fuse(self, run, no_such_argument):
        return None


class Named(Technique):
    id = "toy.named"
    name: str = ""


class Liar(Technique):
    id = "toy.other"


class Plain:
    pass


def check():
    return None
'''

MakeCatalogue = Callable[..., Catalogue]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeCatalogue:
    """Return a function that makes a catalogue of the toys and of recipes by system id."""
    (tmp_path / "x_toys.py").write_text(TOYS, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "x_toys", raising=False)

    def catalogue(
        recipes: Mapping[str, str] | None = None,
        nouns: Mapping[str, Mapping[str, str]] | None = None,
    ) -> Catalogue:
        folder = tmp_path / "recipes"
        folder.mkdir(exist_ok=True)
        files = {}
        for id, text in (recipes or {}).items():
            files[id] = folder / f"{id}.toml"
            files[id].write_text(textwrap.dedent(text), encoding="utf-8")
        classes = ("Shift", "Wrap", "Wrong", "Named", "Plain")
        techniques = {f"toy.{name.lower()}": f"x_toys:{name}" for name in classes}
        techniques["toy.liar"] = "x_toys:Liar"
        techniques["toy.absent"] = "x_toys:Absent"
        plugin = FoundPlugin("toys", "x-toys", "1", "x_toys", None)
        return Catalogue([Holdings(plugin, {"techniques": techniques, **(nouns or {})}, files)])

    return catalogue
