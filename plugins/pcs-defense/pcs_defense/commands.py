"""``pcs protect``: copies of pictures that are hard to personalise. Heavy imports wait."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pcs_cli import emit
from pcs_core.errors import InputError

if TYPE_CHECKING:
    from pcs_core.data import Personalization, Recipe, Subject

TECHNIQUE = "defense.perturbation"
CLEAN = "defense.clean_set"
NOUN, TOKEN = "thing", "<protected>"
REPORT = ".json"
"""The report is named as the folder, with this behind it."""

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
# long: the options of a command
def protect(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder of pictures.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to make.", show_default=False)
    ],
    system: Annotated[
        str, typer.Option("--system", help="A system that perturbs pictures, or a recipe.toml.")
    ] = "anti-dreambooth",
    eps: Annotated[
        float | None,
        typer.Option(
            "--eps",
            help="Largest change of a channel, for pixels in [-1, 1] (the system's own: 0.05).",
            show_default=False,
        ),
    ] = None,
    noun: Annotated[
        str | None,
        typer.Option("--noun", help="What is in the pictures, as person.", show_default=False),
    ] = None,
    clean: Annotated[
        Path | None,
        typer.Option(
            "--clean",
            metavar="FOLDER",
            help="Other pictures of the same, from which the surrogate learns; without them it learns from "
            "copies of those in FOLDER.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Random seed.")] = 0,
    backbone: Annotated[
        str,
        typer.Option("--backbone", metavar="ID|PATH|HUB_ID", help="The image generator."),
    ] = "mini",
    device: Annotated[
        str, typer.Option("--device", help="cpu, cuda ...; auto takes a GPU where there is one.")
    ] = "auto",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, as in pcs fit."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace --out, once the new one is complete.")
    ] = False,
) -> None:
    """Write a protected copy of every picture in FOLDER to DIR, and a report to DIR.json.

    Each is a PNG file of the picture's own size and name; no channel differs by more than
    127.5 * eps levels of 255, rounded down.
    """
    from pcs_cli import destination, device_name, reporting
    from pcs_core import fit, load_subject, open_backbone

    folder = folder.expanduser()
    target = destination(out, overwrite=overwrite, inputs=[folder])
    report = target.folder.with_name(target.folder.name + REPORT)
    if report.exists() and not overwrite:
        raise InputError(f"{report} exists: give another --out, or --overwrite to replace it")
    recipe, use, bound = read_recipe(system, eps, backbone, settings or [])
    named = (folder / "subject.toml").exists()
    subject = load_subject(
        folder, noun=noun if named or noun else NOUN, token=None if named else TOKEN
    )
    check_stems(subject)
    subject = with_clean_set(subject, recipe, clean)
    opened = open_backbone(backbone, device=device_name(device))
    with target.claimed():
        with reporting("preparing") as reporter:
            (artifact,) = fit(recipe, subject, opened, seed=seed, watch=(reporter.fitting,))
        facts = {
            "system": recipe.id,
            "eps": bound,
            "seed": seed,
            "noun": subject.concept.noun,
            "clean": None if clean is None else str(clean),
            "backbone": {"id": artifact.backbone.id, "hash": artifact.backbone.hash},
            "losses": dict(artifact.losses),
        }
        delta = artifact.tensors[f"{use}/pixels/delta"]
        with target.filling(along=REPORT) as ready:
            ready.mkdir()
            pictures = write(artifact, folder, subject, delta, bound, ready)
            write_report(ready.with_name(ready.name + REPORT), {**facts, "pictures": pictures})
    emit(str(target.folder))


def read_recipe(
    system: str, eps: float | None, backbone: str, settings: list[str]
) -> tuple[Recipe, str, float]:
    """Return the recipe, the name of its use that perturbs, and the bound in force.

    Raises
    ------
    InputError
        It perturbs nothing, or by less than a level.
    """
    from pcs_core import load_recipe
    from pcs_defense.protect import largest_change

    recipe = load_recipe(system, backbone=backbone, overrides=settings)
    names = [u.name for u in recipe.uses if u.technique.id == TECHNIQUE]
    if not names:
        raise InputError(f"{recipe.id!r} perturbs no pictures: give a system that uses {TECHNIQUE}")
    if eps is not None:
        more = [*settings, f"{names[0]}.eps={eps!r}"]
        recipe = load_recipe(system, backbone=backbone, overrides=more)
    bound: Any = next(u.technique for u in recipe.uses if u.name == names[0])
    if largest_change(bound.eps) < 1:
        raise InputError(f"eps {bound.eps} is less than one of 255 levels: give at least 0.008")
    return recipe, names[0], bound.eps


def with_clean_set(subject: Subject, recipe: Recipe, folder: Path | None) -> Subject:
    """Return the subject with the pictures in ``folder`` as its clean set.

    Raises
    ------
    InputError
        The recipe reads none, or the folder holds the pictures to protect.
    """
    from dataclasses import replace

    from pcs_core import load_subject

    if folder is None:
        return subject
    if CLEAN not in {use.technique.id for use in recipe.uses}:
        raise InputError(f"{recipe.id!r} reads no clean set: leave out --clean")
    concept = subject.concept
    apart = load_subject(folder.expanduser(), noun=concept.noun, token=concept.token).images
    for file, image in zip(subject.files, subject.images, strict=True):
        if any(image.shape == other.shape and bool((image == other).all()) for other in apart):
            raise InputError(
                f"{folder} holds {file}, which is to be protected: keep the clean set apart from it"
            )
    return replace(subject, others={"clean": apart})


def check_stems(subject: Subject) -> None:
    """Refuse two pictures whose copies would have one name.

    Raises
    ------
    InputError
        Names both.
    """
    seen: dict[str, str] = {}
    for file in subject.files:
        other = seen.setdefault(Path(file).stem.casefold(), file)
        if other != file:
            raise InputError(
                f"{other} and {file} would both be written as {Path(file).stem}.png: rename one"
            )


def write(
    artifact: Personalization, folder: Path, subject: Subject, delta: Any, eps: float, ready: Path
) -> list[dict[str, Any]]:
    """Write the protected pictures to ``ready``; return what the report says about each.

    Raises
    ------
    InputError
        The change holds nan.
    """
    import torch
    from PIL import Image

    from pcs_core import read_planes
    from pcs_defense.protect import protect as change

    if not bool(torch.isfinite(delta).all()):
        raise InputError("the change is not finite: use a smaller lr of the surrogate, by --set")
    rows = []
    for file, picture_delta in zip(subject.files, delta, strict=True):
        colour, alpha = read_planes(folder / file)
        levels = (colour * 255).round().to(torch.uint8)
        protected = change(levels, picture_delta, eps)
        planes = (
            [protected] if alpha is None else [protected, (alpha * 255).round().to(torch.uint8)]
        )
        image = Image.fromarray(torch.cat(planes).permute(1, 2, 0).contiguous().numpy())
        path = ready / f"{Path(file).stem}.png"
        image.save(path, "PNG")
        moved = (protected.int() - levels.int()).abs()
        rows.append(
            {
                "file": path.name,
                "source": file,
                "size": [image.width, image.height],
                "largest_change": int(moved.max()),
                "mean_change": round(float(moved.float().mean()), 3),
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
        )
    return rows


def write_report(path: Path, facts: dict[str, Any]) -> None:
    """Write the report."""
    path.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
