"""Techniques are found by their ids in a package's text, and none is overlooked."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pcs_core.catalogue import Catalogue, catalogue
from pcs_core.catalogue.scan import techniques_in
from pcs_core.errors import UnknownNameError
from pcs_core.technique import Technique

PLUGIN = """
    from pcs_core.hookspecs import catalogue_hookimpl

    @catalogue_hookimpl
    def techniques():
        return "x_scan"
"""
TWO = '''
"""A module that would need torch, were it imported."""
import no_such_module


class Base(no_such_module.Technique):
    """No id: no technique."""

    size: int = 1


class Shift(Base):
    id = "toy.shift"
    catalogue = (
        "shifting",
        "moving",
    )
    formerly = ("toy.push",)


class Turn(Base):
    """Says "id = " in prose too."""

    id: ClassVar[str] = "toy.turn"
    catalogue: ClassVar[tuple[str, ...]] = ("moving",)
'''


def test_ids_are_read_without_importing(install: Callable[..., Path]) -> None:
    install("x-scan", PLUGIN, {"x_scan/deep/__init__.py": "", "x_scan/deep/two.py": TWO})
    catalogue = Catalogue.load("x-scan")
    assert catalogue.broken == []
    assert catalogue.ids("techniques") == ["toy.shift", "toy.turn"]
    assert catalogue.where("techniques", "toy.turn") == "x_scan.deep.two:Turn"
    assert catalogue.implements("toy.shift") == ("shifting", "moving")
    assert catalogue.technique_today("toy.push") == "toy.shift"
    assert catalogue.technique_today("toy.turn") == "toy.turn"
    assert catalogue.implementations() == {
        "shifting": ["toy.shift"],
        "moving": ["toy.shift", "toy.turn"],
    }
    with pytest.raises(UnknownNameError, match=r"a recipe names it 'toy\.shift' or 'toy\.turn'"):
        catalogue.get("techniques", "moving")
    assert "x_scan.deep.two" not in sys.modules


def test_one_id_twice_is_a_broken_plugin(install: Callable[..., Path]) -> None:
    install("x-scan", PLUGIN, {"x_scan/one.py": TWO, "x_scan/two.py": TWO})
    (broken,) = Catalogue.load("x-scan").broken
    assert broken.distribution == "x-scan"
    assert "x_scan.one:Shift and x_scan.two:Shift have one id, 'toy.shift'" in broken.error


def test_a_package_that_is_not_there_is_a_broken_plugin(install: Callable[..., Path]) -> None:
    install("x-scan", PLUGIN.replace('"x_scan"', '"x_gone"'))
    (broken,) = Catalogue.load("x-scan").broken
    assert "'x_gone', which is no installed package" in broken.error


def test_every_technique_of_a_searched_package_is_found() -> None:
    """What the text says and what Python makes of it are the same classes."""
    known = catalogue()
    packages = {known.where("techniques", id).split(".")[0] for id in known.ids("techniques")}
    for package in packages:
        for module in pkgutil.walk_packages(
            importlib.import_module(package).__path__, f"{package}."
        ):
            importlib.import_module(module.name)
    ids = {
        id: (technique.where, technique.catalogue, technique.formerly)
        for package in packages
        for id, technique in techniques_in(package).items()
    }
    waiting, classes = [Technique], {}
    while waiting:
        for cls in waiting.pop().__subclasses__():
            waiting.append(cls)
            if cls.id and cls.__module__.split(".")[0] in packages:
                where = f"{cls.__module__}:{cls.__qualname__}"
                classes[cls.id] = (where, cls.catalogue, cls.formerly)
    assert ids == classes
    assert set(ids) == set(known.ids("techniques"))
