"""What `pcs systems` says follows from what is installed and observed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from pcs_cli.main import main
from pcs_core.assembly import load_recipe
from pcs_core.catalogue import catalogue
from pcs_evidence import read_evidence, system_status, with_sources
from pcs_evidence.evidence import installed_weights, judge_unchanged, recipe_hash
from pcs_evidence.status import standings


def test_all_systems_are_listed_with_their_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["systems", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) >= 180
    keys = {"id", "name", "ref", "framework", "scope", "techniques", "uses", "backbones", "on"}
    assert all(keys <= set(row) for row in rows)
    known = read_evidence(catalogue())
    assert {r["id"]: r["status"] for r in rows} == {
        r["id"]: system_status(r["id"], catalogue(), known) for r in rows
    }


def test_a_listing_says_where_a_system_is_ready(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["systems", "--status", "ready"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["system", "status", "on"]
    assert all(line.split()[1:3] == ["ready", "mini"] for line in lines[1:] if " ready " in line)


@pytest.mark.parametrize(
    ("system", "backbone"),
    [(s, b) for s, of in read_evidence(catalogue()).items() for b in of],
)
def test_recorded_evidence_is_of_a_recipe_that_loads(system: str, backbone: str) -> None:
    evidence = read_evidence(catalogue())[system][backbone]
    recipe = load_recipe(system, backbone=backbone)
    assert evidence.recipe == recipe_hash(recipe), (
        f"{system}: its numbers on {backbone} changed since they were observed: "
        f"make evidence SYSTEMS={system}"
    )


@pytest.mark.parametrize("system", [s for s, of in read_evidence(catalogue()).items() if of])
def test_what_is_read_from_hashes_is_what_resolving_says(system: str) -> None:
    for backbone, evidence in read_evidence(catalogue())[system].items():
        now = with_sources(evidence, catalogue())
        resolved = standings(system, catalogue(), {backbone: now})[backbone]
        if not resolved.outdated:
            assert judge_unchanged(now, installed_weights(backbone, catalogue())) == resolved


def test_systems_as_they_were_observed_are_listed_without_torch() -> None:
    code = """
import sys
from pcs_core.catalogue import catalogue
from pcs_evidence import read_evidence, system_status, written
known = catalogue()
current = 0
for system, of in read_evidence(known).items():
    now = {backbone: written(system, backbone, known) for backbone in of}
    if all(now[b] and of[b].sources == now[b].sources for b in of):
        assert system_status(system, known) != "planned"
        current += 1
assert "torch" not in sys.modules
print(current)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 0
