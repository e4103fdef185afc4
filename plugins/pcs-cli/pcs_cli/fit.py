"""``pcs fit``: personalise."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pcs_cli.command_line import command_line
from pcs_cli.options import (
    Buckets,
    Checkpointing,
    Crop,
    Device,
    FitSize,
    Have,
    Json,
    Offload,
    Out,
    Overwrite,
    Precision,
    PreviewEvery,
    PreviewNegative,
    PreviewPrompts,
    Quantize,
    Seed,
    Settings,
)
from pcs_cli.output import complain, emit, emit_json, notice
from pcs_core.errors import InputError, PcsError

if TYPE_CHECKING:
    from pcs_cli.fit_plan import FitPlan
    from pcs_cli.fit_previews import Previews, PreviewStrips
    from pcs_cli.fit_work import Workplace
    from pcs_cli.output_folder import Destination
    from pcs_core.data import Personalization
    from pcs_engine import Progress


# long: the options of a command, and what is undone where it ends early
def fit(
    context: typer.Context,
    system: Annotated[
        str | None,
        typer.Argument(
            metavar="SYSTEM",
            help="A system (see pcs systems) or a recipe.toml; with --from it may be left out.",
            show_default=False,
        ),
    ] = None,
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FOLDER...]",
            help="Folders of pictures, one subject each. A system that trains nothing needs none.",
            show_default=False,
        ),
    ] = None,
    *,
    out: Out,
    noun: Annotated[
        str | None, typer.Option("--noun", help="What the subject is, as dog.", show_default=False)
    ] = None,
    token: Annotated[
        str | None,
        typer.Option("--token", help='What prompts will call it, as "<dog>".', show_default=False),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            "--backbone",
            metavar="ID|PATH|HUB_ID",
            help="The image generator: mini where nothing is said; with --from the artifact's.",
            show_default=False,
        ),
    ] = None,
    begun: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="DIR",
            help="An artifact to go on with, for the steps that --set PHASE.steps=N says.",
            show_default=False,
        ),
    ] = None,
    adapter: Annotated[
        Path | None,
        typer.Option(
            "--adapter",
            metavar="DIR",
            help="Weights of a pre-trained system (pcs pretrain), where no plugin holds them.",
            show_default=False,
        ),
    ] = None,
    settings: Settings = None,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = "fp32",
    gradient_checkpointing: Checkpointing = False,
    quantize: Quantize = "",
    offload: Offload = "",
    have: Have = None,
    crop: Crop = "auto",
    size: FitSize = None,
    buckets: Buckets = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a fit that was interrupted.")
    ] = False,
    overwrite: Overwrite = False,
    watch: Annotated[
        str | None,
        typer.Option(
            "--watch",
            metavar="NAME",
            help="Draw and score along the way, and keep the best checkpoint, as by fidelity.",
            show_default=False,
        ),
    ] = None,
    preview: Annotated[
        bool, typer.Option("--preview/--no-preview", help="Draw preview.png at the end.")
    ] = True,
    preview_prompt: PreviewPrompts = None,
    preview_negative: PreviewNegative = None,
    preview_every: PreviewEvery = None,
    keep_every: Annotated[
        int | None,
        typer.Option(
            "--keep-every",
            metavar="N",
            min=1,
            help="Keep an artifact every N steps, DIR/steps/000100 and on; until the end in DIR.partial.",
            show_default=False,
        ),
    ] = None,
    masked_loss: Annotated[
        bool,
        typer.Option(
            "--masked-loss",
            help="Count the error inside the masks beside the pictures alone, in any system.",
        ),
    ] = False,
    class_pictures: Annotated[
        Path | None,
        typer.Option(
            "--class-pictures",
            metavar="DIR",
            help="Pictures of the class for prior preservation: those in DIR, and what is missing is drawn "
            "into it.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print what would be read and how each file is used; fit nothing."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Learn the subject in FOLDER and write it to DIR.

    Several folders train together and are written to DIR/<folder name>/. With `torchrun
    --nproc-per-node N --no-python` in front, N devices share the steps of a fit. Work goes to DIR.partial/,
    which becomes DIR at the end; after an interruption the same command with --resume goes on.
    """
    from pcs_cli.dry_run import notes, plan_lines, print_dry_run
    from pcs_cli.fingerprint import facts
    from pcs_cli.fit_plan import plan_fit, shown_as
    from pcs_cli.fit_previews import read_previews
    from pcs_cli.fit_start import fit_start
    from pcs_cli.fit_work import open_together
    from pcs_engine.processes import join

    started = time.monotonic()
    words = [] if system is None else [system, *map(str, folders or ())]
    plan = plan_fit(
        fit_start(words, begun, backbone),
        out=out,
        noun=noun,
        token=token,
        overrides=settings or (),
        seed=seed,
        device=device,
        resume=resume,
        overwrite=overwrite,
        adapter=adapter,
        precision=precision,
        checkpointing=gradient_checkpointing,
        quantize=quantize,
        offload=offload,
        have=have,
        crop=crop,
        size=size,
        buckets=buckets,
        keep_every=keep_every,
        class_pictures=class_pictures,
        masked_loss=masked_loss,
    )
    previews = read_previews(
        preview_prompt or (),
        preview_negative,
        preview_every,
        plan.recipe,
        plan.subjects,
        last=preview,
    )
    if dry_run:
        print_dry_run(plan, json=json)
        return
    for note in (*notes(plan), *plan_lines(plan)):
        notice(note)
    if watch is not None and resume:
        raise InputError("--watch compares the checkpoints of one unbroken fit: leave out --resume")
    chosen = watcher(watch) if watch is not None else None
    known = facts(plan.recipe, plan.subjects, plan.backbone.card, seed, plan.device)
    if plan.start is not None:
        from pcs_engine.continuing import origin

        known["start"] = origin(plan.start, seed)
    known |= shown_as(plan)
    processes = join(plan.backbone.device)
    place = open_together(plan.destination, known, resume=resume, processes=processes)
    if place.finished:
        tell_finished(place, plan.destination, json)
        return
    if processes.index:  # what is written and told is the first one's business
        train(plan, place, chosen)
        return
    if resume and not place.resumed:
        notice(f"nothing to resume at {place.folder}: starting anew")
    again = command_line(context, "--resume")
    if processes.count > 1:
        again = f"torchrun --nproc-per-node {processes.count} --no-python {again}"
    try:
        artifacts, failed = run(plan, place, preview, chosen, previews)
        place.publish(plan.destination)
    except KeyboardInterrupt:
        if place.whole:
            place.discard()
            notice(f"\ninterrupted when all was done: {plan.destination.folder} is whole")
            raise typer.Exit(130) from None
        place.close()
        notice(f"\ninterrupted; go on with:\n  {again}")
        raise typer.Exit(130) from None
    except BaseException as error:
        _leave(place, error, again)
        raise
    place.discard()
    tell(plan, artifacts, failed, time.monotonic() - started, json)
    if failed:
        raise typer.Exit(3)


