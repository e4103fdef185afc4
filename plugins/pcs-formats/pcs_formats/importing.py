"""A file of another tool as an artifact: which importer takes it, and what it makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcs_core import installed
from pcs_core.errors import InputError
from pcs_engine.opening import resolve_backbone
from pcs_formats.contents import Contents, read_contents
from pcs_formats.reading import EXAMPLES, Given, artifact_of, shortened

if TYPE_CHECKING:
    from pcs_core.backbone import Backbone
    from pcs_core.data import Personalization
    from pcs_formats.reading import Reading

WHOLE = ("model.diffusion_model.", "first_stage_model.", "model_ema.", "cond_stage_model.")
"""How keys of whole models begin."""


def import_file(
    file: str | Path | Contents,
    backbone: Backbone | str | Path,
    *,
    token: str = "",
    noun: str = "",
    name: str = "",
) -> Personalization:
    """Return the artifact of another tool's file on ``backbone``.

    ``token`` is what prompts write for a learned word, or in place of a LoRA's trigger word; ``noun`` what the
    subject is; ``name`` the artifact's subject.

    Raises
    ------
    InputError
        The file is damaged, no importer takes it, or a key of it would not be used; names the nearest.
    """
    contents = file if isinstance(file, Contents) else read_contents(file)
    opened = resolve_backbone(backbone, None)
    given = Given(token, noun, name)
    for _, reading in readings(contents, opened, given):
        return artifact_of(reading, contents, opened, given)
    raise InputError(unknown(contents))


def inspect_file(file: str | Path, backbone: Backbone | str | Path | None = None) -> dict[str, Any]:
    """Return what a file holds and who takes it: importers, keys that match, what is missing, its metadata.

    Raises
    ------
    InputError
        The file is damaged, or none of tensors.
    """
    contents = read_contents(file)
    opened = None if backbone is None else resolve_backbone(backbone, None)
    given = Given()
    loaders = [
        described(id, reading, contents) for id, reading in readings(contents, opened, given)
    ]
    return {
        "file": str(contents.path),
        "sha256": contents.sha256,
        "tensors": len(contents.tensors),
        "types": sorted({str(t.dtype).removeprefix("torch.") for t in contents.tensors.values()}),
        "backbone": None if opened is None else opened.card.id,
        "loaders": loaders,
        "metadata": {k: shortened(v) for k, v in contents.metadata.items()},
        "plain": dict(contents.plain),
        **({} if loaders else {"keys": sorted(contents.tensors)[:EXAMPLES]}),
    }


def readings(
    contents: Contents, backbone: Backbone | None, given: Given
) -> Iterator[tuple[str, Reading]]:
    """Yield each importer that knows the file, and what it makes of it."""
    known = installed()
    for id in known.ids("importers"):
        reading = known.get("importers", id)(contents, backbone, given)
        if reading is not None:
            yield id, reading


def described(id: str, reading: Reading, contents: Contents) -> dict[str, Any]:
    """Return what is worth saying of a reading."""
    unused = sorted(set(contents.tensors) - reading.used)
    return {
        "importer": id,
        "kind": reading.kind,
        "base": reading.base or "not said",
        "keys": len(contents.tensors),
        "matched": len(contents.tensors) - len(unused),
        "unused": unused[:EXAMPLES],
        "missing": reading.missing[:EXAMPLES],
        "problems": reading.problems[:EXAMPLES],
        "facts": reading.facts,
        "notes": reading.notes,
        "uses": [use.name for use in reading.uses],
    }


def unknown(contents: Contents) -> str:
    """Return the message for a file that no importer takes."""
    ids = ", ".join(installed().ids("importers"))
    keys = sorted(contents.tensors)
    if any(key.startswith(WHOLE) for key in keys):
        return (
            f"{contents.path} is a whole model, not an update of one: open it with --backbone, as safetensors "
            "(what converts a pickled one is the tool that wrote it)"
        )
    listing = ", ".join(map(repr, keys[:3])) + (
        f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    )
    return f"{contents.path}: no importer takes it ({ids}). Its keys are {listing}"
