"""``pcs mini pack`` and ``pcs mini world slice|licences|render|sheet``. Heavy imports wait."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(
    help="The world that the embedded backbone is trained on: its archive, its scenes."
)
_err = Console(stderr=True, highlight=False)

Archive = Annotated[
    Path | None, typer.Option(help="Archive of the world; default: the installed one.")
]


def _say(line: str) -> None:
    _err.print(line)


def build(
    out: Annotated[Path, typer.Option(help="Archive to write.")] = Path("world.zip"),
    packages: Annotated[
        Path, typer.Option(help="Folder of downloaded packages; what is missing is fetched.")
    ] = Path("packages"),
    parts: Annotated[
        Path, typer.Option(help="Folder of built families; one that is there is not built again.")
    ] = Path("families"),
    limit: Annotated[int | None, typer.Option(help="Things of each family, for a trial.")] = None,
) -> None:
    """Make the whole archive from published packages; needs the extra `pcs-mini[pack]`."""
    import importlib

    from pcs_mini.world.build.archive import FAMILIES, merge, read_family, write, write_family

    packages.mkdir(parents=True, exist_ok=True)
    parts.mkdir(parents=True, exist_ok=True)
    families = {}
    for name in FAMILIES:
        part = parts / f"{name}.zip"
        if not part.exists():
            builder = importlib.import_module(f"pcs_mini.world.build.{name}")
            write_family(name, builder.build(packages, _say, limit=limit), part)
        families[name] = read_family(name, part)
        _say(f"{name}: {len(families[name].entries)} files")
    path = write(out, *merge(families))
    typer.echo(f"{path} ({path.stat().st_size} bytes)")


@app.command("slice")
def slice_(
    archive: Annotated[Path, typer.Argument(help="The whole archive.")],
    out: Annotated[Path | None, typer.Option(help="Default: the one inside pcs-mini.")] = None,
) -> None:
    """Cut from an archive what evaluation needs, small enough to ship, and name its sources."""
    from pcs_mini.world.assets import SLICE_FILE, open_assets
    from pcs_mini.world.build.archive import cut_slice
    from pcs_mini.world.build.archive import licences as page

    path = cut_slice(archive, out or SLICE_FILE, report=_say)
    path.with_suffix(".md").write_text(page(open_assets(path)), encoding="utf-8")
    typer.echo(f"{path} ({path.stat().st_size} bytes)")


@app.command()
def licences(archive: Archive = None) -> None:
    """Print the sources, authors and licences of everything in the archive, as Markdown."""
    from pcs_mini.world.assets import open_assets
    from pcs_mini.world.build.archive import licences as page

    typer.echo(page(open_assets(archive)), nl=False)


@app.command()
def render(
    folder: Annotated[Path, typer.Argument(help="Folder for the scenes.")],
    scenes: Annotated[int, typer.Option("-n", min=1, help="How many, in whole shards.")] = 4096,
    archive: Archive = None,
    seed: Annotated[int, typer.Option()] = 0,
    size: Annotated[int, typer.Option(min=16, help="Side of a picture in pixels.")] = 128,
    shard: Annotated[int, typer.Option(min=1, help="Scenes in a shard.")] = 1024,
    processes: Annotated[int, typer.Option(min=1)] = 1,
) -> None:
    """Render scenes ahead into a folder; an interrupted one goes on where it was."""
    from pcs_mini.world.shards import render as render_shards

    typer.echo(
        str(
            render_shards(
                folder,
                scenes,
                seed=seed,
                size=size,
                shard=shard,
                archive=archive,
                processes=processes,
                report=_say,
            )
        )
    )


@app.command()
def sheet(
    out: Annotated[Path, typer.Argument(help="PNG to write.")],
    scenes: Annotated[int, typer.Option("-n", min=1)] = 64,
    archive: Archive = None,
    seed: Annotated[int, typer.Option()] = 0,
    kind: Annotated[str | None, typer.Option(help="drawn, solid or person.")] = None,
    held_out: Annotated[bool, typer.Option(help="Draw only what training never draws.")] = False,
) -> None:
    """Draw scenes with their captions on one sheet."""
    from pcs_mini.world.assets import open_assets
    from pcs_mini.world.population import open_population
    from pcs_mini.world.shards import scene_at
    from pcs_mini.world.sheet import captioned

    assets = open_assets(archive)
    population = open_population(assets, trained=not held_out)
    drawn = [scene_at(assets, population, seed, index, kind=kind) for index in range(scenes)]
    captioned([(scene.image, scene.caption) for scene in drawn]).save(out)
    typer.echo(str(out))
