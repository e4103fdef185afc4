"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pcs_core.errors import InputError

Json = Annotated[bool, typer.Option("--json", help="Print JSON to stdout, and nothing else.")]

Out = Annotated[
    Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to make.", show_default=False)
]

Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace --out, once the new one is complete.")
]

Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting: <use or phase>.<field>, sample.<field> or fit.<field>. Repeatable.",
    ),
]

Seed = Annotated[int, typer.Option("--seed", min=0, help="Random seed.")]

Device = Annotated[
    str,
    typer.Option("--device", help="cpu, cuda, cuda:1 ...; auto takes a GPU where there is one."),
]

Precision = Annotated[
    str,
    typer.Option(
        "--precision", help="fp32, bf16 or fp16: of frozen weights and products while training."
    ),
]

Quantize = Annotated[
    str,
    typer.Option(
        "--quantize",
        metavar="NAME",
        help="Store frozen weights in fewer bits: bf16, fp16, fp8, int8, bnb-int8 or nf4.",
        show_default=False,
    ),
]

Offload = Annotated[
    str,
    typer.Option(
        "--offload",
        metavar="KIND",
        help="Keep networks that are not in use in the host's memory: model, or group (drawings alone).",
        show_default=False,
    ),
]

Have = Annotated[
    str | None,
    typer.Option(
        "--have",
        metavar="SIZE",
        help="Choose the options above that spare memory for so much of it, as 12GB; auto: all of the GPU's.",
        show_default=False,
    ),
]

Crop = Annotated[
    str,
    typer.Option(
        "--crop",
        help="Part of a picture that is shown: auto (middle, moved to keep masks, boxes and points), "
        "centre, subject (as auto, a picture without marks whole) or none (whole, padded).",
    ),
]

FitSize = Annotated[
    str | None,
    typer.Option(
        "--size",
        metavar="WxH",
        help="Size of the pictures that the network is shown, as 768x512; else the backbone's own.",
        show_default=False,
    ),
]

Buckets = Annotated[
    bool,
    typer.Option(
        "--buckets",
        help="Show each picture in the size nearest to its own shape, of as many pixels as --size; a batch "
        "holds one size.",
    ),
]

Checkpointing = Annotated[
    bool,
    typer.Option(
        "--gradient-checkpointing",
        help="Compute activations again in backward: less memory, more time.",
    ),
]

PreviewPrompts = Annotated[
    list[str] | None,
    typer.Option(
        "--preview-prompt",
        metavar="TEXT",
        help="What previews show; {token} is the subject's. Repeatable: a picture each.",
        show_default=False,
    ),
]
PreviewNegative = Annotated[
    str | None,
    typer.Option(
        "--preview-negative", metavar="TEXT", help="What previews do not show.", show_default=False
    ),
]
PreviewEvery = Annotated[
    int | None,
    typer.Option(
        "--preview-every",
        metavar="N",
        min=1,
        help="Add a row to DIR.partial/previews/SUBJECT.png every N steps, in the end DIR/previews.png.",
        show_default=False,
    ),
]


PRECISIONS = ("fp32", "bf16", "fp16")


def check_precision(name: str) -> None:
    """Refuse a precision that there is none of, before anything is read.

    Raises
    ------
    InputError
        Names those that there are.
    """
    if name not in PRECISIONS:
        raise InputError(f"--precision {name!r}: fp32, bf16 or fp16")
