"""The options of ``pcs sample``, as typer reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Words = Annotated[
    list[str],
    typer.Argument(metavar="DIR PROMPT", help="An artifact and what to draw; with --base, PROMPT."),
]
Count = Annotated[int, typer.Option("--count", "-n", min=1, max=10_000, help="How many pictures.")]
Base = Annotated[
    str | None,
    typer.Option(
        "--base",
        metavar="ID|PATH|HUB_ID",
        help="Draw with this untuned backbone instead of an artifact.",
        show_default=False,
    ),
]
Beside = Annotated[
    list[Path] | None,
    typer.Option(
        "--add",
        metavar="DIR",
        help="A further artifact of the same backbone, to act beside the first. Repeatable.",
        show_default=False,
    ),
]
Steps = Annotated[int | None, typer.Option("--steps", min=1, max=1000, help="Denoising steps.")]
Scale = Annotated[float | None, typer.Option("--scale", min=0.0, max=100.0, help="Guidance scale.")]
Scheduler = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        help="ddim, dpm++2m-karras, euler-a, unipc, heun, lcm ...; also as in 'DPM++ 2M Karras'.",
        show_default=False,
    ),
]
Negative = Annotated[
    str | None, typer.Option("--negative", help="What not to draw.", show_default=False)
]
Size = Annotated[
    str | None,
    typer.Option(
        "--size", metavar="WxH", help="Width and height in pixels, as 768x512.", show_default=False
    ),
]
Aspect = Annotated[
    str | None,
    typer.Option(
        "--aspect",
        metavar="W:H",
        help="Width to height, as 3:2, of about as many pixels as the backbone's own.",
        show_default=False,
    ),
]
PresetName = Annotated[
    str | None,
    typer.Option(
        "--preset",
        metavar="ID|FILE",
        help="Techniques and numbers put over the recipe: fast, balanced ... (pcs preset list).",
        show_default=False,
    ),
]
Added = Annotated[
    list[str] | None,
    typer.Option(
        "--with",
        metavar="TECHNIQUE",
        help="Add a technique that trains nothing, by id. Repeatable.",
        show_default=False,
    ),
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting of what --preset and --with add: <technique>.<field>. Repeatable.",
        show_default=False,
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="a1111|compel|off",
        help="Read weights of words, (word:1.3) or word+; off, the default, reads prompts as written.",
        show_default=False,
    ),
]
LayoutFile = Annotated[
    Path | None,
    typer.Option(
        "--layout",
        metavar="FILE.json|PICTURE",
        help="Where things should stand: boxes of phrases, points, or a control picture.",
        show_default=False,
    ),
]
Provenance = Annotated[
    bool,
    typer.Option(
        "--provenance/--no-provenance",
        help="Say in each PNG what it comes from: recipe, base, hashes of references ... (pcs show FILE.png).",
    ),
]
Strengths = Annotated[
    list[str] | None,
    typer.Option(
        "--strength",
        metavar="NAME=VALUE",
        help="How strongly it acts: lora=0.6, of one that is added B:lora=0.6 or B=0.6; 1 is as fitted "
        "(pcs show names them). Repeatable.",
        show_default=False,
    ),
]
BackboneName = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        metavar="ID|PATH|HUB_ID",
        help="Where the artifact's backbone is now; it must have the same weights.",
        show_default=False,
    ),
]
EngineName = Annotated[
    str | None,
    typer.Option("--engine", help="What runs the networks: compile, onnx ...", show_default=False),
]
Deployment = Annotated[
    Path | None,
    typer.Option(
        "--deployment",
        metavar="DIR",
        help="A folder that pcs export wrote, to draw with in place of the backbone.",
        show_default=False,
    ),
]
EngineOptions = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="KEY=VALUE", help="An option of the engine. Repeatable."),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Print what would be drawn and written; draw nothing."),
]
