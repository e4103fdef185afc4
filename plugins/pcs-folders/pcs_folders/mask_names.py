"""Which files beside the pictures are masks, by the names that painters and other trainers give them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pcs_core.data.subject import Concept
from pcs_core.errors import InputError, check_utf8, nearest
from pcs_folders.images import SUFFIXES
from pcs_folders.parts import MASK_FOLDERS, visible

OWN = re.compile(r"^(?P<stem>.+)\.mask(?:\.(?P<concept>[^.]+))?$", re.IGNORECASE)
"""``a.mask.png``, ``a.mask.dog.png``: a mask whether or not there is a picture for it."""
LABEL = re.compile(r"^(?P<stem>.+)-masklabel$", re.IGNORECASE)
"""OneTrainer's."""
OTHER = re.compile(r"^(?P<stem>.+)[-_]mask(?:[-_.](?P<concept>[^.]+))?$", re.IGNORECASE)
"""``a_mask.png``, ``a-mask.png``: a mask where there is a picture ``a``, else a picture of that name."""


def split_masks(files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Return the pictures among image files of one folder, and the masks that lie between them."""
    stems = {p.stem.lower() for p in files}
    masks = []
    for path in files:
        other = OTHER.match(path.stem)
        named = OWN.match(path.stem) or LABEL.match(path.stem)
        if named or (other and other["stem"].lower() in stems):
            masks.append(path)
    return [p for p in files if p not in masks], masks


def mask_folder_files(folder: Path) -> list[Path]:
    """Return the masks in ``masks/``, ``conditioning/`` and the like beside the pictures of ``folder``."""
    files: list[Path] = []
    for path in visible(folder):
        if path.is_dir() and path.name.lower() in MASK_FOLDERS:
            files += [p for p in sorted(path.rglob("*")) if p.suffix.lower() in SUFFIXES]
    check_utf8(*files)
    return files


def assign_masks(
    images: Sequence[Path], masks: Sequence[Path], concepts: Sequence[Concept], folder: Path
) -> dict[tuple[Path, str], Path]:
    """Return (image, name of the concept) -> mask file, for the images of one ``folder``.

    Raises
    ------
    InputError
        A mask of no image or of no concept, two of the same, or one that is no PNG.
    """
    names = [concept.name for concept in concepts]
    stems = {path.stem: path for path in images}
    given: dict[tuple[Path, str], Path] = {}
    for path in masks:
        stem, concept = _named(path, stems, names, folder)
        if path.suffix.lower() != ".png":
            raise InputError(f"{path}: a mask is a PNG file: save it as {path.stem}.png")
        if stem not in stems:
            raise InputError(f"{path} is the mask of no image{nearest(stem, stems)}")
        if concept is None and len(names) > 1:
            raise InputError(
                f"{path}: there are {len(names)} concepts: rename it {stem}.mask.<concept>.png "
                f"with one of {', '.join(names)}"
            )
        if concept is not None and concept not in names:
            hint = nearest(concept, names) or f" (known: {', '.join(names)})"
            raise InputError(f"{path}: no concept {concept!r}{hint}")
        key = (stems[stem], concept or names[0])
        if key in given:
            raise InputError(f"{path} and {given[key].name} are both the mask of {key[1]!r}")
        given[key] = path
    return given


def _named(
    path: Path, stems: Mapping[str, Path], names: Sequence[str], folder: Path
) -> tuple[str, str | None]:
    """Return the stem of the picture that a mask's name speaks of, and the concept, if it says one."""
    inside = path.relative_to(folder).parts[:-1]
    for pattern in (OWN, LABEL, OTHER):
        match = pattern.match(path.stem)
        if match:
            return match["stem"], match.groupdict().get("concept")
    if not inside:
        return path.stem, None
    if len(inside) > 1:  # masks/dog/a.png
        return path.stem, inside[-1]
    head, dot, tail = path.stem.rpartition(".")  # masks/a.dog.png
    if path.stem not in stems and dot and tail in names:
        return head, tail
    return path.stem, None
