"""Renew the evidence that systems work: check, fit and draw what is outdated, and write a file for each.

    python scripts/evidence.py [--systems a,b] [--backbone mini] [--out build/evidence] [--all]

A system's evidence is outdated when its recipe or the code of its techniques changed. Where a brief fit still
draws the same picture (its probe), the evidence is carried over to the changed code in seconds. Otherwise the
defining check runs, then the benchmark's suite for its scope with the untuned base beside it, and the effect
is computed. An interrupted run goes on where it was. What no suite can measure is left to scripts/showcase.py.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pcs_core.data import Recipe
    from pcs_evidence.evidence import Evidence

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "plugins" / "pcs-recipes" / "pcs_recipes" / "evidence"
SUITES = {"face": "mini-face", "style": "mini-style"}
"""Suite of a system's first scope; `mini-object` of any other that a suite can measure."""
PROBED = {"face": "person_curly"}
"""Shipped subject that a probe is fitted on, by scope; `dog_pug` of any other."""
POINTS = ((0.36, 0.42), (0.64, 0.42), (0.5, 0.55), (0.4, 0.68), (0.6, 0.68))
PROTOCOL = ("--limit", "4", "--prompts", "10", "--seeds", "2")


def main() -> int:
    """Renew what is outdated and say what became of each system."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--systems", default="", help="only these")
    parser.add_argument("--backbone", default="mini")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "evidence")
    parser.add_argument("--all", action="store_true", help="renew also what is not outdated")
    parser.add_argument("--probes", action="store_true", help="only carry over what draws the same")
    arguments = parser.parse_args()
    names = [name for name in arguments.systems.split(",") if name]
    outdated = [
        row
        for row in candidates(arguments.backbone, names)
        if arguments.all or names or needs_renewal(row.id, arguments.backbone)
    ]
    left = [row for row in outdated if not carry_over(row, arguments.backbone)]
    if arguments.probes or not left:
        print(f"left: {', '.join(row.id for row in left) or 'nothing'}")
        return 0
    by_suite: dict[str, list[str]] = {}
    for row in left:
        if draws_by_boxes(row.id):
            record_places(row.id, arguments.backbone)
        elif measurable(row):
            by_suite.setdefault(SUITES.get(row.scope[0], "mini-object"), []).append(row.id)
        else:
            print(f"{row.id}: no suite measures it: scripts/showcase.py --systems {row.id}")
    for suite, systems in by_suite.items():
        run = arguments.out / suite
        draw(suite, systems, run, arguments.backbone)
        record_run(run)
    return 0


def candidates(backbone: str, names: list[str]) -> list[Any]:
    """Return the rows of systems with a recipe for ``backbone``, or of those named."""
    from pcs_evidence import systems

    rows = {row.id: row for row in systems()}
    if unknown := sorted(set(names) - set(rows)):
        raise SystemExit(f"no system {unknown[0]!r}: see pcs systems")
    return [
        row
        for row in rows.values()
        if (row.id in names if names else row.status != "planned" and backbone in row.backbones)
    ]


def measurable(row: Any) -> bool:
    """Return whether a suite of pictures and prompts can measure the system."""
    from pcs_bench.run.commands import ELSEWHERE

    return not ELSEWHERE.intersection(row.scope)


def draws_by_boxes(system: str) -> bool:
    """Return whether the system learns nothing and draws by the boxes of a layout."""
    from pcs_core import load_recipe

    recipe = load_recipe(system)
    return not recipe.phases and any(use.technique.reads_layout for use in recipe.uses)


def record_places(system: str, backbone: str) -> None:
    """Draw things into boxes, with and without the layout, and write how much of them is inside."""
    import time

    from pcs_bench.evidence.effect import effect
    from pcs_bench.evidence.places import METRIC, NOUNS, differences
    from pcs_bench.metrics.segment import border_contrast
    from pcs_core import load_recipe, open_backbone
    from pcs_evidence.evidence import Effect, Run

    started = time.monotonic()
    measured = differences(system, open_backbone(backbone), border_contrast, seeds=4, watch=print)
    observed = effect(measured, METRIC)
    assert observed is not None  # there are nouns
    run = Run(
        subjects=NOUNS,
        pictures=observed["pictures"],
        commands=(f"make evidence SYSTEMS={system}",),
        seconds=round(time.monotonic() - started),
    )
    evidence = evidence_of(system, load_recipe(system, backbone=backbone), backbone)
    write(evidence.model_copy(update={"run": run, "effect": Effect(**observed)}))
    print(f"{system}: {observed['mean']}")


def evidence_of(system: str, recipe: Recipe, backbone: str) -> Evidence:
    """Return evidence of ``recipe`` and its code as they are, with its defining check run."""
    from pcs_core import installed
    from pcs_evidence.evidence import (
        Evidence,
        installed_weights,
        recipe_code_hash,
        recipe_hash,
    )

    return Evidence(
        system=system,
        backbone=backbone,
        recipe=recipe_hash(recipe),
        code=recipe_code_hash(recipe),
        weights=installed_weights(backbone, installed()),
        checked=check(system),
    )


def stored(system: str, backbone: str) -> Evidence | None:
    """Return the evidence that is written down."""
    from pcs_core import installed
    from pcs_evidence.evidence import read_evidence

    return read_evidence(installed()).get(system, {}).get(backbone)


def needs_renewal(system: str, backbone: str) -> bool:
    """Return whether there is no evidence, or only of another recipe or other code."""
    from pcs_core import load_recipe
    from pcs_evidence.evidence import judge

    evidence = stored(system, backbone)
    if evidence is None:
        return True
    return bool(judge(evidence, load_recipe(system, backbone=backbone), "").outdated)


def probe_of(row: Any, backbone: str) -> tuple[float, ...]:
    """Return the probe of a system: a picture of a brief fit on a shipped subject."""
    from pcs_bench.evidence.probe import probe
    from pcs_core import installed, load_recipe, load_subject, open_backbone
    from pcs_core.data import Box, Layout

    folder = installed().get("datasets", "mini.subjects")()[PROBED.get(row.scope[0], "dog_pug")]
    subject = load_subject(folder, token="<probe>")
    reads_layout = any(
        use.technique.reads_layout for use in load_recipe(row.id, backbone=backbone).uses
    )
    layout = Layout((Box("<probe>", (0.0, 0.0, 0.5, 1.0)),), POINTS) if reads_layout else None
    return probe(row.id, open_backbone(backbone), subject, layout=layout)


def carry_over(row: Any, backbone: str) -> bool:
    """Return whether the system's evidence is of this recipe and its probe still draws the same.

    Then its file says the changed code. Evidence without a probe is given one while it is current.
    """
    from pcs_bench.evidence.probe import equal
    from pcs_core import load_recipe
    from pcs_evidence.evidence import recipe_code_hash, recipe_hash

    evidence = stored(row.id, backbone)
    recipe = load_recipe(row.id, backbone=backbone)
    if evidence is None or evidence.recipe != recipe_hash(recipe):
        return False
    code = recipe_code_hash(recipe)
    if not evidence.probe and evidence.code != code:
        return False
    now = probe_of(row, backbone)
    if evidence.probe and not equal(evidence.probe, now):
        print(f"{row.id}: draws another picture than before")
        return False
    write(evidence.model_copy(update={"code": code, "probe": evidence.probe or now}))
    print(f"{row.id}: draws as before")
    return True


def check(system: str) -> bool:
    """Return whether the system's defining check holds and each neighbour fails."""
    command = [sys.executable, "-m", "pcs_cli.main", "check", system, "--neighbours"]
    return subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode == 0


