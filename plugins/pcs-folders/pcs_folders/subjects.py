"""Reading a subject folder: images, and what the user wrote beside them."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pcs_core.arguments import checks_arguments
from pcs_core.catalogue import service
from pcs_core.data.later import row_of
from pcs_core.data.subject import Subject
from pcs_core.errors import InputError
from pcs_folders.images import read_picture
from pcs_folders.listing import FolderListing, list_folder
from pcs_folders.looking import Looked, kept_mask, looked, packed_mask
from pcs_folders.mask_files import read_mask
from pcs_folders.uses import FileUse

ASPECT = 0.015
"""Share by which the shape of a mask may differ from its picture's: the rounding of a scaled one."""
LARGEST = (1024, 1024)
"""Height and width that the largest backbones draw."""
_log = logging.getLogger("pcs.folders")


@dataclass(frozen=True, slots=True)
class FolderReading:
    """The subject of a folder, and what each file of it was read as."""

    subject: Subject
    uses: tuple[FileUse, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a fit says: files that are left out, and those read in a way that may surprise."""
        return tuple(use.line() for use in self.uses if use.is_said)


@checks_arguments
def load_subject(
    folder: str | Path,
    *,
    noun: str | None = None,
    token: str | None = None,
    size: tuple[int, int] | None = LARGEST,
) -> Subject:
    """Read the subject in ``folder``; it takes the folder's name.

    Images are RGB [3 h w] in [0, 1], sRGB, in order of name. Beside ``<stem>.png`` may lie ``<stem>.txt`` or
    ``<stem>.caption`` (caption; or ``metadata.jsonl``, ``metadata.csv`` for all), ``<stem>.mask.png`` or
    ``<stem>.mask.<concept>.png`` (white is the concept; also ``<stem>_mask.png``, ``<stem>-masklabel.png``
    and folders ``masks`` and ``conditioning``), ``<stem>.json`` (boxes, points, concepts) and
    ``subject.toml``. The transparency of an image is the mask of its only concept. Where the folder holds no
    pictures, its sub-folders may: ``10_sks dog``, or one named after each of several concepts.

    What is left out, and what is read in a way that may surprise, is logged as a warning.
    ``size`` is height and width that the network is shown: larger pictures are read at twice that, each when it
    is looked at, and not kept: the folder has to stay as it is until the fit is done. Without it that of the
    largest backbones; None holds every pixel of all.

    A folder without still pictures may hold clips, read as [3 t h w]: animated GIFs, video files (with
    a decoder installed), folders of numbered frames, each with a caption beside it. A plugin reads them.

    Raises
    ------
    InputError
        Nothing to learn from, any image, mask, caption or json that cannot be used or belongs
        to no image, or no noun and token. Names the file and what to do.
    """
    reading = read_listing(list_folder(Path(folder), noun=noun, token=token), size)
    for note in reading.notes:
        _log.warning("%s: %s", folder, note)
    return reading.subject


def read_listing(listing: FolderListing, size: tuple[int, int] | None = None) -> FolderReading:
    """Decode the pictures, clips and masks of a folder that was listed.

    Raises
    ------
    InputError
        One of them cannot be used; names the file and what to do.
    """
    name = listing.folder.resolve().name
    files = tuple(listing.relative(path) for path in listing.images)
    texts = [listing.captions.get(path, ()) for path in listing.images]
    captions = tuple(those[0] if those else None for those in texts)
    several = any(len(those) > 1 for those in texts)
    alternatives = tuple(those[1:] for those in texts) if several else ()
    if listing.clips:
        read = service("clip_files").read
        clips = tuple(read(path) for path in listing.images)
        subject = Subject(
            name, listing.concepts, clips, captions, files=files, alternatives=alternatives
        )
        return FolderReading(subject, listing.uses)
    pictures: dict[Path, Looked] = {}
    for path in listing.images:
        picture = read_picture(path, size)
        pictures[path] = looked(path, picture, size)
        for note in picture.notes:
            listing.say(path, listing.uses_by_path[path].use, note)
    subject = Subject(
        name=name,
        concepts=listing.concepts,
        images=row_of(picture.rgb for picture in pictures.values()),
        captions=captions,
        masks=_masks(listing, pictures, size),
        files=files,
        extra=tuple(listing.marks.get(path, {}) for path in listing.images),
        alternatives=alternatives,
        repeats=_repeats(listing),
    )
    return FolderReading(subject, listing.uses)


def _repeats(listing: FolderListing) -> tuple[int, ...]:
    """Return how often each picture is drawn, in the smallest numbers; nothing where all are alike."""
    counts = [listing.repeats.get(path, 1) for path in listing.images]
    common = math.gcd(*counts)
    return tuple(count // common for count in counts) if len(set(counts)) > 1 else ()


def _masks(
    listing: FolderListing, pictures: Mapping[Path, Looked], size: tuple[int, int] | None
) -> dict[str, Sequence[Tensor | None]]:
    concepts = listing.concepts
    read = {
        key: _mask(listing, file, key[0], pictures[key[0]], size)
        for key, file in listing.masks.items()
    }
    masks: dict[str, Sequence[Tensor | None]] = {}
    for concept in concepts:
        row: list[Any] = []
        for path, picture in pictures.items():
            # transparency says where something is, but with several concepts not which
            clear = picture.alpha if len(concepts) == 1 else None
            row.append(read.get((path, concept.name), (clear, True))[0])
        if any(mask is not None for mask in row):
            masks[concept.name] = row_of(row)
    for path, picture in pictures.items():
        of_picture = {file: read[key] for key, file in listing.masks.items() if key[0] == path}
        if of_picture and not any(shows for _, shows in of_picture.values()):
            raise InputError(
                f"{next(iter(of_picture))} is empty (black everywhere), so that nothing of {path.name} would "
                "count: paint the subject white, or move the picture or the mask away"
            )
        if picture.alpha is not None and not of_picture:
            use = listing.uses_by_path[path].use
            if len(concepts) == 1:
                listing.say(
                    path, f"{use}, and by its transparency the mask of {concepts[0].name!r}"
                )
            else:
                listing.say(path, use, "its transparency is no mask: there are several concepts")
    return masks


def _mask(
    listing: FolderListing,
    file: Path,
    image: Path,
    picture: Looked,
    size: tuple[int, int] | None,
) -> tuple[Any, bool]:
    """Return a mask [1 h w] at the size at which its picture is held, and whether it shows anything."""
    read = read_mask(file)
    for note in read.notes:
        listing.say(file, listing.uses_by_path[file].use, note)
    (height, width), (rows, columns) = read.values.shape[-2:], picture.size
    if (height, width) != (rows, columns):
        if abs((width / height) / (columns / rows) - 1) > ASPECT:
            turned = (height, width) == (columns, rows)
            cause = ": the picture is turned by its EXIF orientation, perhaps" if turned else ""
            raise InputError(
                f"{file} is {width} x {height}, but {image.name} is {columns} x {rows}: "
                f"give them one size{cause}"
            )
        note = f"{width} x {height}, scaled to the {columns} x {rows} of its picture"
        listing.say(file, listing.uses_by_path[file].use, note)
    mask = kept_mask(read.values, picture.size, size)
    return (mask if size is None else packed_mask(mask)), bool(mask.any())
