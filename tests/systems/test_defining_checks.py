"""Every system's claims hold, stop holding when its key setting is off, and fail on every neighbour."""

from __future__ import annotations

import json

import pytest

from pcs_checks.run import NEIGHBOURS, find
from pcs_checks.table import read_check
from pcs_cli.main import main
from pcs_core.catalogue import catalogue
from pcs_core.errors import RecipeError

SYSTEMS = sorted(catalogue().recipe_files())
PAIRS = [(s, n.name) for s in SYSTEMS for n in find(s).table.neighbour]


@pytest.mark.rotated(6)
@pytest.mark.parametrize("system", SYSTEMS)
def test_holds(system: str) -> None:
    report = find(system).run()
    assert report.system == system
    assert report.holds, [row for row in report.rows if not row.holds]


@pytest.mark.rotated(6)
@pytest.mark.parametrize("system", SYSTEMS)
def test_fails_when_neutral(system: str) -> None:
    assert find(system).table.neutral
    assert not find(system).run(neutral=True).holds


@pytest.mark.rotated(6)
@pytest.mark.parametrize(("system", "name"), PAIRS)
def test_fails_on_a_neighbour(system: str, name: str) -> None:
    check = find(system)
    neighbour = next(n for n in check.table.neighbour if n.name == name)
    assert not check.against(neighbour).holds, neighbour.why


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_recipe_names_claims_and_neighbours(system: str) -> None:
    table = find(system).table
    assert len(table.neighbour) >= NEIGHBOURS
    assert table.claim
    for neighbour in table.neighbour:
        assert bool(neighbour.set) or bool(neighbour.remove)


@pytest.mark.parametrize(("options", "code"), [([], 0), (["--neutral"], 1)])
def test_exit_codes(options: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "lora-dreambooth", *options]) == code
    assert "another subject" in capsys.readouterr().out


def test_neighbours_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "p-plus", "--neighbours", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["holds"]
    assert {n["name"] for n in printed["neighbours"]} == {n for s, n in PAIRS if s == "p-plus"}
    assert not any(n["holds"] for n in printed["neighbours"])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"clame": []}, r"r.toml: \[check\] clame: .*did you mean 'claim'"),
        ({"claim": [{"claim": "storse"}]}, r"no claim 'storse', did you mean 'stores'"),
        ({"neighbour": [{"name": "a", "why": "b"}] * 2}, r"two neighbours are called 'a'"),
    ],
)
def test_what_is_wrong_with_a_table_is_told(table: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        read_check(table, "r.toml", ("stores", "terms"))
