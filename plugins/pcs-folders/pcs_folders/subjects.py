"""Reading a subject folder: images, and what the user wrote beside them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from torch import Tensor

from pcs_core.catalogue import service
from pcs_core.data.subject import Concept, Subject
from pcs_core.errors import InputError, nearest
from pcs_folders.clips import VIDEO_SUFFIXES, find_clips
from pcs_folders.concepts import read_concepts
from pcs_folders.images import SUFFIXES, UNREADABLE, Picture, read_mask, read_picture

EXTRA_KEYS = ("boxes", "points")
_MASK = re.compile(r"^(?P<stem>.+)\.mask(?:\.(?P<concept>[^.]+))?$", re.IGNORECASE)
_BESIDE = {".txt": "caption", ".json": "json"}
_ABOUT = ("readme", "license", "licence", "notice", "copying")


def load_subject(
    folder: str | Path, *, noun: str | None = None, token: str | None = None
) -> Subject:
    """Read the subject in ``folder``; it takes the folder's name.

    Images are RGB [3 h w] in [0, 1], in order of name. Beside ``<stem>.png`` may lie
    ``<stem>.txt`` (caption), ``<stem>.mask.png`` or ``<stem>.mask.<concept>.png`` (white is the
    concept), ``<stem>.json`` (boxes, points) and ``subject.toml``. The transparency of an image is
    the mask of its only concept. Hidden files and other suffixes are ignored, and so are texts
    named README, LICENSE, NOTICE or COPYING.

    A folder without still pictures may hold clips, read as [3 t h w]: animated GIFs, video files (with
    a decoder installed), folders of numbered frames, each with a caption beside it. A plugin reads them.

    Raises
    ------
    InputError
        Nothing to learn from, any image, mask, caption or json that cannot be used or belongs
        to no image, or no noun and token. Names the file and what to do.
    """
    folder = Path(folder)
    images, masks = _files(folder)
    concepts = read_concepts(folder, noun=noun, token=token)
    if not masks and images == find_clips(_entries(folder)):
        return _clips(folder, images, concepts)
    given = _assign_masks(images, masks, concepts)
    pictures = [read_picture(path) for path in images]
    return Subject(
        name=folder.resolve().name,
        concepts=concepts,
        images=tuple(picture.rgb for picture in pictures),
        captions=tuple(_caption(path.with_suffix(".txt")) for path in images),
        masks=_masks(images, pictures, given, concepts),
        files=tuple(path.name for path in images),
        extra=tuple(_extra(path.with_suffix(".json")) for path in images),
    )


def _clips(folder: Path, clips: Sequence[Path], concepts: tuple[Concept, ...]) -> Subject:
    """Return a subject of clips [3 t h w], a caption beside each."""
    read = service("clip_files").read
    return Subject(
        name=folder.resolve().name,
        concepts=concepts,
        images=tuple(read(path) for path in clips),
        captions=tuple(_caption(path.with_suffix(".txt")) for path in clips),
        files=tuple(path.name for path in clips),
    )


def _entries(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if not p.name.startswith("."))


def _files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the images (or clips) and the masks in ``folder``, sorted by name."""
    if not folder.exists():
        raise InputError(f"{folder} does not exist: give a folder with pictures of the subject")
    if not folder.is_dir():
        raise InputError(f"{folder} is a file: give the folder that holds it")
    try:
        entries = _entries(folder)
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror or error}") from error
    files = [p for p in entries if p.suffix.lower() in SUFFIXES]
    for path in entries:
        if path.suffix.lower() in UNREADABLE:
            raise InputError(
                f"{path}: {path.suffix.lower()} pictures are not read: convert it to PNG or JPEG, "
                "or move it away"
            )
    masks = [p for p in files if _MASK.match(p.stem)]
    images = ([] if masks else find_clips(entries)) or [p for p in files if p not in masks]
    if not images:
        names = ", ".join(p.name for p in entries[:5])
        holds = f"it holds {names}" if names else "it is empty"
        raise InputError(
            f"{folder} has no images ({' '.join(SUFFIXES)}) and no clips "
            f"({' '.join(VIDEO_SUFFIXES)}, folders of numbered frames): {holds}"
        )
    _check_beside(entries, {path.stem for path in images})
    return images, masks


