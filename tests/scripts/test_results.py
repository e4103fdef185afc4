"""Evidence is of whole runs alone: by the recipe as it is, on the weights that are installed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pcs_bench")
pytest.importorskip("pcs_mini")

import evidence
import results as script

from pcs_bench.report.results import MetricFacts, Results, Row
from pcs_bench.report.statistics import Interval
from pcs_core import load_recipe, open_backbone
from pcs_core.catalogue import catalogue
from pcs_core.errors import InputError
from pcs_evidence import Evidence, system_status

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
    values = {
        (SYSTEM, "bus"): 0.2,
        (SYSTEM, "owl"): 0.4,
        ("untuned", "bus"): 0.1,
        ("untuned", "owl"): 0.1,
    }
    lines = [
        {
            "system": system,
            "subject": subject,
            "index": index,
            "seed": 0,
            "state": "done",
            "fit": "a",
            "scores": {"mini.clip-i": value},
        }
        for (system, subject), value in values.items()
        for index in range(2)
    ]
    return Results(
        Path(), protocol, metrics, rows, [], lines, fits, "prompt", fidelity="mini.clip-i"
    )


@pytest.mark.rotated
def test_a_whole_run_makes_a_system_ready(tmp_path: Path) -> None:
    by_system = evidence.from_results(results())
    assert set(by_system) == {SYSTEM}
    observed = by_system[SYSTEM]
    assert observed.measured == {"mini.clip-i": 0.5, "mini.copy": 0.1}
    assert observed.run is not None
    assert (observed.run.suite, observed.run.pictures) == ("mini-object", 4)
    # subjects' means 0.2 and 0.4, minus 0.1 of the base on the same subject, prompt and seed
    assert observed.effect is not None
    assert observed.effect.mean == pytest.approx(0.2)
    assert (observed.effect.low, observed.effect.high) == (0.1, 0.3)
    checked = observed.model_copy(update={"checked": True})
    assert system_status(SYSTEM, catalogue(), {SYSTEM: {"mini": checked}}) == "ready"
    path = evidence.write(checked, tmp_path)
    assert path == tmp_path / "mini" / f"{SYSTEM}.json"
    written = Evidence.model_validate_json(path.read_text())
    assert written == checked.model_copy(update={"sources": written.sources})
    assert len(written.sources) == 64 or not written.sources, (
        "the hash is noted where it is written"
    )
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "unlike", [{"failed": 1}, {"recipe": "another"}, {"settings": ["tune.steps=1"]}]
)
def test_no_evidence_of_less(unlike: dict[str, Any]) -> None:
    assert evidence.from_results(results(**unlike)) == {}


def test_another_backbone_is_refused() -> None:
    with pytest.raises(SystemExit, match="another backbone"):
        evidence.from_results(results(backbone="another"))


def test_a_picture_without_its_untuned_partner_is_refused() -> None:
    alone = results()
    alone.lines = [line for line in alone.lines if line["system"] == SYSTEM]
    with pytest.raises(InputError, match="untuned"):
        evidence.from_results(alone)


def test_the_table() -> None:
    lines = script.markdown(results()).splitlines()
    assert lines[0] == "|  | Likeness ↑ | Copies ↓ | seconds a fit |"
    assert f"| {SYSTEM} | 0.500 [0.400, 0.600] | 0.100 | 12 |" in lines


def test_later_systems_stand_beside_those_of_earlier_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "results.md"
    parts = (script.BEGIN, script.END, script.LATER, script.LATER_END)
    page.write_text("\n".join(parts), "utf-8")
    monkeypatch.setattr(script, "PAGE", page)
    monkeypatch.setattr(script, "write_sheets", lambda *_: None)
    run = results()
    untuned, fitted = run.rows
    other = replace(untuned, system="hiper", name="HiPer", scores={})
    for rows in ([fitted], [other], [fitted]):
        script.write_later(replace(run, rows=rows))
    text = page.read_text("utf-8")
    lines = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")]
    assert lines == ["| ", "| HiPer", f"| {SYSTEM}"]  # the head, then a line for each
    assert text.count("(images/") == 2
    assert text.index("[HiPer]") < text.index(f"[{SYSTEM}]")
