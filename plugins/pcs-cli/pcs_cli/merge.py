"""``pcs merge``: one artifact out of several."""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from pcs_cli.options import Device, Json, Out, Overwrite
from pcs_cli.output import emit, emit_json, notice
from pcs_cli.strengths import numbers_by_name
from pcs_core.errors import InputError, UnknownNameError, nearest
from pcs_core.small_files import check_bounds


# long: the options of a command
def merge(
    folders: Annotated[
        list[Path], typer.Argument(metavar="A B...", help="Artifacts made on one backbone.")
    ],
    out: Out,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            help="How to merge: sum, closed-form, average ... [default: what their papers say, else sum]",
            show_default=False,
        ),
    ] = None,
    strength: Annotated[
        list[str] | None,
        typer.Option(
            "--strength",
            metavar="NAME=VALUE",
            help="How strongly each acts: A=0.7, B=0.5, of one use B:lora=0.5; 1 is as fitted. Repeatable.",
            show_default=False,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the method. Repeatable."),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option("--backbone", metavar="ID|PATH|HUB_ID", help="Where their backbone is now."),
    ] = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    preview: Annotated[
        bool, typer.Option("--preview/--no-preview", help="Draw preview.png at the end.")
    ] = True,
    json: Json = False,
) -> None:
    """Merge artifacts into one that knows all their subjects.

    By the method sum, it draws what `pcs sample A --add B` draws at these strengths. `--set rank=16` bounds the
    rank of summed low-rank updates, and says how far they are from the sum.
    """
    from pcs_cli.opening import open_artifact, open_for
    from pcs_cli.output_folder import destination
    from pcs_cli.preview import draw_preview
    from pcs_core.catalogue import catalogue

    if len(folders) < 2:
        raise InputError("a merge needs at least two artifacts: pcs merge A B --out DIR")
    target = destination(out, overwrite=overwrite, inputs=folders)
    strengths = numbers_by_name(strength or ())
    artifacts = [open_artifact(folder) for folder in folders]

    from pcs_core import merge_personalizations
    from pcs_core.storage import save

    chosen = method or catalogue().get("services", "usual_method")(artifacts)
    values = read_settings(settings or (), chosen, catalogue().get("mergers", chosen))

    with target.claimed():
        opened = open_for(artifacts[0], backbone, device)
        merged = merge_personalizations(
            artifacts,
            opened,
            method=chosen,
            strengths=strengths,
            names=[folder.resolve().name for folder in folders],
            **values,
        )
        extra = draw_preview(merged, opened) if preview else {}
        with target.filling() as ready:
            save(merged, ready, extra_files=extra)
    if json:
        tokens = [concept.token for concept in merged.concepts]
        emit_json(
            {
                "out": str(target.folder),
                "method": chosen,
                "tokens": tokens,
                "strengths": dict(merged.extra.get("strengths", {})),
                **({"sum": merged.extra["sum"]} if "sum" in merged.extra else {}),
            }
        )
    else:
        notice(f"merged by {chosen}")
        emit(str(target.folder))


def read_settings(
    texts: Sequence[str],
    method: str,
    merger: Callable[..., Any],
    *,
    option: str = "--set",
    given: Collection[str] = (),
) -> dict[str, Any]:
    """Return the settings of a merger or exporter, ``KEY=VALUE`` with VALUE in TOML or a bare word.

    Settings are its keywords, those left out that it is ``given`` anyway.

    Raises
    ------
    InputError, UnknownNameError
        Not of that form, no setting of this method, or of another type than its default.
    """
    parameters = inspect.signature(merger).parameters
    known = {
        n: p.default for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY and n not in given
    }
    values: dict[str, Any] = {}
    for text in texts:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not (key and equals):
            raise InputError(f"{option} {text!r}: write KEY=VALUE")
        if key not in known:
            hint = nearest(key, known) or f" (known: {', '.join(known) or 'none'})"
            raise UnknownNameError(f"{option}: {method} has no setting {key!r}{hint}")
        check_bounds(value, f"{option} {key}")
        try:
            values[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            several = isinstance(known[key], list | tuple)  # of bare words: a,b
            values[key] = [word.strip() for word in value.split(",")] if several else value
        if not like(values[key], known[key]):
            raise InputError(f"{option} {text}: {key} is written as {show(known[key])}")
    return values


def like(value: Any, default: Any) -> bool:
    """Return whether ``value`` is of the type of ``default``."""
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, float):
        return isinstance(value, int | float)
    if isinstance(default, list | tuple):
        return isinstance(value, list)
    return isinstance(value, type(default))


def show(default: Any) -> str:
    """Return a default as a user would write it, shortened."""
    if isinstance(default, list | tuple):
        return f"a list, as {list(default)[:2] or ['a', 'b']!r}"
    return f"{type(default).__name__}, as {default!r}"
