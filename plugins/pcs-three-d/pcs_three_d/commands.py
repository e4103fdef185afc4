"""``pcs render``: pictures of a trained field all around. Heavy imports wait."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pcs_cli import emit
from pcs_core.errors import InputError

if TYPE_CHECKING:
    from pcs_core.data import Personalization
    from pcs_three_d.field import Field

TECHNIQUE = "three_d.renderable"

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def render(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An artifact with a field.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to make.", show_default=False)
    ],
    views: Annotated[
        int, typer.Option("--views", "-n", min=1, max=1000, help="How many pictures.")
    ] = 8,
    size: Annotated[
        int | None,
        typer.Option(
            "--size",
            min=8,
            max=1024,
            help="Pixels of a side; those of the fit where it is not given.",
        ),
    ] = None,
    elevation: Annotated[
        float, typer.Option("--elevation", min=-90, max=90, help="Degrees above the ground.")
    ] = 15.0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace --out, once the new one is complete.")
    ] = False,
) -> None:
    """Draw the field in the artifact DIR from --views sides, the first in front.

    Writes 000.png ... and sheet.png, nothing else.
    """
    from pcs_cli import destination
    from pcs_core import load, sheet, write_png

    target = destination(out, overwrite=overwrite, inputs=[folder])
    artifact = load(folder.expanduser())
    technique, field = read_field(artifact, folder)
    pictures = turntable(field, views, size or technique.size, technique.samples, elevation)
    with target.filling() as ready:
        ready.mkdir()
        for index, picture in enumerate(pictures):
            write_png(picture, ready / f"{index:03d}.png")
        write_png(sheet(pictures, 8), ready / "sheet.png")
    emit(str(target.folder))


def read_field(artifact: Personalization, place: Path) -> tuple[Any, Field]:
    """Return the renderable technique of an artifact and its trained field.

    Raises
    ------
    InputError
        The artifact holds none.
    """
    import torch

    for use in artifact.recipe.uses:
        if use.technique.id == TECHNIQUE:
            technique: Any = use.technique
            field: Field = technique.field()
            with torch.no_grad():
                for name, tensor in field.owned().items():
                    tensor.copy_(artifact.tensors[f"{use.name}/{field.name}/{name}"])
            return technique, field
    raise InputError(f"{place} holds no field to render: fit a system that uses {TECHNIQUE}")


def turntable(field: Field, views: int, size: int, samples: int, elevation: float) -> list[Any]:
    """Return ``views`` pictures [3 size size] of a walk around the field."""
    import torch

    from pcs_three_d.cameras import Camera

    pictures = []
    with torch.no_grad():
        for index in range(views):
            camera = Camera(360.0 * index / views, elevation)
            pictures.append(field.look([camera], size, 2 * samples).image[0])
    return pictures
