"""``pcs mini pack|train|assemble|evaluate``. Heavy imports wait until a command runs."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from pcs_mini.ruler_commands import register
from pcs_mini.world_commands import app as world

if TYPE_CHECKING:
    from pcs_mini.training.loop import Settings

app = typer.Typer(help="The embedded backbone: its world, its training, its quality gate.")
app.add_typer(world, name="world")
_err = Console(stderr=True, highlight=False)


class Stage(StrEnum):
    """The trained parts, in the order in which they are trained."""

    vae = "vae"
    denoiser = "denoiser"
    clip = "clip"
    autoencoder = "autoencoder"
    latents = "latents"
    diffusion = "diffusion"


_IMAGES = {
    Stage.vae: 40_000,
    Stage.denoiser: 86_400,
    Stage.clip: 96_000,
    Stage.autoencoder: 200_000,
    Stage.latents: 50_000,
    Stage.diffusion: 100_000,
}
_V1 = (Stage.autoencoder, Stage.latents, Stage.diffusion)


def _say(line: str) -> None:
    _err.print(line)


@app.command()
def pack(
    packages: Annotated[
        Path | None,
        typer.Option(help="A node_modules folder; without it the pinned packages are fetched."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Atlas file to write.")] = None,
) -> None:
    """Render the drawings of the icon packages into one atlas, and the reference subjects."""
    from pcs_mini.plugin import subjects_folder
    from pcs_mini.subjects import render_subjects
    from pcs_mini.world.atlas import ATLAS_FILE
    from pcs_mini.world.pack import pack as pack_atlas

    path = pack_atlas(packages, out or ATLAS_FILE, _say)
    typer.echo(f"{path} ({path.stat().st_size} bytes)")
    if out is None:
        for folder in render_subjects(subjects_folder(), _say):
            typer.echo(str(folder))


@app.command()
def train(
    stage: Annotated[Stage, typer.Argument(help="What to train.")],
    images: Annotated[int | None, typer.Option(help="Pictures to see in all.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and results.")] = Path("mini"),
    resume: Annotated[bool, typer.Option(help="Go on from the checkpoint in --out.")] = False,
    init: Annotated[
        Path | None,
        typer.Option(help="Start from these weights (as shipped) with a fresh optimizer."),
    ] = None,
    seed: Annotated[int, typer.Option()] = 0,
    device: Annotated[str | None, typer.Option(help="cpu; default: a GPU if any.")] = None,
    batch: Annotated[int | None, typer.Option()] = None,
    pool: Annotated[int, typer.Option(help="Pictures rendered in advance.")] = 24_000,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    decoder_only: Annotated[
        bool,
        typer.Option(
            help="Stages vae and autoencoder with --init: keep the encoder, and so the latents."
        ),
    ] = False,
    assets: Annotated[
        Path | None,
        typer.Option(help="Stages autoencoder and latents: archive of the world (world.zip)."),
    ] = None,
    lesson: Annotated[
        int,
        typer.Option(
            min=0,
            max=3,
            help="Stages latents and diffusion: 1 a few things, 2 those in more styles and people, "
            "3 all well-known things, each in a cache of its own; go on with --resume. 0 is the "
            "whole world.",
        ),
    ] = 0,
    decay_share: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of the run, at its end, that lets the rate fall."),
    ] = 0.5,
) -> None:
    """Train one part of the backbone on the world.

    vae, denoiser and clip are of version 0; autoencoder, latents (rendered and encoded scenes) and
    diffusion, in this order, of version 1.
    """
    from pcs_mini.training import clip, denoiser, vae
    from pcs_mini.training.loop import Settings

    rate = lr or (1e-3 if stage is Stage.clip else 2e-3)
    settings = Settings(
        out=out,
        images=images or _IMAGES[stage],
        batch=batch or (128 if stage is Stage.clip else 32),
        lr=rate,
        matrix_lr=rate,
        seed=seed,
        device=device,
        resume=resume,
        pool=pool,
        init=init,
        decoder_only=decoder_only,
        decay_share=decay_share,
    )
    if stage in _V1:
        typer.echo(str(_train_v1(stage, settings, assets, lesson)))
        return
    if stage is Stage.vae:
        folder = vae.train(settings, _say)
    elif stage is Stage.clip:
        folder = clip.train(settings, _say)
    else:
        from pcs_mini.plugin import folder as shipped

        trained = out / "vae"
        folder = denoiser.train(settings, trained if trained.exists() else shipped() / "vae", _say)
    typer.echo(str(folder))


def _train_v1(stage: Stage, settings: Settings, archive: Path | None, lesson: int) -> Path:
    """One stage of version 1; several processes of one run share out the work."""
    import os

    from pcs_mini.architecture import build_tokenizer
    from pcs_mini.training import autoencoder, diffusion, latents
    from pcs_mini.world.assets import open_assets
    from pcs_mini.world.grammar import vocabulary

    trained, cache = settings.out / "autoencoder", settings.out / "cache"
    if lesson:
        cache = settings.out / f"lesson{lesson}-cache"
    assets = open_assets(archive)
    if stage is Stage.autoencoder:
        return autoencoder.train(settings, latents.render(assets, 0, settings.pool)[0], _say)
    tokenizer = build_tokenizer(vocabulary(assets))
    if stage is Stage.latents:
        share = slice(int(os.environ.get("RANK", 0)), None, int(os.environ.get("WORLD_SIZE", 1)))
        count, seed = settings.images, settings.seed
        latents.make_latents(
            assets, trained, tokenizer, cache, count, _say, seed=seed, share=share, lesson=lesson
        )
        return cache
    return diffusion.train(settings, trained, tokenizer, cache, _say, diffusion.Watch())


@app.command()
def evaluate(
    weights: Annotated[Path | None, typer.Option(help="Default: the shipped ones.")] = None,
    prompts: Annotated[int, typer.Option(min=18, help="Pictures to generate.")] = 180,
    seed: Annotated[int, typer.Option()] = 0,
    grid: Annotated[Path | None, typer.Option(help="Write the pictures here (PNG).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Figures as JSON on stdout.")] = False,
) -> None:
    """Print the quality gate: class and place accuracy on renders and on generated pictures."""
    from pcs_mini.evaluate import evaluate as run
    from pcs_mini.evaluate import grid as write_grid
    from pcs_mini.plugin import folder

    gate, drawn = run(weights or folder(), prompts, seed=seed, report=_say)
    if grid is not None:
        write_grid(drawn, 18, grid)
    if as_json:
        typer.echo(json.dumps(gate.as_dict(), indent=2))
        return
    rows = (
        ("class accuracy on renders", gate.render_class, ">= 0.9"),
        ("place accuracy on renders", gate.render_place, ">= 0.9"),
        ("held-out instance retrieval", gate.instance_retrieval, ""),
        ("autoencoder PSNR, dB", gate.psnr, ""),
        ("class accuracy on generated", gate.generated_class, ">= 0.6"),
        ("place accuracy on generated", gate.generated_place, ">= 0.8"),
        ("text alignment of generated", gate.text_alignment, ""),
    )
    for name, value, bound in rows:
        typer.echo(f"{name:30} {value:7.3f}  {bound}")
    typer.echo(f"gate over {gate.prompts} prompts: {'passed' if gate.passed else 'NOT passed'}")
    if not gate.passed:
        raise typer.Exit(1)


@app.command()
def assemble(
    parts: Annotated[Path, typer.Option(help="Folder of `pcs mini train`.")] = Path("mini"),
    out: Annotated[Path | None, typer.Option(help="Default: the shipped folder.")] = None,
) -> None:
    """Put trained parts together as one half-precision diffusers folder.

    A scorer in ``clip`` comes along; a decoder that was trained further, in ``decoder``, replaces
    the run's own; a run with a journal gets its model card.
    """
    from pcs_mini.assemble import assemble as put_together
    from pcs_mini.plugin import folder

    target = out or folder()
    vaes = [parts / name for name in ("decoder/autoencoder", "autoencoder", "vae")]
    clip = parts / "clip"
    put_together(
        parts / "model",
        clip if clip.exists() else None,
        target,
        next((vae for vae in vaes if vae.exists()), None),
    )
    if (parts / "journal.jsonl").exists():
        from pcs_mini.training.card import write_card

        write_card(target, [parts])
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    typer.echo(f"{target} ({size} bytes)")


register(app)