def tell_finished(place: Workplace, destination: Destination, json: bool) -> None:
    """Say that there is nothing to go on with: the interrupted command had written all."""
    writes = place.claim is not None
    place.close()
    if not writes:
        return
    notice("nothing to resume: the command that was interrupted had finished")
    if json:
        emit_json({"out": str(destination.folder)})
    else:
        emit(str(destination.folder))


def watcher(name: str) -> Callable[..., Any]:
    """Return what makes the ``keep`` of a fit from its subjects and backbone.

    Raises
    ------
    UnknownNameError
        No installed plugin holds it; names the nearest.
    """
    from pcs_core.catalogue import catalogue

    factory: Callable[..., Any] = catalogue().get("watchers", name)
    return factory


def run(
    plan: FitPlan,
    place: Workplace,
    preview: bool,
    watch: Callable[..., Any] | None = None,
    previews: Previews | None = None,
) -> tuple[list[Personalization], dict[str, str]]:
    """Fit, and write the artifacts to ``place.result``.

    Returns the personalizations, and by name why a subject has none.

    Raises
    ------
    InputError
        Every fit diverged.
    """
    from pcs_cli.fingerprint import with_references
    from pcs_cli.fit_keeping import copy_kept
    from pcs_cli.fit_previews import Previews, PreviewStrips, final_previews
    from pcs_cli.progress import reporting
    from pcs_core.storage import save
    from pcs_engine.drawn_size import sized

    strips = PreviewStrips(place.previews, previews or Previews(), plan.subjects, plan.seed)
    with reporting("preparing") as reporter:
        artifacts = train(plan, place, watch, reporter.fitting, strips=strips)
        failed = {p.subject: why for p in artifacts if (why := diverged(p))}
        if len(failed) == len(artifacts):
            raise InputError(next(iter(failed.values())))
        whole = [with_references(p, plan.subjects) for p in artifacts if p.subject not in failed]
        for artifact in whole:
            with sized(plan.backbone, plan.size):
                extra = final_previews(artifact, plan.backbone, strips, preview=preview)
            folder = place.result if alone(plan) else place.result / artifact.subject
            save(artifact, folder, extra_files=extra)
            copy_kept(place.kept if alone(plan) else place.kept / artifact.subject, folder)
    return whole, failed