def _check_beside(entries: Sequence[Path], stems: Set[str]) -> None:
    """Refuse a caption or json that would not be read, since its name fits no image."""
    for path in entries:
        suffix = path.suffix.lower()
        if suffix not in _BESIDE:
            continue
        if path.stem not in stems:
            if path.stem.lower().startswith(_ABOUT):
                continue
            raise InputError(
                f"{path} is the {_BESIDE[suffix]} of no image"
                f"{nearest(path.stem, stems) or '.'} Rename it after its image, or move it away"
            )
        if not path.with_suffix(suffix).exists():
            raise InputError(f"{path}: rename it {path.stem}{suffix}")


def _assign_masks(
    images: Sequence[Path], masks: Sequence[Path], concepts: Sequence[Concept]
) -> dict[tuple[str, str], Path]:
    """Return (stem of the image, name of the concept) -> mask file."""
    names = [concept.name for concept in concepts]
    stems = {path.stem for path in images}
    given: dict[tuple[str, str], Path] = {}
    for path in masks:
        match = _MASK.match(path.stem)
        stem, concept = (match["stem"], match["concept"]) if match else (path.stem, None)
        if path.suffix.lower() != ".png":
            raise InputError(f"{path}: a mask is a PNG file: save it as {path.stem}.png")
        if stem not in stems:
            raise InputError(f"{path} is the mask of no image{nearest(stem, stems)}")
        if concept is None and len(names) > 1:
            raise InputError(
                f"{path}: there are {len(names)} concepts: rename it {path.stem}.<concept>.png "
                f"with one of {', '.join(names)}"
            )
        if concept is not None and concept not in names:
            hint = nearest(concept, names) or f" (known: {', '.join(names)})"
            raise InputError(f"{path}: no concept {concept!r}{hint}")
        key = (stem, concept or names[0])
        if key in given:
            raise InputError(f"{path} and {given[key].name} are both the mask of {key[1]!r}")
        given[key] = path
    return given


def _masks(
    images: Sequence[Path],
    pictures: Sequence[Picture],
    given: Mapping[tuple[str, str], Path],
    concepts: Sequence[Concept],
) -> dict[str, tuple[Tensor | None, ...]]:
    masks: dict[str, tuple[Tensor | None, ...]] = {}
    for concept in concepts:
        row: list[Tensor | None] = []
        for path, picture in zip(images, pictures, strict=True):
            file = given.get((path.stem, concept.name))
            if file is not None:
                row.append(_mask(file, path, picture))
            else:
                # transparency says where something is, but with several concepts not which
                row.append(picture.alpha if len(concepts) == 1 else None)
        if any(mask is not None for mask in row):
            masks[concept.name] = tuple(row)
    return masks


def _mask(file: Path, image: Path, picture: Picture) -> Tensor:
    mask = read_mask(file)
    (height, width), (rows, columns) = mask.shape[-2:], picture.rgb.shape[-2:]
    if (height, width) != (rows, columns):
        raise InputError(
            f"{file} is {width} x {height}, but {image.name} is {columns} x {rows}: "
            "give them one size"
        )
    return mask


def _caption(file: Path) -> str | None:
    if not file.is_file():
        return None
    try:
        return " ".join(file.read_bytes().decode("utf-8-sig").split()) or None
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 text: save it as UTF-8") from error
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}") from error


def _extra(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        data = json.loads(file.read_bytes().decode("utf-8-sig"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not valid JSON: {error}") from error
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}") from error
    if not isinstance(data, dict):
        raise InputError(f"{file} holds no JSON object with {' or '.join(EXTRA_KEYS)}")
    for key, value in data.items():
        if key not in EXTRA_KEYS:
            hint = nearest(key, EXTRA_KEYS) or f" (known: {', '.join(EXTRA_KEYS)})"
            raise InputError(f"{file}: unknown key {key!r}{hint}")
        if not isinstance(value, list | dict):
            raise InputError(f"{file}: {key} must be a list, or lists by concept, got {value!r}")
    return data


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")
