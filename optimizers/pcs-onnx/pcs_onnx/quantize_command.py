"""``pcs quantize``: a deployment with its denoiser in INT8."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pcs_cli import emit

if TYPE_CHECKING:
    from pcs_core.data import Personalization

CALLS_APART = 3
"""Every third step of the drawings calibrates: all noise levels, not all steps."""

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def quantize(
    deployment: Annotated[
        Path, typer.Argument(metavar="DEPLOYMENT", help="What pcs export --to onnx wrote.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The folder to write.", show_default=False)],
    prompt: Annotated[
        list[str],
        typer.Option("--prompt", help="What is drawn to calibrate. Repeatable."),
    ],
    artifact: Annotated[
        list[Path] | None,
        typer.Option(
            "--artifact",
            metavar="DIR",
            help="A personalization to calibrate with; its token stands in the prompts. Repeatable.",
            show_default=False,
        ),
    ] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Pictures a prompt.")] = 2,
    steps: Annotated[
        int | None,
        typer.Option("--steps", min=1, help="Denoising steps.", show_default=False),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --out.")] = False,
) -> None:
    """Write DEPLOYMENT again with its denoiser in INT8, for CPUs with VNNI or AMX.

    The prompts are drawn, and what the network is fed sets the ranges. Prints the error that was
    measured: judge pictures before you use it.
    """
    from pcs_cli import destination, reporting
    from pcs_core import load, sample
    from pcs_core.errors import InputError
    from pcs_onnx import int8
    from pcs_onnx.runtime import load as open_deployment

    source = deployment.expanduser()
    target = destination(out, overwrite=overwrite, inputs=[source])
    backbone = open_deployment(source)
    if backbone is None:
        raise InputError(f"{source} is no deployment: `pcs export SYSTEM --to onnx --out DIR`")
    artifacts: list[Personalization | None] = [load(f.expanduser()) for f in artifact or ()]
    with reporting("calibrating"), target.claimed():
        with int8.recording(backbone, every=CALLS_APART) as feeds:
            for personalization in artifacts or [None]:
                for index, text in enumerate(prompt):
                    sample(
                        personalization, backbone, text, count=count, seed=1000 * index, steps=steps
                    )
        with target.filling() as ready:
            facts = int8.quantize(source, ready, feeds)
    denoiser = facts["graphs"]["denoiser"]
    emit(
        f"{target.folder}: {denoiser['quantization']['layers']} layers in INT8, error "
        f"{denoiser['quantization']['rms_error']:.3f} (RMS), {denoiser['max_error']:.3f} at most"
    )
