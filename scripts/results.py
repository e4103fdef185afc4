"""Fit every ready-made system on the shipped subjects, draw, score, and write the results section.

    python scripts/results.py [--out build/results] [--subjects a,b] [--systems x,y]

Fits run through the command line (``pcs fit``), several subjects at once; what is already there is
not made again. Writes ``results.json`` and contact sheets under ``docs``, the table between the
markers of ``README.md``, and the evidence file that system status is computed from.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BACKBONE = "mini"
PLACES = ("beach", "grass", "night", "red", "blue", "snow")
PER_PLACE = 2
SEED = 7
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
UNTUNED, COPY = "untuned class prompt", "copy a reference"


def main() -> None:
    """Run what is missing and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "results")
    parser.add_argument("--subjects", default="")
    parser.add_argument("--systems", default="")
    parser.add_argument("--report", action="store_true", help="only rewrite the report")
    parser.add_argument(
        "--fits", action="store_true", help="only fit: systems can run side by side"
    )
    arguments = parser.parse_args()
    from pcs_core.catalogue import catalogue

    folders = single(catalogue().get("datasets", "mini.subjects")())
    wanted = [s for s in arguments.subjects.split(",") if s]
    folders = {n: f for n, f in folders.items() if not wanted or n in wanted}
    systems = [s for s in arguments.systems.split(",") if s] or sorted(catalogue().recipe_files())
    arguments.out.mkdir(parents=True, exist_ok=True)
    if not arguments.report:
        for system in systems:
            fit_all(system, folders, arguments.out / system)
    if not arguments.fits:
        report(systems, folders, arguments.out)


def single(folders: dict[str, Path]) -> dict[str, Path]:
    """Return the subjects of one thing or identity: styles and pairs ask for systems of their own."""
    from pcs_core import load_subject

    found = {name: load_subject(folder).concepts for name, folder in folders.items()}
    return {n: f for n, f in folders.items() if len(found[n]) == 1 and found[n][0].kind != "style"}


def fit_all(system: str, folders: dict[str, Path], out: Path) -> None:
    """Fit one system on all subjects through the command line, unless that is done."""
    if all(fitted(system, out / name) for name in folders):
        return
    started = time.monotonic()
    command = [
        sys.executable,
        "-m",
        "pcs_core.cli.main",
        "fit",
        system,
        *map(str, folders.values()),
    ]
    command += ["--backbone", BACKBONE, "--overwrite"]
    command += ["--out", str(out if len(folders) > 1 else out / next(iter(folders)))]
    subprocess.run(command, check=True)
    seconds = {"seconds": time.monotonic() - started, "subjects": len(folders)}
    (out.parent / f"{system}.time.json").write_text(json.dumps(seconds))


def fitted(system: str, folder: Path) -> bool:
    """Return whether ``folder`` holds a fit of the recipe as it is now."""
    from pcs_core import load, load_recipe

    if not (folder / "manifest.json").exists():
        return False
    return load(folder).recipe.hash == load_recipe(system, backbone=BACKBONE).hash


def report(systems: list[str], folders: dict[str, Path], out: Path) -> None:
    """Draw and score everything; write README, docs and evidence."""
    import torch

    from pcs_core import load, load_subject, open_backbone, sample
    from pcs_core.catalogue import catalogue
    from pcs_core.engine.prepare import fit_image

    for system in systems:
        for name in folders:
            if not fitted(system, out / system / name):
                raise SystemExit(
                    f"{out / system / name} holds no fit of {system} as its recipe is now"
                )
    backbone = open_backbone(BACKBONE)
    scorer = catalogue().get("feature_models", "mini.clip")()
    judge = catalogue().get("feature_models", "mini.judge")()
    phrases = catalogue().get("datasets", "mini.places")()
    rows: dict[str, dict[str, dict[str, float]]] = {}
    sheets: dict[str, list[Any]] = {}
    for name, folder in folders.items():
        subject = load_subject(folder)
        references = torch.stack([fit_image(i, backbone.card.size) for i in subject.images])
        concept = subject.concept
        places = [p for p in PLACES for _ in range(PER_PLACE)]
        plain = [f"a picture of a {concept.noun} {phrases[p]}" for p in PLACES]
        drawn = {
            COPY: references[torch.arange(len(places)) % len(references)],
        }
        settings: dict[str, Any] = {"count": PER_PLACE, "seed": SEED}
        first = load(out / systems[0] / name).recipe.sample
        drawn[UNTUNED] = sample(
            None, backbone, plain, steps=first.steps, scale=first.scale, **settings
        )
        for system in systems:
            prompts = [f"a picture of {concept.token} {phrases[p]}" for p in PLACES]
            drawn[system] = sample(load(out / system / name), backbone, prompts, **settings)
        texts = [t for t in plain for _ in range(PER_PLACE)]
        for row, images in drawn.items():
            rows.setdefault(row, {})[name] = {
                "similarity": float(scorer.subject_similarity(images, references)),
                "alignment": float(scorer.text_alignment(images, texts)),
                "place": float(judge.place_accuracy(images, places)),
            }
            sheets.setdefault(row, []).append((name, references, images[::PER_PLACE]))
        print(name, {r: rows[r][name] for r in drawn}, file=sys.stderr)
    write_sheets(systems, sheets)
    times = {
        s: json.loads((out / f"{s}.time.json").read_text())
        for s in systems
        if (out / f"{s}.time.json").exists()
    }
    facts = {
        "backbone": BACKBONE,
        "backbone_hash": backbone.card.hash,
        "places": PLACES,
        "pictures": len(PLACES) * PER_PLACE,
        "seed": SEED,
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "rows": rows,
        "times": times,
    }
    (ROOT / "docs" / "results.json").write_text(json.dumps(facts, indent=1) + "\n")
    table = markdown(systems, rows, facts)
    for file in (ROOT / "README.md",):
        text = file.read_text()
        head, _, rest = text.partition(BEGIN)
        file.write_text(f"{head}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}")
    write_evidence(systems, rows, facts)
    print(table)


