"""``pcs pretrain``: train the weights that a pre-trained system brings along."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pcs_cli.options import (
    Checkpointing,
    Device,
    Json,
    Out,
    Overwrite,
    Precision,
    Seed,
    Settings,
    check_precision,
)
from pcs_cli.output import emit, emit_json, notice
from pcs_core.errors import InputError, PcsError, UnknownNameError, nearest

if TYPE_CHECKING:
    from pcs_core.data import Personalization, Records
    from pcs_engine import Progress


# long: the options of a command, and what is undone where it ends early
def pretrain(
    system: Annotated[
        str, typer.Argument(metavar="SYSTEM", help="A pre-trained system or a recipe.toml.")
    ],
    out: Out,
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="ID|FOLDER",
            help="A data set (see pcs plugins) or a folder of pictures with captions.",
            show_default=False,
        ),
    ],
    backbone: Annotated[
        str, typer.Option("--backbone", metavar="ID|PATH|HUB_ID", help="The image generator.")
    ] = "mini",
    settings: Settings = None,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = "fp32",
    gradient_checkpointing: Checkpointing = False,
    init: Annotated[
        Path | None,
        typer.Option("--init", help="An earlier pre-training of SYSTEM to start from (a folder)."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a training that was interrupted.")
    ] = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Pre-train SYSTEM on a data set; `pcs fit SYSTEM --adapter DIR` then needs seconds a subject.

    Checkpoints go to DIR.partial/, which is removed when DIR is whole.
    """
    from pcs_cli.fingerprint import pretrain_facts
    from pcs_cli.fit import tell_finished
    from pcs_cli.fit_work import choose_destination, open_together
    from pcs_cli.opening import backbone_name, device_name, open_artifact
    from pcs_core.assembly import load_recipe

    check_precision(precision)
    target = choose_destination(out, overwrite=overwrite, resume=resume)

    from pcs_cli.progress import reporting
    from pcs_core import pretrain as run
    from pcs_core.storage import save
    from pcs_engine import open_backbone
    from pcs_engine.processes import join

    name = backbone_name(backbone)
    recipe = load_recipe(system, backbone=name, overrides=settings or ())
    records = open_records(data, recipe)
    start = open_artifact(init) if init is not None else None
    chosen = device_name(device)
    opened = open_backbone(name, device=chosen)
    facts = pretrain_facts(recipe, opened.card, seed, chosen, data, len(records))
    processes = join(opened.device)
    place = open_together(target, facts, resume=resume, processes=processes)
    if place.finished:
        tell_finished(place, target, json)
        return

    def train(*watch: Callable[[Progress], None]) -> Personalization:
        return run(
            recipe,
            records,
            opened,
            seed=seed,
            work=place.work,
            resume=place.resumed,
            precision=precision,
            checkpointing=gradient_checkpointing,
            init=start,
            watch=watch,
        )

    if processes.index:  # what is written and told is the first one's business
        train()
        return
    if resume and not place.resumed:
        notice(f"nothing to resume at {place.folder}: starting anew")
    try:
        with reporting("preparing") as reporter:
            adapter = train(reporter.fitting)
            save(adapter, place.result)
        place.publish(target)
    except KeyboardInterrupt:
        if place.whole:
            place.discard()
            notice(f"\ninterrupted when all was done: {target.folder} is whole")
            raise typer.Exit(130) from None
        place.close()
        notice(f"\ninterrupted; the same command with --resume goes on ({place.folder})")
        raise typer.Exit(130) from None
    except PcsError:
        if place.trained:
            place.close()
        else:
            place.discard()
        raise
    place.discard()
    if json:
        facts_out: dict[str, Any] = {"out": str(target.folder), "records": len(records)}
        emit_json({**facts_out, "tensors": len(adapter.tensors)})
    else:
        emit(str(target.folder))


def open_records(data: str, recipe: Any) -> Records:
    """Return a data set of the catalogue, or a folder's pictures.

    Raises
    ------
    UnknownNameError
        Neither; names the nearest id.
    """
    from pcs_core import FolderRecords
    from pcs_core.catalogue import catalogue

    known = catalogue()
    ids = known.ids("datasets")
    if data in ids:
        records: Any = known.get("datasets", data)()
        if not (hasattr(records, "__getitem__") and hasattr(records, "__len__")):
            raise InputError(f"the data set {data!r} is not one of pictures with captions")
        return records  # type: ignore[no-any-return]
    if Path(data).expanduser().is_dir():
        return FolderRecords(Path(data).expanduser())
    raise UnknownNameError(
        f"no data set and no folder {data!r}{nearest(data, ids)} (installed: {', '.join(ids)})"
    )
