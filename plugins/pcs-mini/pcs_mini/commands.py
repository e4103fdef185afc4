"""``pcs mini pack|world|train|metric|assemble|evaluate|subjects``. Heavy imports wait for a command."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from pcs_mini.metric_commands import metric
from pcs_mini.world_commands import app as world
from pcs_mini.world_commands import build

if TYPE_CHECKING:
    from pcs_mini.training.loop import Settings
    from pcs_mini.world.assets import Assets

app = typer.Typer(help="The embedded backbone: its world, its training, its quality gate.")
app.add_typer(world, name="world")
app.command("pack")(build)
app.command("metric")(metric)
_err = Console(stderr=True, highlight=False)


class Stage(StrEnum):
    """What is trained, in the order in which it is; ``all`` is the three after one another."""

    autoencoder = "autoencoder"
    latents = "latents"
    diffusion = "diffusion"
    all = "all"


_IMAGES = {
    Stage.autoencoder: 200_000,
    Stage.latents: 60_000,
    Stage.diffusion: 1_000_000,
    Stage.all: 3_000_000,
}
_MOST = {Stage.autoencoder: 400_000, Stage.latents: 200_000}
"""Of ``all``: more pictures than these teach an autoencoder, or a cache of scenes, little."""
_POOL = 24_000


def _say(line: str) -> None:
    _err.print(line)


@app.command()
# long: the options of a command
def train(
    stage: Annotated[Stage, typer.Argument(help="What to train.")],
    images: Annotated[int | None, typer.Option(help="Pictures to see in all.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and results.")] = Path("mini"),
    resume: Annotated[bool, typer.Option(help="Go on from the checkpoint in --out.")] = False,
    init: Annotated[
        Path | None,
        typer.Option(
            help="Stages autoencoder and diffusion: start from these weights (as shipped) with a "
            "fresh optimizer."
        ),
    ] = None,
    seed: Annotated[int, typer.Option()] = 0,
    device: Annotated[str | None, typer.Option(help="cpu; default: a GPU if any.")] = None,
    batch: Annotated[int, typer.Option()] = 32,
    pool: Annotated[
        int | None,
        typer.Option(
            help="Stage autoencoder: pictures rendered in advance; default: as many as it sees, at "
            "most 24000."
        ),
    ] = None,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 2e-3,
    decoder_only: Annotated[
        bool,
        typer.Option(help="Stage autoencoder with --init: keep the encoder, and so the latents."),
    ] = False,
    assets: Annotated[
        Path | None, typer.Option(help="Archive of the world; default: the installed one.")
    ] = None,
    curriculum: Annotated[
        int,
        typer.Option(
            min=0,
            max=3,
            help="Stages latents and diffusion: 1 a few things, 2 those in more styles and people, "
            "3 all well-known things, each in a cache of its own; go on with --resume. 0 is the "
            "whole world.",
        ),
    ] = 0,
    pairs: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Stage latents: share of the scenes that show two subjects; the others show one. "
            "Default: few, for what things look like is learned from one alone.",
        ),
    ] = None,
    decay_share: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Share of the run, at its end, over which the learning rate falls."
        ),
    ] = 0.5,
) -> None:
    """Train one part of the backbone on the world, or all of them in their order."""
    from dataclasses import replace

    from pcs_mini.training.loop import Settings
    from pcs_mini.world.assets import open_assets

    seen = images or _IMAGES[stage]
    settings = Settings(
        out=out,
        images=seen,
        batch=batch,
        lr=lr,
        matrix_lr=lr,
        seed=seed,
        device=device,
        resume=resume,
        pool=pool or min(seen, _POOL),
        init=init,
        decoder_only=decoder_only,
        decay_share=decay_share,
    )
    archive = open_assets(assets)
    stages = [stage] if stage is not Stage.all else [s for s in Stage if s is not Stage.all]
    for one in stages:
        share = min(seen, _MOST.get(one, seen)) if stage is Stage.all else seen
        typer.echo(str(_train(one, replace(settings, images=share), archive, curriculum, pairs)))


def _train(
    stage: Stage, settings: Settings, assets: Assets, curriculum: int, pairs: float | None
) -> Path:
    """One stage; several processes of one run share out the work."""
    import os

    from pcs_mini.architecture import build_tokenizer
    from pcs_mini.training import autoencoder, diffusion, latents
    from pcs_mini.world.grammar import vocabulary

    trained, cache = settings.out / "autoencoder", settings.out / "cache"
    if curriculum:
        cache = settings.out / f"stage{curriculum}-cache"
    if stage is Stage.autoencoder:
        return autoencoder.train(settings, latents.render(assets, 0, settings.pool)[0], _say)
    tokenizer = build_tokenizer(vocabulary(assets))
    if stage is Stage.latents:
        share = slice(int(os.environ.get("RANK", 0)), None, int(os.environ.get("WORLD_SIZE", 1)))
        count, seed = settings.images, settings.seed
        latents.make_latents(
            assets,
            trained,
            tokenizer,
            cache,
            count,
            _say,
            seed=seed,
            share=share,
            curriculum=curriculum,
            pairs=pairs,
        )
        return cache
    watch = diffusion.Watch()
    return diffusion.train(settings, trained, tokenizer, cache, _say, watch, curriculum)


@app.command()
def evaluate(
    weights: Annotated[Path | None, typer.Option(help="Default: the shipped ones.")] = None,
    prompts: Annotated[int, typer.Option(min=10, help="Pictures to generate.")] = 500,
    seed: Annotated[int, typer.Option()] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Sampling steps.")] = 25,
    guidance: Annotated[float, typer.Option()] = 3.0,
    assets: Annotated[
        Path | None, typer.Option(help="Archive of the world; default: the installed one.")
    ] = None,
    metrics: Annotated[
        Path | None,
        typer.Option(help="Folder of the metrics' networks; default: the shipped ones."),
    ] = None,
    device: Annotated[str, typer.Option()] = "cpu",
    grid: Annotated[
        Path | None, typer.Option(help="Write the first 64 pictures with their prompts here.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Figures as JSON on stdout.")] = False,
) -> None:
    """Print the quality gate: what the judge reads in pictures of combinations never trained.

    The prompts are of the words that the weights know, as the record beside them says.
    """
    from pcs_mini.evaluate import BOUNDS
    from pcs_mini.evaluate import evaluate as run
    from pcs_mini.plugin import folder
    from pcs_mini.world.sheet import captioned

    figures, asked, drawn = run(
        weights or folder(),
        prompts,
        archive=assets,
        metrics=metrics,
        seed=seed,
        steps=steps,
        guidance=guidance,
        device=device,
        report=_say,
    )
    if grid is not None:
        grid.parent.mkdir(parents=True, exist_ok=True)
        pixels = (drawn[:64] * 255).round().byte().permute(0, 2, 3, 1).numpy()
        shown = [(image, a.text) for image, a in zip(pixels, asked, strict=False)]
        captioned(shown).save(grid, optimize=True)
    if as_json:
        typer.echo(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        bound = f">= {BOUNDS[name]:g}" if name in BOUNDS else ""
        typer.echo(f"{name:30} {value!s:>8}  {bound}".rstrip())
    missed = [name for name, least in BOUNDS.items() if figures.get(name, 0) < least]
    typer.echo(f"gate: {'not passed: ' + ', '.join(missed) if missed else 'passed'}")
    if missed:
        raise typer.Exit(1)


@app.command()
def assemble(
    parts: Annotated[Path, typer.Option(help="Folder of `pcs mini train`.")] = Path("mini"),
    out: Annotated[Path | None, typer.Option(help="Default: the shipped folder.")] = None,
    curriculum: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=3,
            help="What the weights were trained on last; default: as the journal says.",
        ),
    ] = None,
    assets: Annotated[
        Path | None, typer.Option(help="Archive of the world; default: the installed one.")
    ] = None,
    metrics: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder of `pcs mini metric`: ship the trained ones in it as well; later ones win."
        ),
    ] = None,
    journal: Annotated[
        list[Path] | None,
        typer.Option(help="A further folder whose journal the card tells, as of the autoencoder."),
    ] = None,
) -> None:
    """Put trained parts together as one half-precision diffusers folder with its record and card.

    A decoder that was trained further, in ``decoder``, replaces the run's own.
    """
    from pcs_mini.assemble import assemble as put_together
    from pcs_mini.assemble import take_metrics
    from pcs_mini.metrics import stored
    from pcs_mini.plugin import folder
    from pcs_mini.training import card
    from pcs_mini.training.journal import read_journal
    from pcs_mini.world.assets import open_assets
    from pcs_mini.world.curriculum import read_record, write_record

    target = out or folder()
    vaes = [parts / name for name in ("decoder/autoencoder", "autoencoder")]
    put_together(parts / "model", target, next((vae for vae in vaes if vae.exists()), None))
    if curriculum is None:
        journaled = read_journal(parts, "diffusion")
        recorded = [line["curriculum"] for line in journaled if "curriculum" in line]
        curriculum = recorded[-1] if recorded else 0
    write_record(target, open_assets(assets), curriculum)
    for source in metrics or []:
        for name in take_metrics(source):
            typer.echo(f"metric {name} of {source}")
    sections = {"What the weights know": card.knows(read_record(target))}
    if target == folder():
        sections["Metrics"] = card.metrics(stored.FOLDER)
    card.write_card(target, [*(journal or []), parts], sections=sections)
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    typer.echo(f"{target} ({size} bytes)")


@app.command()
def subjects(
    out: Annotated[Path | None, typer.Option(help="Default: the shipped ones.")] = None,
) -> None:
    """Draw the shipped reference subjects anew, held-out members of the world."""
    from pcs_mini.plugin import subjects_folder
    from pcs_mini.subjects import render_subjects

    for folder in render_subjects(out or subjects_folder(), _say):
        typer.echo(str(folder))