def train(
    plan: FitPlan,
    place: Workplace,
    watch: Callable[..., Any] | None = None,
    *tell: Callable[[Progress], None],
    strips: PreviewStrips | None = None,
) -> list[Personalization]:
    """Fit, with work in ``place``; write no artifact."""
    from pcs_cli.fit_keeping import keeping
    from pcs_engine import fit as engine_fit

    return engine_fit(
        plan.recipe,
        plan.subjects,
        plan.backbone,
        seed=plan.seed,
        watch=tell,
        work=place.work,
        resume=place.resumed,
        adapter=plan.adapter,
        precision=plan.precision,
        checkpointing=plan.checkpointing,
        crop=plan.crop,
        size=plan.size,
        buckets=plan.buckets,
        start=plan.start,
        every=plan.keep_every or 0,
        each=keeping(place.kept, alone=alone(plan)) if plan.keep_every else None,
        show_every=strips.previews.every if strips else 0,
        show=strips.draw if strips and strips.previews.every else None,
        keep=None if watch is None else watch(plan.subjects, plan.backbone),
    )


def alone(plan: FitPlan) -> bool:
    """Return whether the destination is itself the artifact."""
    return len(plan.subjects) == 1


def diverged(artifact: Personalization) -> str:
    """Return why the numbers of a fit are worth nothing, or an empty string."""
    for name, tensor in artifact.tensors.items():
        if not bool(tensor.isfinite().all()):
            return (
                f"the fit of {artifact.subject!r} diverged ({name} is not finite): "
                "use a smaller lr, as --set <phase>.lr=1e-5"
            )
    return ""


def tell(
    plan: FitPlan,
    artifacts: Sequence[Personalization],
    failed: Mapping[str, str],
    seconds: float,
    json: bool,
) -> None:
    """Print where the artifacts are, and which are missing."""
    from pcs_cli.peak_memory import peak_memory
    from pcs_cli.preview import default_prompt

    folder = plan.destination.folder
    paths = [folder if alone(plan) else folder / artifact.subject for artifact in artifacts]
    for why in failed.values():
        complain(why)
    if json:
        rows: list[dict[str, Any]] = [
            {"subject": p.subject, "path": str(path), "losses": dict(p.losses)}
            for p, path in zip(artifacts, paths, strict=True)
        ]
        emit_json(
            {
                "out": str(folder),
                "seconds": round(seconds, 2),
                "artifacts": rows,
                "failed": dict(failed),
            }
        )
        return
    prompt = shlex.quote(default_prompt(artifacts[0]))
    notice(f"fitted in {seconds:.0f} s, peak memory {peak_memory()}; draw with:")
    notice(f"  pcs sample {shlex.quote(str(paths[0]))} {prompt} -n 4 --out pictures")
    for path in paths:
        emit(str(path))


def _leave(place: Workplace, error: BaseException, again: str) -> None:
    """Keep the work if going on may help; remove it if the same would happen again."""
    if isinstance(error, PcsError):
        # a full disk is mended, and what there is is worth going on with; a broken picture is neither
        full = isinstance(error.__cause__, OSError) and any(place.work.iterdir())
        keep = full or (place.resumed and place.trained)
    else:
        keep = place.resumed or any(place.work.iterdir())
    if keep:
        place.close()
        notice(f"what was done is kept in {place.folder}; go on with:\n  {again}")
    elif place.kept.is_dir():
        place.close()
        notice(f"the artifacts along the way are left in {place.kept}; --overwrite fits anew")
    else:
        place.discard()