def draw(suite: str, systems: list[str], run: Path, backbone: str) -> None:
    """Run the benchmark of a suite; it goes on where it was."""
    command = [sys.executable, "-m", "pcs_cli.main", "bench", "run", suite, "--out", str(run)]
    command += ["--systems", ",".join(["untuned", *systems]), "--backbone", backbone, *PROTOCOL]
    subprocess.run(command, check=False)


def record_run(run: Path) -> None:
    """Write the evidence of every system that a benchmark's folder holds whole."""
    from pcs_bench.report.results import gather

    for system, evidence in from_results(gather(run)).items():
        write(evidence)
        effect = evidence.effect
        print(f"{system}: {effect.mean if effect else 'no effect measured'}")


def from_results(results: Any) -> dict[str, Evidence]:
    """Return evidence of the systems that a benchmark drew whole, by their recipes as they are now.

    Systems with failed cells, changed settings or fits of another recipe give none.
    """
    from pcs_bench.evidence.effect import effect, paired
    from pcs_bench.run.plan import BASELINES
    from pcs_core import load_recipe, open_backbone
    from pcs_evidence.evidence import Effect, Run

    protocol = results.protocol
    backbone = protocol["backbone"]
    if protocol["backbone_card"]["hash"] != open_backbone(backbone).card.hash:
        raise SystemExit(f"{results.folder}: drawn on another backbone than the installed one")
    evidence: dict[str, Evidence] = {}
    for row in results.rows:
        if row.system in BASELINES or row.failed or not row.done or protocol["settings"]:
            continue
        recipe = load_recipe(row.system, backbone=backbone)
        keys = {line.get("fit") for line in results.lines if line["system"] == row.system}
        fits = [results.fits[key] for key in keys & set(results.fits)]
        if any(fit["recipe_hash"] != recipe.hash for fit in fits):
            print(f"{row.system}: the run is of another recipe than the present one: no evidence")
            continue
        differences = paired(results.lines, row.system, results.fidelity)
        observed = effect(differences, results.fidelity)
        current = evidence_of(row.system, recipe, backbone)
        evidence[row.system] = current.model_copy(
            update={
                "run": Run(
                    suite=protocol["suite"],
                    subjects=tuple(protocol["subjects"]),
                    pictures=row.done,
                ),
                "effect": None if observed is None else Effect(**observed),
                "measured": {id: round(s.mean, 4) for id, s in sorted(row.scores.items())},
            }
        )
    return evidence


def write(evidence: Evidence, folder: Path | None = None) -> Path:
    """Write ``<folder>/<backbone>/<system>.json``, whole or not at all, and return its path."""
    from pcs_core import installed
    from pcs_evidence import with_sources

    evidence = with_sources(evidence, installed())
    path = (folder or FOLDER) / evidence.backbone / f"{evidence.system}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".json.partial")
    partial.write_text(evidence.render(), encoding="utf-8")
    partial.replace(path)
    return path


if __name__ == "__main__":
    sys.exit(main())
