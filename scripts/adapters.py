"""Train the pre-trained systems on Mini, measure what they carry over, and put the weights where they ship.

    python scripts/adapters.py                       # all of it: train what is missing, measure, ship
    python scripts/adapters.py train --images 60000  # one step; an interrupted training goes on where it was
    python scripts/adapters.py train measure --backbone FOLDER --out try --steps 20 --subjects 2

Training runs several systems side by side, one core each, with the settings that the recipes have for Mini.
Measuring gives a fitted system pictures of subjects that no training drew, lets it draw them elsewhere, and
compares with further pictures of them: with the adapter, at strength 0, and with another subject's references.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ROOT / "plugins" / "pcs-mini-adapters" / "pcs_mini_adapters" / "weights"
SYSTEMS = ("instantid", "ip-adapter", "fastcomposer")
"""The slowest first, so that the cores are free at about the same time."""
STRENGTHS = {
    "ip-adapter": ("image.scale",),
    "fastcomposer": ("image.words",),
    "instantid": ("face.scale", "control.scale"),
}
RULERS = {"instantid": ("mini.identity", "mini.views")}
"""What measures likeness; the first of an entry is the one the card quotes first."""
OTHERWISE = ("mini.views", "mini.clip")
PLACES = ("beach", "grass", "red", "blue")
GIVEN, KEPT = 3, 4
"""Pictures of a subject that the system is shown, and that it is compared with."""
OWN, NONE, OTHER, UNTUNED = "own references", "strength 0", "another's references", "untuned"


def main() -> None:
    """Do the steps asked for, in their order."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("do", nargs="*", help="train, measure, ship; all three if none is named")
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--backbone", default="mini", help="mini, or a folder in its layout")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "adapters")
    parser.add_argument("--images", type=int, help="pictures to train on; default: the recipe's")
    parser.add_argument("--steps", type=int, help="steps, in place of --images")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--precision", default="bf16", choices=("no", "bf16"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--init", type=Path, help="--out of an earlier training to start from")
    parser.add_argument("--anew", action="store_true", help="throw away what was begun")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--subjects", type=int, default=24, help="held-out subjects to measure on")
    parser.add_argument("--rulers", default="", help="feature models, in place of the usual ones")
    arguments = parser.parse_args()
    steps = arguments.do or ["train", "measure", "ship"]
    if unknown := set(steps) - {"train", "measure", "ship"}:
        parser.error(f"no step {', '.join(sorted(unknown))}: train, measure, ship")
    systems = [s for s in SYSTEMS if s in arguments.systems.split(",")]
    arguments.out.mkdir(parents=True, exist_ok=True)
    if "train" in steps:
        train_all(systems, arguments)
    for system in systems:
        if "measure" in steps:
            measure(system, arguments)
        if "ship" in steps:
            ship(system, arguments)


# --- training ---------------------------------------------------------------------------------


