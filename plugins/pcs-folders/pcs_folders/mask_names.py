"""Which files beside the pictures are masks, by the names that painters and other trainers give them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pcs_core.data.subject import Concept
from pcs_core.errors import InputError, check_utf8, nearest
from pcs_folders.concepts import called
from pcs_folders.images import SUFFIXES
from pcs_folders.parts import MASK_FOLDERS, visible
from pcs_folders.same_names import plain

OWN = re.compile(r"^(?P<stem>.+)\.mask(?:\.(?P<concept>[^.]+))?$", re.IGNORECASE)
"""``a.mask.png``, ``a.mask.dog.png``: a mask whether or not there is a picture for it."""
LABEL = re.compile(r"^(?P<stem>.+)-masklabel$", re.IGNORECASE)
"""OneTrainer's."""
_WORDS = "mask|matte|alpha|segmentation|seg"
OTHER = re.compile(
    rf"^(?P<stem>.+?)[-_. ]?(?:{_WORDS})\d*(?:[-_.](?P<concept>[^.]+))?$", re.IGNORECASE
)
"""``a_mask.png``, ``a-matte.png``: a mask where there is a picture ``a``, else a picture of that name."""
BEFORE = re.compile(r"^mask[-_. ]?(?P<stem>.+)$", re.IGNORECASE)
"""``mask_a.png``: likewise."""
CONTROL = re.compile(
    r"^(?P<stem>.+?)[-_. ](?:condlabel|depth|canny|pose|openpose|normals?|lineart|edges?|trimap|control)$",
    re.IGNORECASE,
)
"""``a-condlabel.png``, ``a_depth.png``: what other trainers are shown beside a picture ``a``."""


def split_masks(files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Return the pictures among image files of one folder, and the masks that lie between them."""
    stems = {plain(p.stem).lower() for p in files}
    masks = []
    for path in files:
        others = (OTHER.match(path.stem), BEFORE.match(path.stem))
        named = OWN.match(path.stem) or LABEL.match(path.stem)
        if named or any(o and plain(o["stem"]).lower() in stems for o in others):
            masks.append(path)
    return [p for p in files if p not in masks], masks


def doubt(image: Path, images: Sequence[Path]) -> str:
    """Return what a user should know of a picture whose name says that it may be none, or nothing."""
    stems = {plain(p.stem).lower(): p.name for p in images}
    control = CONTROL.match(image.stem)
    if control and (of := stems.get(plain(control["stem"]).lower())):
        return f"named as what belongs to {of}, and read as a picture: move it away if it shows no subject"
    if image.stem.lower() in ("mask", "masks", "matte", "alpha"):
        return "named as a mask, but it does not say of which picture it is one: read as a picture"
    stem = OTHER.match(image.stem)
    if stem and image.stem.lower().endswith(("_mask", "-mask")):
        return f"named as a mask, but there is no picture {image.stem[:-5]!r}: read as a picture"
    return ""


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
    stems: dict[str, list[Path]] = {}
    for image in images:
        stems.setdefault(plain(image.stem), []).append(image)
    given: dict[tuple[Path, str], Path] = {}
    for path in masks:
        stem, concept = _named(path, stems, names, folder)
        concept = None if concept is None else called(concept, concepts)
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
        for image in stems[stem]:
            key = (image, concept or names[0])
            if key in given:
                raise InputError(f"{path} and {given[key].name} are both the mask of {key[1]!r}")
            given[key] = path
    return given


def _named(
    path: Path, stems: Mapping[str, Any], names: Sequence[str], folder: Path
) -> tuple[str, str | None]:
    """Return the stem of the picture that a mask's name speaks of, and the concept, if it says one."""
    inside, name = path.relative_to(folder).parts[:-1], plain(path.stem)
    in_names = {plain(one): one for one in names}
    for pattern in (OWN, LABEL, OTHER, BEFORE):
        match = pattern.match(name)
        if match and (pattern in (OWN, LABEL) or match["stem"] in stems):
            concept = match.groupdict().get("concept")
            return match["stem"], in_names.get(concept or "", concept)
    if not inside:
        return name, None
    if len(inside) > 1:  # masks/dog/a.png
        return name, in_names.get(plain(inside[-1]), inside[-1])
    head, dot, tail = name.rpartition(".")  # masks/a.dog.png
    if name not in stems and dot and tail in in_names:
        return head, in_names[tail]
    return name, None
