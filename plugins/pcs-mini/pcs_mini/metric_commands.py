"""``pcs mini metric``: training what measures pictures of the world."""

from __future__ import annotations

import importlib
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

_err = Console(stderr=True, highlight=False)


class Metric(StrEnum):
    """The metrics, in the order in which they are best trained."""

    judge = "judge"
    clip = "clip"
    identity = "identity"
    views = "views"


IMAGES = {
    Metric.judge: 800_000,
    Metric.clip: 600_000,
    Metric.identity: 150_000,
    Metric.views: 400_000,
}
_CACHE = 2**29
"""Bytes of decoded assets kept: all of the archive, as every step draws from all of it."""


def metric(
    which: Annotated[Metric, typer.Argument(help="What to train.")],
    images: Annotated[int | None, typer.Option(help="Pictures to see in all.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and results.")] = Path(
        "metrics"
    ),
    resume: Annotated[bool, typer.Option(help="Go on from the checkpoint in --out.")] = False,
    init: Annotated[
        Path | None, typer.Option(help="A folder of such networks whose weights to start from.")
    ] = None,
    assets: Annotated[
        Path | None, typer.Option(help="Archive of the world; default: the installed one.")
    ] = None,
    seed: Annotated[int, typer.Option()] = 0,
    device: Annotated[str | None, typer.Option(help="cpu; default: a GPU if any.")] = None,
    batch: Annotated[int, typer.Option()] = 192,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 2e-3,
    pool: Annotated[int, typer.Option(help="Pictures kept to be seen again.")] = 20_000,
    save_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 200,
    curriculum: Annotated[
        int,
        typer.Option(min=0, max=3, help="Judge: the stage of `pcs mini train` to show most often."),
    ] = 0,
) -> None:
    """Train the network of a metric on renders of the world, without what it holds out."""
    if curriculum and which is not Metric.judge:
        raise typer.BadParameter("only the judge has stages: leave --curriculum out")
    from pcs_mini.training.loop import Settings
    from pcs_mini.world.assets import SLICE_FILE, Assets, installed_archive

    settings = Settings(
        out=out,
        images=images or IMAGES[which],
        batch=batch,
        lr=lr,
        matrix_lr=lr,
        decay_share=0.6,
        seed=seed,
        device=device,
        resume=resume,
        init=init,
        pool=pool,
        save_every=save_every,
    )
    archive = Assets(assets or installed_archive() or SLICE_FILE, cache_bytes=_CACHE)
    stage = importlib.import_module(f"pcs_mini.training.metrics_{which.value}")
    facts = {"curriculum": curriculum} if curriculum else {}
    typer.echo(str(stage.train(settings, archive, _err.print, **facts)))