def train_all(systems: Sequence[str], arguments: argparse.Namespace) -> None:
    """Train each system in a process of its own, `jobs` at a time; their lines go to ``out/SYSTEM.log``."""
    if len(systems) == 1:
        train(systems[0], arguments)
        return
    waiting, running, failed = list(systems), {}, []
    threads = max(1, (os.cpu_count() or 1) // min(arguments.jobs, len(systems)))
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    given = [a for a in sys.argv[1:] if a not in ("train", "measure", "ship")]
    while waiting or running:
        while waiting and len(running) < arguments.jobs:
            system = waiting.pop(0)
            log = (arguments.out / f"{system}.log").open("a")
            command = [sys.executable, __file__, "train", *given, "--systems", system]
            running[system] = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            print(f"{system}: training, see {log.name}", file=sys.stderr)
        time.sleep(1)
        for system, process in list(running.items()):
            if process.poll() is not None:
                del running[system]
                if process.returncode:
                    failed.append(system)
                print(f"{system}: {'failed' if process.returncode else 'trained'}", file=sys.stderr)
    if failed:
        raise SystemExit(f"see {', '.join(str(arguments.out / f'{s}.log') for s in failed)}")


def recipe_of(system: str, arguments: argparse.Namespace) -> Any:
    """Return the recipe with the settings for Mini, as long as asked for."""
    from pcs_core import load_recipe

    plain = load_recipe(system, backbone="mini", overrides=arguments.set)
    (phase,) = (p for p in plain.phases if p.pretrain)
    steps = arguments.steps or (
        arguments.images and -(-arguments.images // sum(phase.batch.values()))
    )
    more = [f"{phase.name}.steps={steps}"] if steps else []
    return load_recipe(system, backbone="mini", overrides=[*arguments.set, *more])


def train(system: str, arguments: argparse.Namespace) -> None:
    """Pre-train one system, unless that is done; half precision is what is kept."""
    from pcs_core import installed, load, open_backbone, pretrain, save

    recipe = recipe_of(system, arguments)
    backbone = open_backbone(arguments.backbone)
    out, work = arguments.out / system, arguments.out / f"{system}.partial"
    if (out / "manifest.json").exists() and not arguments.anew:
        found = load(out)
        if (found.recipe.hash, found.backbone.hash) == (recipe.hash, backbone.card.hash):
            return
    if arguments.anew:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(exist_ok=True)
    (phase,) = (p for p in recipe.phases if p.pretrain)
    batch = sum(phase.batch.values())
    begun = any(work.glob("fit-*"))
    journal = Journal(arguments.out / f"{system}.jsonl", batch, -1 if begun else 0)
    adapter = pretrain(
        recipe,
        installed().get("datasets", phase.source)(),
        backbone,
        seed=arguments.seed,
        work=work,
        resume=True,
        precision=arguments.precision,
        init=load(arguments.init / system) if arguments.init else None,
        watch=(journal,),
    )
    half = {name: tensor.half() for name, tensor in adapter.tensors.items()}
    parameters = sum(t.numel() for t in half.values())
    facts = {
        **adapter.extra["pretrained"],
        "images": phase.steps * batch,
        "source": phase.source,
        "parameters": parameters,
        "seconds": round(journal.total()),
    }
    save(replace(adapter, tensors=half, extra={"pretrained": facts}), out, overwrite=True)
    shutil.rmtree(work)


class Journal:
    """A line per report: step, losses, pictures a second since the last one.

    ``step`` is where the run begins, -1 where that is not known.
    """

    def __init__(self, file: Path, batch: int, step: int = 0) -> None:
        self.file, self.batch, self.step, self.at = file, batch, step, 0.0

    def __call__(self, progress: Any) -> None:
        """Write the line, here and to the file."""
        seconds = max(1e-6, progress.seconds - self.at)
        images = (progress.index - self.step) * self.batch
        line = {
            "step": progress.index,
            "of": progress.steps,
            "images_per_s": None if self.step < 0 else round(images / seconds, 1),
            **{name: round(value, 4) for name, value in progress.losses.items()},
            "run_s": round(progress.seconds, 1),
        }
        with self.file.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)
        self.step, self.at = progress.index, progress.seconds

    def total(self) -> float:
        """Return the seconds of all runs in the file: a run ends where the next begins anew."""
        times = [json.loads(line)["run_s"] for line in self.file.read_text().splitlines()]
        return sum(a for a, b in zip(times, [*times[1:], 0.0], strict=True) if b < a)


# --- measuring --------------------------------------------------------------------------------


@dataclass
class Case:
    """One held-out subject: what the system is shown, what it is compared with."""

    name: str
    noun: str
    group: str
    given: Any
    kept: Any
    person: Any = None

    @property
    def article(self) -> str:
        """As captions of the world put it before the noun."""
        from pcs_mini.world import grammar

        return grammar.article(self.noun)


def groups(studio: Any, kinds: Sequence[str]) -> dict[str, list[str]]:
    """Return the held-out members by what training never saw: the drawing, the concept, or the style."""
    trained = [
        tuple(name.split("/")[:2]) for kind in kinds for name in studio.names(kind, trained=True)
    ]
    concepts, styles = {c for c, _ in trained}, {s for _, s in trained}
    found: dict[str, list[str]] = {}
    for name in (name for kind in kinds for name in studio.names(kind)):
        concept, style = name.split("/")[:2]
        new = [
            w
            for w, known in (("concept", concept in concepts), ("style", style in styles))
            if not known
        ]
        found.setdefault(f"new {' and '.join(new) or 'instance'}", []).append(name)
    return {group: found[group] for group in sorted(found)}


def cases(system: str, count: int, size: int) -> list[Case]:
    """Return ``count`` held-out subjects, evenly from each group: drawings and solids, or people."""
    import torch

    from pcs_core import installed
    from pcs_mini.world import grammar

    studio = installed().get("datasets", "mini.held-out")()
    kinds = ("person",) if system == "instantid" else ("drawn", "solid")
    held = groups(studio, kinds)
    each = -(-count // len(held))
    chosen = [
        (group, names[int(i * len(names) / each)])
        for i in range(each)
        for group, names in held.items()
        if i < len(names)
    ]
    found = []
    for group, name in chosen[:count]:
        # a word that training never read says nothing; the kind of thing is what is left
        concept = name.split("/")[0]
        if "concept" in group:
            concept = grammar.kind_of(concept, studio.category(name)) or "thing"
        pictures = studio.references(name, GIVEN + KEPT, seed=5, size=size)
        images = torch.stack([p.image for p in pictures])
        found.append(Case(name, grammar.noun_of(concept), group, pictures[:GIVEN], images[GIVEN:]))
    return found


def subject_of(case: Case, number: int) -> Any:
    """Return the given pictures as a subject; people come with their key points."""
    from pcs_core.data import Concept, Subject

    points = [p.points[0] for p in case.given]
    return Subject(
        name=case.name.replace("/", "-"),
        concepts=(Concept(f"it{number}", f"<it{number}>", case.noun),),
        images=tuple(p.image for p in case.given),
        captions=(None,) * len(case.given),
        extra=tuple({} if p is None else {"points": p.tolist()} for p in points),
    )


def measure(system: str, arguments: argparse.Namespace) -> None:
    """Write ``out/SYSTEM.json`` and ``out/SYSTEM.jpg``, and print the table."""
    import torch

    from pcs_core import fit, installed, load, merge_personalizations, open_backbone, sample

    backbone = open_backbone(arguments.backbone)
    folder = arguments.out / system
    recipe = load(folder).recipe
    subjects = cases(system, arguments.subjects, backbone.card.size[0])
    started = time.monotonic()
    for number, case in enumerate(subjects):
        case.person = fit(recipe, subject_of(case, number), backbone, adapter=folder)[0]
    seconds = (time.monotonic() - started) / len(subjects)
    studio = installed().get("datasets", "mini.held-out")()
    zero = dict.fromkeys(STRENGTHS[system], 0.0)
    drawn: dict[str, list[Any]] = {OWN: [], NONE: [], OTHER: []}
    if system == "fastcomposer":  # its low-rank residuals act at strength 0 as well
        drawn[UNTUNED] = []
    for number, case in enumerate(subjects):
        said = [
            " ".join(f"a photo of {case.article} <it{number}> {studio.phrase(p)}".split())
            for p in PLACES
        ]
        plain = [prompt.replace(f"<it{number}>", case.noun) for prompt in said]
        other = subjects[(number + max(1, len(subjects) // 2)) % len(subjects)].person
        mistaken = replace(case.person, features=other.features)
        drawn[OWN].append(sample(case.person, backbone, said, seed=7))
        drawn[NONE].append(sample(case.person, backbone, said, seed=7, strengths=zero))
        drawn[OTHER].append(sample(mistaken, backbone, said, seed=7))
        if UNTUNED in drawn:
            settings = recipe.sample
            drawn[UNTUNED].append(
                sample(None, backbone, plain, seed=7, steps=settings.steps, scale=settings.scale)
            )
        print(f"{system}: {number + 1} of {len(subjects)} drawn", file=sys.stderr)
    names = [r for r in arguments.rulers.split(",") if r] or RULERS.get(system, OTHERWISE)
    figures: dict[str, Any] = {
        "system": system,
        "backbone_sha256": backbone.card.hash,
        "subjects": {case.name: case.group for case in subjects},
        "pictures": len(PLACES),
        "seconds_a_subject": round(seconds, 3),
        "rulers": {},
    }
    for name in names:
        ruler = installed().get("feature_models", name)()
        kept = [embed(ruler, case.kept) for case in subjects]
        looks = {row: [embed(ruler, images) for images in those] for row, those in drawn.items()}
        given = [embed(ruler, torch.stack([p.image for p in c.given])) for c in subjects]
        figures["rulers"][name] = likeness(looks, kept, given)
    judge = installed().get("feature_models", "mini.image")()
    figures["place_accuracy"] = {
        row: sum(
            found == wanted
            for images in those
            for found, wanted in zip(judge.top("place", judge.read(images)), PLACES, strict=True)
        )
        / (len(PLACES) * len(those))
        for row, those in drawn.items()
    }
    if system == "fastcomposer":
        ruler = installed().get("feature_models", names[0])()
        figures["pairs"] = pairs(subjects, backbone, ruler, zero, merge_personalizations, sample)
    (arguments.out / f"{system}.json").write_text(json.dumps(figures, indent=1) + "\n")
    write_sheet(subjects, drawn, arguments.out / f"{system}.jpg")
    print(table(figures))


def embed(ruler: Any, images: Any) -> Any:
    """Return unit vectors [n d]."""
    import torch.nn.functional as F

    if hasattr(ruler, "image_features"):
        return ruler.image_features(images).detach()
    return F.normalize(ruler.pooled(images), dim=-1)


def likeness(
    looks: Mapping[str, Sequence[Any]], kept: Sequence[Any], given: Sequence[Any]
) -> dict[str, Any]:
    """Return, per row of unit vectors [pictures d] by subject, how like they are to ``kept`` [n d].

    ``similarity`` is the mean cosine, ``each`` that of every subject, ``nearest`` the share of pictures that
    are closer to their own subject than to any other's, ``better_for`` for how many subjects the first row
    beats this one.
    """
    import torch

    centres = torch.stack([vectors.mean(0) for vectors in kept])
    rows = {**looks, "the references themselves": given}
    cosines = {
        row: [float((found @ own.T).mean()) for found, own in zip(those, kept, strict=True)]
        for row, those in rows.items()
    }
    result: dict[str, Any] = {}
    for row, those in rows.items():
        closest = [(found @ centres.T).argmax(1) == i for i, found in enumerate(those)]
        result[row] = {
            "similarity": round(sum(cosines[row]) / len(kept), 4),
            "nearest": round(float(torch.cat(closest).float().mean()), 4),
            "better_for": sum(a > b for a, b in zip(cosines[OWN], cosines[row], strict=True)),
            "each": [round(value, 4) for value in cosines[row]],
        }
    between = [float((kept[i] @ kept[i - 1].T).mean()) for i in range(len(kept))]
    result["one subject and the next"] = {"similarity": round(sum(between) / len(kept), 4)}
    return result


def pairs(
    subjects: Sequence[Case],
    backbone: Any,
    ruler: Any,
    zero: Mapping[str, float],
    merge: Any,
    sample: Any,
) -> dict[str, Any]:
    """Return the likeness of two subjects in one picture: each one's best half, mean over pairs."""
    found: dict[str, list[float]] = {OWN: [], NONE: []}
    for i in range(0, len(subjects) - 1, 2):
        one, other = subjects[i : i + 2]
        if one.noun == other.noun:
            continue
        both = merge([one.person, other.person], backbone, method="join")
        prompt = f"{one.article} <it{i}> next to {other.article} <it{i + 1}> on the beach"
        for row, strengths in ((OWN, None), (NONE, zero)):
            images = sample(both, backbone, prompt, count=2, seed=7, strengths=strengths)
            halves = [embed(ruler, half) for half in images.chunk(2, dim=3)]
            for case in (one, other):
                own = embed(ruler, case.kept)
                best = max(float((half @ own.T).mean()) for half in halves)
                found[row].append(best)
    count = max(1, len(found[OWN]))
    return {row: round(sum(values) / count, 4) for row, values in found.items()} | {
        "pairs": len(found[OWN]) // 2
    }


def write_sheet(subjects: Sequence[Case], drawn: Mapping[str, Sequence[Any]], file: Path) -> None:
    """Write a line per subject: two references, then pictures of its own, strength 0, another's references."""
    import numpy
    import torch
    from PIL import Image

    lines = []
    for i, case in enumerate(subjects[:12]):
        gap = torch.ones(3, case.kept.shape[2], 6)
        columns = [p.image for p in case.given[:2]]
        for row, count in ((OWN, 4), (NONE, 2), (OTHER, 2)):
            columns += [gap, *drawn[row][i][:count]]
        lines.append(torch.cat(columns, dim=2))
    pixels = torch.cat(lines, dim=1).permute(1, 2, 0).mul(255).round().byte().numpy()
    Image.fromarray(numpy.ascontiguousarray(pixels)).save(file, quality=82)


def table(figures: Mapping[str, Any]) -> str:
    """Return the figures as a table in Markdown."""
    rulers = list(figures["rulers"])
    head = ["", *(f"similarity, `{r}`" for r in rulers), *(f"nearest, `{r}`" for r in rulers)]
    head += ["own is better for", "place"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in figures["rulers"][rulers[0]]:
        found = [figures["rulers"][r][row] for r in rulers]
        cells = [f"{f['similarity']:.3f}" for f in found]
        cells += [f"{f['nearest']:.2f}" if "nearest" in f else "" for f in found]
        better = row in (NONE, OTHER, UNTUNED)
        total = len(figures["subjects"])
        cells.append(f"{found[0]['better_for']} of {total}" if better else "")
        place = figures["place_accuracy"].get(row)
        cells.append("" if place is None else f"{place:.2f}")
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    lines += ["", *by_group(figures, rulers[0])]
    if found := figures.get("pairs"):
        lines += ["", f"Two subjects in one picture, likeness of each one's best half over "
                  f"{found['pairs']} pairs: {found[OWN]:.3f}, at strength 0 {found[NONE]:.3f}."]  # fmt: skip
    return "\n".join(lines)


def by_group(figures: Mapping[str, Any], ruler: str) -> list[str]:
    """Return a line per group of subjects: how like they are by one ruler, with and without the adapter."""
    found = figures["rulers"][ruler]
    rows = [row for row in found if "each" in found[row]]
    belongs = list(figures["subjects"].values())
    lines = []
    for group in dict.fromkeys(belongs):
        here = [i for i, g in enumerate(belongs) if g == group]
        means = [
            f"{row} {sum(found[row]['each'][i] for i in here) / len(here):.3f}" for row in rows
        ]
        lines.append(f"- {group} ({len(here)}), similarity by `{ruler}`: {', '.join(means)}")
    return lines


# --- shipping ---------------------------------------------------------------------------------


def ship(system: str, arguments: argparse.Namespace) -> None:
    """Put the weights with their card and sheet into the distribution.

    Only what was trained on and measured with the installed ``mini`` is shipped.
    """
    from pcs_core import load, open_backbone, save

    adapter = load(arguments.out / system)
    figures = json.loads((arguments.out / f"{system}.json").read_text())
    mini = open_backbone("mini").card
    for what, found in (
        ("weights", adapter.backbone.hash),
        ("figures", figures["backbone_sha256"]),
    ):
        if found != mini.hash:
            raise SystemExit(
                f"{system}: the {what} are of another backbone than the installed mini"
            )
    files = {
        "README.md": card(adapter, figures).encode(),
        "sheet.jpg": (arguments.out / f"{system}.jpg").read_bytes(),
    }
    shipped = replace(adapter, backbone=replace(mini, location=""))
    save(shipped, SHIPPED / system, extra_files=files, overwrite=True)
    size = sum(p.stat().st_size for p in SHIPPED.rglob("*") if p.is_file())
    print(f"{system}: shipped; all of them take {size / 1e6:.1f} MB", file=sys.stderr)
    if size > 20_000_000:
        raise SystemExit("the distribution may hold 20 MB")


def card(adapter: Any, figures: Mapping[str, Any]) -> str:
    """Return the model card."""
    facts = adapter.extra["pretrained"]
    recipe = adapter.recipe
    hours = facts["seconds"] / 3600
    chance = 1 / len(figures["subjects"])
    return f"""# {recipe.name} on Mini

Weights of `{recipe.id}` ({recipe.paper}) for the embedded backbone `mini` with weights of sha256
`{adapter.backbone.hash[:12]}`: {facts["parameters"] / 1e6:.2f} million parameters in half precision,
trained for {facts["steps"]} steps on {facts["images"]} pictures ({facts["records"]} records of the data
set `{facts["source"]}`) in {hours:.1f} hours of one or two CPU cores, with the recipe that lies beside them.

{recipe.notes.strip()}

## What it carries over

{len(figures["subjects"])} subjects that no training drew, {GIVEN} references each, one picture at each of
{figures["pictures"]} places; {figures["seconds_a_subject"]:.2f} seconds a subject to read the references,
nothing trains. Similarity is the mean cosine to {KEPT} further pictures of the subject; nearest is the
share of pictures that are closer to their own subject than to any other of them (chance {chance:.2f}).
"Another's references" keeps prompt and noise, and swaps what is shown.

{table(figures)}

A line per subject: two references, four pictures, two at strength 0, two with another's references.

![sheet](sheet.jpg)

Measured: {", ".join(f"`{name}`" for name in figures["subjects"])}.

## Limits

It knows the small world of Mini: drawings, toy-like solids, avatars. Of photographs it was shown none.
It was measured by the rulers of that world, which are networks too.

Made by `make adapters`. Apache-2.0.
"""


if __name__ == "__main__":
    main()
