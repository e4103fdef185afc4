"""Turning words of the command line into what the engine works with."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcs_core.errors import InputError, PcsError

if TYPE_CHECKING:
    from pcs_core.backbone import Backbone
    from pcs_core.data import Personalization


def device_name(device: str) -> str:
    """Return the device meant: ``auto`` is a CUDA GPU where there is one, else the CPU.

    Where a launcher started several processes, "cuda" is the GPU of this one.

    Raises
    ------
    InputError
        There is no such device here; or one for all processes of a launch, which need one each.
    """
    import torch

    from pcs_engine.processes import place

    several = place()[1] > 1
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if not several:
            return device
    if several and device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    elif several and device.startswith("cuda:"):
        raise InputError(
            f"--device {device}: each process of a launch takes a device of its own: leave it out"
        )
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"--device {device}: there is no such device here: use cpu, or auto"
            + (" (and no more processes than there are devices)" if several else "")
        ) from error
    return str(torch.device(device))


def backbone_name(backbone: str) -> str:
    """Return the name to open: a folder or file as an absolute path, so that an artifact finds it."""
    from pcs_core.catalogue import catalogue

    if backbone in catalogue().ids("backbones"):
        hide_loading_bars()
        return backbone
    folder = Path(backbone).expanduser()
    if folder.exists():
        hide_loading_bars()
        return str(folder.resolve())
    return backbone


def hide_loading_bars() -> None:
    """Keep the model libraries from drawing a bar for reading a file: only a download is worth one.

    They look when they are first imported.
    """
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def open_for(
    artifact: Personalization, backbone: str | None, device: str, **options: Any
) -> Backbone:
    """Open the backbone of ``artifact``, or ``backbone`` in its place; ``options`` are its layout's.

    What draws, merges or exports with it refuses one of other weights.
    """
    from pcs_engine import open_backbone
    from pcs_engine.known_backbones import location_of

    name = backbone_name(backbone or location_of(artifact.backbone))
    return open_backbone(name, device=device_name(device), **options)


def open_artifact(folder: Path) -> Personalization:
    """Load an artifact; a folder of several is refused with their names.

    Raises
    ------
    PcsError
        Not an artifact, or damaged.
    """
    from pcs_core.storage import load

    folder = folder.expanduser()
    with refuse_several(folder):
        return load(folder)


def open_together(folders: Sequence[Path]) -> Personalization | None:
    """Load the artifacts in ``folders`` as one to draw with; None where there are none.

    Raises
    ------
    PcsError
        Not an artifact, or damaged; or artifacts that cannot draw together.
    """
    artifacts = [open_artifact(folder) for folder in folders]
    if len(artifacts) < 2:
        return next(iter(artifacts), None)
    from pcs_core import stack_personalizations

    return stack_personalizations(
        artifacts, [folder.expanduser().resolve().name for folder in folders]
    )


@contextmanager
def refuse_several(folder: Path) -> Iterator[None]:
    """Name the artifacts in a folder of several, where one was to be read.

    Raises
    ------
    InputError
        It holds several.
    """
    try:
        yield
    except PcsError as error:
        names = sorted(p.parent.name for p in folder.glob("*/manifest.json"))
        if names and not (folder / "manifest.json").exists():
            raise InputError(
                f"{folder} holds the artifacts {', '.join(names)}: name one, as {folder / names[0]}"
            ) from error
        raise
