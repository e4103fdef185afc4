"""``pcs fit-many``: the fits of a queue, those of one kind packed into one forward of the network."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pcs_cli.command_line import command_line
from pcs_cli.options import Checkpointing, Device, Json, Out, check_precision
from pcs_cli.output import complain, emit, emit_json, notice
from pcs_core.errors import InputError

if TYPE_CHECKING:
    from pcs_cli.many.fits import Fits
    from pcs_cli.output_folder import Destination


# long: the options of a command
def fit_many(
    context: typer.Context,
    queue: Annotated[
        Path,
        typer.Argument(
            metavar="QUEUE",
            help='JSON lines: {"system", "folder", "name", "noun", "token", "set", "seed", "size", '
            '"buckets", "crop"}; system and folder must be there.',
            show_default=False,
        ),
    ],
    *,
    out: Out,
    backbone: Annotated[
        str, typer.Option("--backbone", metavar="ID|PATH|HUB_ID", help="The image generator.")
    ] = "mini",
    together: Annotated[
        int,
        typer.Option(
            "--together", metavar="N", min=1, max=256, help="Fits in one forward at most."
        ),
    ] = 8,
    device: Device = "auto",
    precision: Annotated[
        str, typer.Option("--precision", help="fp32 or bf16: of frozen weights and products.")
    ] = "fp32",
    gradient_checkpointing: Checkpointing = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a queue: what is there is left as it is.")
    ] = False,
    json: Json = False,
) -> None:
    """Fit each line of QUEUE into DIR/<name>/, where the name is the folder's if it has no other.

    Fits whose systems act alike in the network share its forward, each with its own seed, settings of
    training, steps and end: one that is over is written at once, and the next takes its place. Folders are
    relative to QUEUE. Every line is checked before the first fit begins. After an interruption, also a kill,
    the same command with --resume goes on, at the last checkpoint of the fits that ran.
    """
    from pcs_cli.many.fits import Fits, Options, plan_queue
    from pcs_cli.many.journal import Journal
    from pcs_cli.many.queue_file import read_queue
    from pcs_cli.opening import backbone_name, device_name
    from pcs_engine import open_backbone
    from pcs_engine.processes import place

    started = time.monotonic()
    check_precision(precision)
    if precision == "fp16":
        raise InputError(
            "fits of one forward do not share fp16's scale of losses: --precision bf16"
        )
    if place()[1] > 1:
        raise InputError(
            "fit-many runs as one process: start one for each device, each with a queue"
        )
    lines, wrong = read_queue(queue)
    target = check_out(out, resume=resume)
    folder = target.folder
    target.take()  # until the command ends
    chosen = device_name(device)
    opened = open_backbone(backbone_name(backbone), device=chosen)
    options = Options(folder, backbone, chosen, precision, gradient_checkpointing, together)
    journal = Journal(folder)
    jobs, there, more = plan_queue(lines, options, opened, journal)
    if wrong := [*wrong, *more]:
        for why in wrong:
            complain(why)
        notice(f"{len(wrong)} of the queue's lines cannot be fitted: nothing was begun")
        raise typer.Exit(2)
    journal.begin()
    fits = Fits(options, opened, journal, jobs)
    if there:
        notice(f"{len(there)} of {len(lines)} are there already")
    try:
        fits.run()
    except KeyboardInterrupt:
        again = command_line(context, "--resume")
        notice(f"\ninterrupted after {len(fits.made)} of {len(jobs)}; go on with:\n  {again}")
        raise typer.Exit(130) from None
    tell(fits, there, time.monotonic() - started, json=json)
    if fits.failures:
        raise typer.Exit(3)


def check_out(out: Path, *, resume: bool) -> Destination:
    """Return the place of the results.

    Raises
    ------
    InputError
        It is a file, or holds something and the command does not go on with it.
    """
    from pcs_cli.many.journal import FILE
    from pcs_cli.output_folder import destination

    target = destination(out, overwrite=True)
    if target.folder.is_dir() and any(target.folder.iterdir()):
        if not (target.folder / FILE).exists():
            raise InputError(f"--out {out} was not made by fit-many: give the name of a new folder")
        if not resume:
            raise InputError(
                f"--out {out} holds fits of a queue: --resume goes on with it, or give another folder"
            )
    return target


def tell(fits: Fits, there: list[Path], seconds: float, *, json: bool) -> None:
    """Print where the artifacts are, and which fits failed."""
    if json:
        emit_json(
            {
                "out": str(fits.options.out),
                "seconds": round(seconds, 2),
                "forwards": fits.forwards,
                "artifacts": [str(path) for path in fits.made],
                "there": [str(path) for path in there],
                "failed": dict(fits.failures),
            }
        )
        return
    notice(f"fitted {len(fits.made)} in {seconds:.0f} s, {fits.forwards} forwards")
    for path in [*there, *fits.made]:
        emit(str(path))
