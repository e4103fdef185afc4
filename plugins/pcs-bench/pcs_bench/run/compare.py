"""``pcs compare``: systems on one subject of the user's own, side by side."""

from __future__ import annotations

import filecmp
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from pcs_bench.run.commands import (
    Backbone,
    Device,
    Metrics,
    Out,
    Settings,
    Workers,
    named_metrics,
    named_systems,
    tell,
)
from pcs_core.errors import InputError

PROMPTS = (
    "a picture of {token}",
    "a picture of {token} on the beach",
    "a picture of {token} in the snow",
    "a picture of {token} at night",
    "a picture of {token} on grass",
    "a picture of {token} on a red background",
)
"""What is drawn without --prompt."""

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def compare(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Pictures of one subject.")],
    out: Out,
    systems: Annotated[
        str, typer.Option("--systems", help="Systems, as a,b,c.", show_default=False)
    ],
    noun: Annotated[
        str | None, typer.Option("--noun", help="What the subject is, as dog.", show_default=False)
    ] = None,
    token: Annotated[
        str | None,
        typer.Option("--token", help='What prompts call it, as "<dog>".', show_default=False),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt",
            help='A prompt with {token}, as "a photo of {token} in snow". Repeatable.',
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Pictures of each prompt.")] = 2,
    backbone: Backbone = "mini",
    metrics: Metrics = None,
    settings: Settings = None,
    workers: Workers = 0,
    device: Device = "auto",
) -> None:
    """Fit several systems on the pictures in FOLDER and write DIR/report.html to choose by.

    The same command goes on after an interruption. Exit codes are those of pcs bench run.
    """
    from pcs_bench import suites
    from pcs_bench.report.write import write_report
    from pcs_bench.run.conduct import check_known, run_bench
    from pcs_bench.run.plan import BASELINES, Protocol
    from pcs_cli import device_name

    out = out.expanduser()
    chosen = named_systems(systems)
    check_known(chosen)  # before anything is written
    path = write_suite(folder.expanduser(), out, noun=noun, token=token, prompts=prompt or PROMPTS)
    loaded = suites.load(path)
    protocol = Protocol(
        suite=str(path),
        systems=(*(b for b in BASELINES if b not in chosen), *chosen),
        subjects=tuple(s.name for s in loaded.subjects),
        seeds=seeds,
        backbone=backbone,
        device=device_name(device),
        settings=tuple(settings or ()),
        metrics=named_metrics(metrics, loaded, backbone),
    )
    outcome = run_bench(protocol, out, workers=workers)
    pages = write_report(out, title=f"{folder.name}: {', '.join(chosen)}")
    tell(outcome, pages[0])


def write_suite(
    folder: Path, out: Path, *, noun: str | None, token: str | None, prompts: Sequence[str]
) -> Path:
    """Write the suite of one subject to ``out/suite.toml`` and return its path.

    Its pictures are copied to ``out/subject/NAME``: a suite's file names no place outside of its folder.

    Raises
    ------
    InputError
        The folder is no subject's, ``out`` holds something else, or a prompt does not name the subject.
    """
    from pcs_bench.run.store import Store, write_bytes
    from pcs_core import load_subject

    for prompt in prompts:
        if "{token}" not in prompt:
            raise InputError(f"--prompt {prompt!r}: write {{token}} where the subject should stand")
    concept = load_subject(folder, noun=noun, token=token).concept
    path = out / "suite.toml"
    name = folder.resolve().name
    lines = [
        f'[suite]\nid = {json.dumps(name)}\nkind = "object"',
        f"[prompt]\nobject = {json.dumps(list(prompts))}",
        f"[[subject]]\nname = {json.dumps(name)}\nfolder = {json.dumps(f'subject/{name}')}",
        f"noun = {json.dumps(concept.noun)}\ntoken = {json.dumps(concept.token)}",
    ]
    with Store(out.resolve()).locked():
        copy_pictures(folder.resolve(), out / "subject" / name)
        write_bytes(path, ("\n\n".join(lines[:3]) + "\n" + lines[3] + "\n").encode())
    return path


def copy_pictures(folder: Path, kept: Path) -> None:
    """Copy ``folder`` to ``kept``, whole or not at all; what is there already must be the same.

    Raises
    ------
    InputError
        Other pictures are there.
    """
    from pcs_bench.run.store import copy_folder

    if not kept.exists():
        copy_folder(folder, kept)
        return
    names = [{p.relative_to(f) for p in f.rglob("*") if p.is_file()} for f in (folder, kept)]
    _, changed, unreadable = filecmp.cmpfiles(folder, kept, map(str, names[0]), shallow=False)
    if names[0] != names[1] or changed or unreadable:
        raise InputError(f"{kept} holds other pictures than {folder}: give another --out folder")