def markdown(systems: list[str], rows: dict[str, Any], facts: dict[str, Any]) -> str:
    """Return the table: means over subjects, and how many subjects beat the untuned backbone."""
    base = rows[UNTUNED]
    lines = [
        "| | subject similarity | text alignment | place accuracy | beats untuned in similarity "
        "| seconds a subject |",
        "|---|---|---|---|---|---|",
    ]
    for row in (UNTUNED, COPY, *systems):
        scores = rows[row]
        mean = {
            k: sum(s[k] for s in scores.values()) / len(scores)
            for k in ("similarity", "alignment", "place")
        }
        wins = sum(scores[n]["similarity"] > base[n]["similarity"] for n in base)
        time_ = facts["times"].get(row)
        seconds = f"{time_['seconds'] / time_['subjects']:.0f}" if time_ else ""
        won = "" if row == UNTUNED else f"{wins} of {len(base)}"
        lines.append(
            f"| {row} | {mean['similarity']:.3f} | {mean['alignment']:.3f} "
            f"| {mean['place']:.2f} | {won} | {seconds} |"
        )
    details = [
        "",
        f"Means over {len(base)} held-out subjects, {facts['pictures']} pictures each "
        f"({len(facts['places'])} places, seed {facts['seed']}), scored by Mini-CLIP and, for places, "
        "the judge, on the Mini backbone; "
        f"{facts['machine']}, torch {facts['torch']}; made by `make results`. Seconds are the wall time of one "
        "joint fit of all subjects over their number, on cores that other fits shared. "
        "Subject similarity is the mean cosine to the references, so copying a reference is its upper "
        "end and ignores the prompt. Settings for Mini were chosen by looking at these subjects. Per subject:",
        "",
        "| subject | " + " | ".join((UNTUNED, *systems)) + " |",
        "|---|" + "---|" * (1 + len(systems)),
    ]
    for name in base:
        cells = [
            f"{rows[r][name]['similarity']:.3f} / {rows[r][name]['place']:.2f}"
            for r in (UNTUNED, *systems)
        ]
        details.append(f"| {name} | " + " | ".join(cells) + " |")
    links = ", ".join(f"[{r}](docs/images/{sheet_name(r)})" for r in (UNTUNED, *systems))
    details += [
        "",
        "(similarity / place accuracy). Contact sheets, a line per subject, two references and then "
        f"{', '.join(facts['places'])}: {links}.",
    ]
    return "\n".join([*lines, *details])


def write_sheets(systems: list[str], sheets: dict[str, list[Any]]) -> None:
    """Write one small contact sheet per row: two references, then a picture per place, a line per subject."""
    import numpy
    import torch
    from PIL import Image

    folder = ROOT / "docs" / "images"
    folder.mkdir(parents=True, exist_ok=True)
    for row in (UNTUNED, *systems):
        lines = [
            torch.cat([*references[:2], torch.ones(3, references.shape[2], 4), *images], dim=2)
            for _, references, images in sheets[row]
        ]
        sheet = torch.cat(lines, dim=1).permute(1, 2, 0).mul(255).round().byte().numpy()
        Image.fromarray(numpy.ascontiguousarray(sheet)).save(folder / sheet_name(row), quality=88)


def sheet_name(row: str) -> str:
    """Return the file name of a row's contact sheet."""
    return "results-" + row.replace(" ", "-") + ".jpg"


def write_evidence(systems: list[str], rows: dict[str, Any], facts: dict[str, Any]) -> None:
    """Record that each system ran end to end, with the hashes of recipe and weights that ran."""
    from pcs_core import installed
    from pcs_core.assembly import system_hash

    file = ROOT / "plugins" / "pcs-recipes" / "pcs_recipes" / "evidence.json"
    entries = json.loads(file.read_text()) if file.exists() else {}
    for system in systems:
        scores = rows[system].values()
        entries[system] = {
            "recipe_hash": system_hash(system),
            "backbone": BACKBONE,
            "weights": installed().get("datasets", f"{BACKBONE}.weights")(),
            "subjects": list(rows[system]),
            "measured": {
                k: round(sum(s[k] for s in scores) / len(scores), 4)
                for k in ("similarity", "alignment", "place")
            },
        }
    file.write_text(json.dumps(entries, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
