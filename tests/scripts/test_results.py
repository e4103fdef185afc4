"""Evidence is of whole runs alone: by the recipe as it is, on the weights that are installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pcs_bench")
pytest.importorskip("pcs_mini")

import results as script

from pcs_bench.report.results import MetricFacts, Results, Row
from pcs_bench.report.statistics import Interval
from pcs_core import load_recipe, open_backbone
from pcs_core.assembly import system_status
from pcs_core.catalogue import catalogue

SYSTEM = "lora-dreambooth"


def results(
    *, failed: int = 0, recipe: str = "", backbone: str = "", settings: Any = ()
) -> Results:
    """What a run of one system on one subject says of itself."""
    mini = open_backbone("mini").card.hash
    scores = {
        "mini.clip-i": Interval(0.5, 0.4, 0.6, 2, 4),
        "mini.copy": Interval(0.1, None, None, 1, 4),
    }
    rows = [
        Row(name, name, "Object", "TTF", "mini", "", scores, 4 - failed, failed, seconds=12.3)
        for name in ("untuned", SYSTEM)
    ]
    protocol = {
        "suite": "mini-object",
        "subjects": ["bus_outlined"],
        "prompts": 2,
        "seeds": 2,
        "backbone": "mini",
        "backbone_card": {"hash": backbone or mini},
        "settings": list(settings),
        "machine": {"architecture": "x86_64", "cores": 2},
        "versions": {"torch": "2"},
    }
    hash = recipe or load_recipe(SYSTEM, backbone="mini").hash
    fits = {"a": {"system": SYSTEM, "recipe_hash": hash}}
    metrics = [
        MetricFacts("mini.clip-i", "Likeness"),
        MetricFacts("mini.copy", "Copies", higher=False),
    ]
    lines = [{"system": SYSTEM, "fit": "a"}]
    return Results(Path(), protocol, metrics, rows, [], lines, fits, "prompt")


def test_a_whole_run_makes_a_system_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "EVIDENCE", tmp_path / "evidence.json")
    found = script.evidence(results())
    assert set(found) == {SYSTEM}
    assert found[SYSTEM]["measured"] == {"mini.clip-i": 0.5, "mini.copy": 0.1}
    assert system_status(SYSTEM, catalogue(), found) == "ready"
    script.record({"other": {"backbone": "tiny"}})
    script.record(found)  # others stay
    assert set(json.loads((tmp_path / "evidence.json").read_text())) == {SYSTEM, "other"}


@pytest.mark.parametrize(
    "unlike", [{"failed": 1}, {"recipe": "another"}, {"settings": ["tune.steps=1"]}]
)
def test_no_evidence_of_less(unlike: dict[str, Any]) -> None:
    assert script.evidence(results(**unlike)) == {}


def test_another_backbone_is_refused() -> None:
    with pytest.raises(SystemExit, match="another backbone"):
        script.evidence(results(backbone="another"))


def test_the_table() -> None:
    lines = script.markdown(results()).splitlines()
    assert lines[0] == "|  | Likeness ↑ | Copies ↓ | seconds a fit |"
    assert f"| {SYSTEM} | 0.500 [0.400, 0.600] | 0.100 | 12 |" in lines
