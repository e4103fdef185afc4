"""Discovery, ids by noun, broken and conflicting plugins."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pcs_core.catalogue import Catalogue
from pcs_core.errors import ConflictError, PcsError, UnknownNameError

Install = Callable[..., Path]

GOOD = """
    from pcs_core.hookspecs import catalogue_hookimpl

    @catalogue_hookimpl
    def techniques():
        return {"toy.shift": "x_good.toys:Shift", "toy.gone": "x_good.missing:Gone"}

    @catalogue_hookimpl
    def recipes():
        return ["x_good.systems"]
"""
HOOK = "from pcs_core.hookspecs import catalogue_hookimpl as h\n"
TOYS = {
    "x_good/toys.py": "class Shift:\n    pass\n",
    "x_good/systems/__init__.py": "",
    "x_good/systems/first.toml": "",
    "x_good/systems/faces/second.toml": "",
    "x_good/systems/faces/notes.txt": "",
    "x_good/systems/catalogue/systems.toml": "",
}


def load(plugins: str = "x-good,x-other,x-bad") -> Catalogue:
    return Catalogue.load(plugins)


def test_ids_and_objects_of_a_plugin(install: Install) -> None:
    install("x-good", GOOD, TOYS)
    catalogue = load("x-good")
    assert catalogue.broken == []
    assert catalogue.ids("techniques") == ["toy.gone", "toy.shift"]
    assert catalogue.where("techniques", "toy.shift") == "x_good.toys:Shift"
    assert catalogue.distribution("techniques", "toy.shift") == "x-good"
    assert "x_good.toys" not in sys.modules
    assert catalogue.get("techniques", "toy.shift").__name__ == "Shift"
    assert catalogue.ids("optimizers") == []


def test_plugin_info(install: Install) -> None:
    install("x-good", GOOD, TOYS)
    (info,) = load("x-good").plugins()
    assert (info.name, info.distribution, info.version) == ("good", "x-good", "1.2")
    assert info.module == "x_good.plugin"
    assert info.counts == {"techniques": 2, "recipes": 2}


def test_recipe_files_are_found_in_folders_but_not_among_the_facts(install: Install) -> None:
    install("x-good", GOOD, TOYS)
    catalogue = load("x-good")
    assert list(catalogue.system_files()) == ["first", "second"]
    assert catalogue.recipe_file("second").name == "second.toml"
    with pytest.raises(UnknownNameError, match=r"no system 'frist', did you mean 'first'\?"):
        catalogue.recipe_file("frist")


def test_unknown_ids_and_nouns_name_the_nearest(install: Install) -> None:
    install("x-good", GOOD, TOYS)
    catalogue = load("x-good")
    with pytest.raises(
        UnknownNameError, match=r"no technique 'toy.shfit', did you mean 'toy.shift'\?"
    ):
        catalogue.get("techniques", "toy.shfit")
    with pytest.raises(UnknownNameError, match="did you mean 'techniques'"):
        catalogue.ids("technics")
    with pytest.raises(UnknownNameError, match="no installed plugin holds any, install the plugin"):
        catalogue.where("metrics", "clip")


def test_what_does_not_import_is_an_error_that_names_it(install: Install) -> None:
    install("x-good", GOOD, TOYS)
    with pytest.raises(PcsError, match=r"'toy.gone' of x-good .* No module named 'x_good.missing'"):
        load("x-good").get("techniques", "toy.gone")


@pytest.mark.parametrize(
    ("plugin", "error"),
    [
        ("import no_such_module_here", "No module named 'no_such_module_here'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("def (", "SyntaxError"),
        (
            HOOK + "@h\ndef techniqes(): return {}",
            "techniqes",
        ),
        (
            HOOK + "@h\ndef techniques(): 1 / 0",
            "ZeroDivisionError",
        ),
        (
            HOOK + "@h\ndef techniques(): return []",
            "techniques\\(\\) returns list",
        ),
        (
            HOOK + "@h\ndef techniques(): return {'a.b': 'no colon'}",
            "maps 'a.b' to 'no colon'",
        ),
        (
            HOOK + "@h\ndef recipes(): return 'ab'",
            "not a list of package names",
        ),
        (
            HOOK + "@h\ndef recipes(): return ['x_bad.nothing']",
            "No module named 'x_bad.nothing'",
        ),
    ],
)
def test_a_broken_plugin_is_a_line_and_the_others_work(
    install: Install, plugin: str, error: str
) -> None:
    install("x-bad", plugin)
    install("x-good", GOOD, TOYS)
    catalogue = load()
    assert catalogue.ids("techniques") == ["toy.gone", "toy.shift"]
    (broken,) = [b for b in catalogue.broken if b.distribution == "x-bad"]
    assert broken.name == "bad"
    assert "\n" not in broken.error
    assert re.search(error, broken.error), broken.error


def test_an_id_held_twice_is_a_conflict_when_it_is_used(install: Install) -> None:
    install("x-good", GOOD, TOYS)
    other = GOOD.replace("x_good", "x_other").replace("toy.gone", "toy.more")
    install("x-other", other, {k.replace("x_good", "x_other"): v for k, v in TOYS.items()})
    catalogue = load()
    assert catalogue.where("techniques", "toy.more") == "x_other.missing:Gone"
    for use in (catalogue.get, catalogue.where, catalogue.distribution):
        with pytest.raises(ConflictError, match=r"'toy.shift' comes from both x-good .* x-other"):
            use("techniques", "toy.shift")
    with pytest.raises(ConflictError, match=r"system 'first' comes from both x-good .* x-other"):
        catalogue.recipe_file("first")
    assert len(catalogue.conflicts) == 3


def test_pcs_plugins_limits_by_entry_point_or_distribution(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("x-good", GOOD, TOYS)
    install("x-other", "")
    names = [p.distribution for p in Catalogue.load().plugins()]
    assert {"x-good", "x-other"} <= set(names)
    for limit in ("good", "x-good", "X_Good", " good , "):
        monkeypatch.setenv("PCS_PLUGINS", limit)
        distributions = {p.distribution for p in Catalogue.load().plugins()}
        assert distributions - {"pcs-core"} == {"x-good"}
    monkeypatch.setenv("PCS_PLUGINS", "")
    assert {p.distribution for p in Catalogue.load().plugins()} <= {"pcs-core"}


def test_pcs_plugins_that_names_nothing_installed_is_told(install: Install) -> None:
    install("x-good", GOOD, TOYS)
    (broken,) = Catalogue.load("x-goood").broken
    assert "'x-goood', which is not installed, did you mean 'x-good'?" in broken.error


FACTS = """
    from pcs_core.hookspecs import catalogue_hookimpl

    @catalogue_hookimpl
    def datasets():
        return {
            "catalogue.techniques": "x_facts.facts:techniques",
        }
"""
ENTRIES = """
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Technique:
        id: str
        distribution: str

    def techniques():
        return [Technique("kv-delta", "pcs-weights")]
"""


def test_known_but_not_installed_names_the_distribution(install: Install) -> None:
    install("x-facts", FACTS, {"x_facts/facts.py": ENTRIES})
    catalogue = Catalogue.load("x-facts")
    with pytest.raises(UnknownNameError, match=r"pcs-weights \(pip install \./plugins/pcs-weights"):
        catalogue.get("techniques", "weights.kv")
    with pytest.raises(UnknownNameError, match=r"no technique 'other\.kv'"):
        catalogue.get("techniques", "other.kv")  # of no distribution that the facts name


def test_broken_facts_only_shorten_the_message(install: Install) -> None:
    install("x-facts", FACTS, {"x_facts/facts.py": "raise ValueError('oops')"})
    with pytest.raises(UnknownNameError, match=r"no technique 'weights\.kv'"):
        Catalogue.load("x-facts").get("techniques", "weights.kv")


def test_the_room_imports_no_torch() -> None:
    code = (
        "import sys; from pcs_core.catalogue import catalogue; catalogue(); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
