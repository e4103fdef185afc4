"""``pcs memory``: what a fit and a drawing take, and which setting makes them fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pcs_cli import device_name, emit, notice, read_size
from pcs_core.errors import InputError

if TYPE_CHECKING:
    from pcs_memory.report import Tried


app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
# long: the options of a command
def memory(
    system: Annotated[str, typer.Argument(metavar="SYSTEM", help="A system, or a recipe.toml.")],
    backbone: Annotated[
        str,
        typer.Option(
            "--backbone",
            metavar="ID|PATH|HUB_ID",
            help="The image generator; its weights stay unread.",
        ),
    ] = "mini",
    have: Annotated[
        str | None,
        typer.Option(
            "--have",
            metavar="SIZE",
            help="How much memory there is, as 12GB: find the first setting with which a fit needs no more.",
            show_default=False,
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            "--size", metavar="WxH", help="Size of the pictures, as 768x512.", show_default=False
        ),
    ] = None,
    pictures: Annotated[
        int, typer.Option("--pictures", min=1, help="How many pictures the subject has.")
    ] = 5,
    count: Annotated[
        int, typer.Option("-n", "--count", min=1, help="How many pictures are drawn at a time.")
    ] = 1,
    precision: Annotated[
        str, typer.Option("--precision", help="As of pcs fit: fp32, bf16 or fp16.")
    ] = "fp32",
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="As of pcs fit.")
    ] = False,
    quantize: Annotated[
        str, typer.Option("--quantize", help="As of pcs fit: bf16 or fp16.", show_default=False)
    ] = "",
    offload: Annotated[
        str, typer.Option("--offload", help="As of pcs fit: model.", show_default=False)
    ] = "",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="As of pcs fit. Repeatable."),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            "--device", help="Whose memory is asked for: cuda (of any card) or cpu; auto."
        ),
    ] = "auto",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON to stdout, and nothing else.")
    ] = False,
) -> None:
    """Say what a fit of SYSTEM and a drawing with it take, from the backbone's configuration alone.

    Exit code 1: there is less memory than --have says, whatever is set.
    """
    from pcs_core import load_recipe
    from pcs_memory.choosing import tries
    from pcs_memory.report import Answer
    from pcs_memory.settings import Setting, check_setting, read_memory

    there = None if have is None else read_memory(have)
    place = Path(backbone).expanduser()
    name = str(place.resolve()) if place.exists() else backbone
    recipe = load_recipe(system, backbone=name, overrides=settings or ())
    if quantize and precision == "fp32":  # as of a fit
        precision = "fp16" if quantize == "fp16" else "bf16"
    asked = Setting(precision, gradient_checkpointing, quantize, offload)
    check_setting(asked)
    aside = not (device == "cpu" or (device == "auto" and device_name("auto") == "cpu"))
    if offload and not aside:
        raise InputError(
            "--offload: on the CPU weights are in the host's memory already: leave it out"
        )
    tried: list[Tried] = []
    for one in tries(
        recipe,
        name,
        asked,
        aside=aside,
        ladder=there is not None,
        size=read_size(size, None)[0],
        pictures=pictures,
        count=count,
    ):
        tried.append(one)
        if there is not None and not as_json:
            notice(one.line(there))
        if there is not None and one.fit.peak <= there:
            break
    answer = Answer(system, backbone, "a card" if aside else "the CPU", tuple(tried), there)
    emit(json.dumps(answer.plain(), indent=2) if as_json else answer.text())
    if not answer.fits:
        raise typer.Exit(1)
