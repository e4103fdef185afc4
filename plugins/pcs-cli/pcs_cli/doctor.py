"""``pcs doctor``: whether this installation can work.

What is not installed is no fault: a part of PCS, or an optional library, that somebody may add. What is
installed and does not work is broken.
"""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pcs_cli.options import Json
from pcs_cli.output import columns, emit, emit_json
from pcs_core.errors import ConflictError, missing_distribution
from pcs_core.threads import POLICY, SLEEP, quota, sleep_while_waiting

if TYPE_CHECKING:
    from pcs_core.catalogue import Catalogue

LEAST_DISK = 1_000_000_000
"""Bytes below which a fit may not find room for its checkpoints."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. ``state`` is "ok", "note", "not installed" or "broken"."""

    subject: str
    state: str
    text: str


def doctor(json: Json = False) -> None:
    """Look for what is broken: exit 1 if anything is."""
    findings = list(examine())
    broken = [finding for finding in findings if finding.state == "broken"]
    if json:
        emit_json({"healthy": not broken, "findings": [asdict(f) for f in findings]})
    else:
        emit(columns((), [(f.state, f.subject, f.text) for f in findings]))
        emit(f"\n{len(broken)} broken" if broken else "\nnothing is broken")
    raise typer.Exit(1 if broken else 0)


def examine() -> Iterator[Finding]:
    """Yield what was found, part by part."""
    from pcs_core.catalogue import catalogue

    known = catalogue()
    yield Finding("python", "ok", f"{platform.python_version()} at {sys.executable}")
    yield from _torch()
    yield from _plugins(known)
    yield from _backbones(known)
    yield from _targets(known)
    yield from _recipes(known)
    yield from _diagnoses(known)
    yield _disk(Path.cwd())


def _torch() -> Iterator[Finding]:
    try:
        import torch
    except Exception as error:
        yield Finding("torch", "broken", f"does not import: {_line(error)}")
        return
    yield Finding("torch", "ok", torch.__version__)
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    yield Finding("devices", "ok", ", ".join(["cpu", *gpus]))
    yield _threads(torch.get_num_threads())


def _threads(count: int) -> Finding:
    share = quota()
    bound = "" if share is None else f" of the {share} cores that this container may use"
    if count == 1:
        return Finding("threads", "ok", f"1{bound}")
    if sleep_while_waiting():
        return Finding("threads", "ok", f"{count}{bound}, which sleep while they wait")
    return Finding(
        "threads",
        "note",
        f"{count}{bound}, which keep a core busy while they wait: beside another program a step takes many "
        f"times as long; set {POLICY}={SLEEP}, or import pcs_core before torch",
    )


def _plugins(known: Catalogue) -> Iterator[Finding]:
    for plugin in known.plugins():
        holds = ", ".join(f"{n} {noun.replace('_', ' ')}" for noun, n in plugin.counts.items())
        yield Finding(plugin.distribution, "ok", f"{plugin.version}: {holds or 'nothing'}")
        for remark in plugin.remarks:
            yield Finding(plugin.distribution, "note", f"when it is imported it {remark}")
    for broken in known.broken:
        # its plugin module is import-cheap: one that needs what is not there is broken
        yield Finding(broken.distribution or broken.name, "broken", broken.error)
    for conflict in known.conflicts:
        yield Finding("conflict", "broken", conflict)
    if not known.plugins():
        yield Finding("plugins", "note", "none is installed, or PCS_PLUGINS leaves all out")


def _backbones(known: Catalogue) -> Iterator[Finding]:
    ids = known.ids("backbones")
    if not ids:
        yield Finding("backbones", "note", "none is installed: give --backbone a folder or hub id")
    for id in ids:
        try:
            opened = known.get("backbones", id)()
            where = str(opened) if isinstance(opened, str | Path) else "built in memory"
            if isinstance(opened, str | Path) and not Path(opened).is_dir():
                yield Finding(f"backbone {id}", "broken", f"its folder {opened} is missing")
                continue
        except Exception as error:
            yield _failed(f"backbone {id}", error)
            continue
        yield Finding(f"backbone {id}", "ok", where)


def _targets(known: Catalogue) -> Iterator[Finding]:
    """Import whatever the plugins name, as the first use of it would."""
    from pcs_core.catalogue import NOUNS

    imported = 0
    for noun in NOUNS:
        for id in known.ids(noun):
            try:
                target = known.get(noun, id)
            except ConflictError:
                continue  # a line of its own
            except Exception as error:
                yield _failed(f"{noun} {id}", error)
                continue
            imported += 1
            if not callable(target) and noun not in ("presets", "profiles", "services"):
                what = f"{known.where(noun, id)} is {type(target).__name__}, nothing to call"
                yield Finding(f"{noun} {id}", "broken", what)
    yield Finding("imports", "ok", f"{imported} of what the plugins name")


def _recipes(known: Catalogue) -> Iterator[Finding]:
    from pcs_core.assembly import load_recipe

    loaded = 0
    for id in known.recipe_files():
        try:
            load_recipe(id, catalogue=known)
        except Exception as error:
            yield _failed(f"recipe {id}", error)
        else:
            loaded += 1
    yield Finding("recipes", "ok", f"{loaded} load")


def _diagnoses(known: Catalogue) -> Iterator[Finding]:
    for id in known.ids("diagnoses"):
        try:
            lines = list(known.get("diagnoses", id)())
        except Exception as error:
            yield _failed(id, error)
            continue
        for state, text in lines:
            yield Finding(id, state, text)


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    state = "ok" if free >= LEAST_DISK else "note"
    few = "" if state == "ok" else ": a fit may not find room for its checkpoints"
    return Finding("disk", state, f"{free / 1e9:.1f} GB free at {folder}{few}")


def _failed(subject: str, error: Exception) -> Finding:
    """Return "not installed" where ``error`` comes of that, else "broken"."""
    if missing := missing_distribution(error):
        return Finding(subject, "not installed", f"needs {missing}: {_line(error)}")
    return Finding(subject, "broken", _line(error))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
