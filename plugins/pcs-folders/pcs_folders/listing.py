"""What lies in a subject folder and what each file is for, before a single picture is decoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pcs_core.data.subject import Concept
from pcs_core.errors import InputError, check_utf8, nearest
from pcs_folders import captions as caption_files
from pcs_folders import heif
from pcs_folders.clips import VIDEO_SUFFIXES, find_clips
from pcs_folders.concepts import FILE, read_concepts
from pcs_folders.images import SUFFIXES
from pcs_folders.marks import read_marks
from pcs_folders.mask_names import assign_masks, doubt, mask_folder_files, split_masks
from pcs_folders.other_formats import ARCHIVES, BESIDE, UNREADABLE
from pcs_folders.parts import MASK_FOLDERS, Part, find_parts, pictures_in, visible
from pcs_folders.same_names import plain, sibling
from pcs_folders.uses import LEFT_OUT, FileUse

_BESIDE = {".txt": "caption", ".caption": "caption", ".json": "json"}
_ABOUT = ("readme", "license", "licence", "notice", "copying")
_SYSTEM = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir")
DEEP = 3
"""Levels of folders that are looked through for pictures, where there are none."""


@dataclass
class FolderListing:
    """The files of a subject folder by what they are for. ``clips``: its images are moving ones."""

    folder: Path
    concepts: tuple[Concept, ...]
    images: list[Path] = field(default_factory=list)
    clips: bool = False
    masks: dict[tuple[Path, str], Path] = field(default_factory=dict)
    captions: dict[Path, tuple[str, ...]] = field(default_factory=dict)
    """Of each picture, those that are alternatives."""
    repeats: dict[Path, int] = field(default_factory=dict)
    marks: dict[Path, dict[str, Any]] = field(default_factory=dict)
    uses_by_path: dict[Path, FileUse] = field(default_factory=dict)

    def relative(self, path: Path) -> str:
        """Return a file's name relative to the folder."""
        return path.relative_to(self.folder).as_posix()

    def say(self, path: Path, use: str, note: str = "", *, quiet: bool = False) -> None:
        """Note what ``path`` is read as; a second note is added to the first."""
        before = self.uses_by_path.get(path)
        if before is not None and before.note and before.note != note:
            note = f"{before.note}; {note}" if note else before.note
        self.uses_by_path[path] = FileUse(self.relative(path), use, note, quiet)

    @property
    def uses(self) -> tuple[FileUse, ...]:
        """Every file that lies there, by name, and what it is read as."""
        return tuple(self.uses_by_path[path] for path in sorted(self.uses_by_path))


def list_folder(folder: Path, *, noun: str | None, token: str | None) -> FolderListing:
    """Return what is in ``folder``; see :func:`pcs_folders.subjects.load_subject`.

    Raises
    ------
    InputError
        Nothing to learn from; a mask, caption or json that belongs to no image; no noun and token.
    """
    check_utf8(folder.resolve())
    if not folder.exists():
        raise InputError(f"{folder} does not exist: give a folder with pictures of the subject")
    if not folder.is_dir() and folder.suffix.lower() in ARCHIVES:
        raise InputError(f"{folder} is an archive: unpack it, and give the folder that it makes")
    if not folder.is_dir():
        raise InputError(f"{folder} is a file: give the folder that holds it")
    try:
        entries = visible(folder)
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror or error}") from error
    _check_readable(entries)
    stills, masks = split_masks([p for p in entries if p.suffix.lower() in SUFFIXES])
    concepts: tuple[Concept, ...] | None = None
    if not stills and any(p.is_dir() for p in entries):
        concepts = read_concepts(folder, noun=noun, token=token)
        parts = find_parts(entries, concepts)
    else:
        parts = []
    inside = {part.folder for part in parts}
    moving = [p for p in entries if p not in inside and p.name.lower() not in MASK_FOLDERS]
    clips = [] if masks or parts else find_clips(moving)
    if not clips and not stills and not parts:
        raise InputError(_nothing(folder, entries))
    listing = FolderListing(folder, concepts or read_concepts(folder, noun=noun, token=token))
    if clips:
        listing.images, listing.clips = list(clips), True
        _texts(listing, folder, entries, clips)
        for path in clips:
            listing.say(path, "clip")
    else:
        for part in parts or [Part(folder)]:
            _part(listing, part)
    _rest(listing, entries)
    return listing


def _check_readable(entries: Sequence[Path]) -> None:
    for path in entries:
        suffix = path.suffix.lower()
        if suffix in heif.SUFFIXES and suffix not in SUFFIXES:
            raise InputError(
                f"{path}: {suffix} pictures are not read yet: {heif.MEND}, or move it away"
            )
        if suffix in UNREADABLE and suffix not in SUFFIXES:
            raise InputError(
                f"{path}: {path.suffix.lower()} pictures are not read: convert it to PNG or JPEG, "
                "or move it away"
            )


def _nothing(folder: Path, entries: Sequence[Path]) -> str:
    names = ", ".join(p.name for p in entries[:5])
    holds = f"it holds {names}" if names else "it is empty"
    if any(p.suffix.lower() in ARCHIVES for p in entries):
        holds += ": unpack it first"
    deeper = [d.relative_to(folder).as_posix() for d in _folders(entries, DEEP) if pictures_in(d)]
    if deeper:
        holds += f"; pictures lie in {', '.join(deeper[:5])}: give that folder, or name each after a concept"
    return (
        f"{folder} has no images ({' '.join(SUFFIXES)}) and no clips "
        f"({' '.join(VIDEO_SUFFIXES)}, folders of numbered frames): {holds}"
    )


def _folders(entries: Sequence[Path], depth: int) -> Iterator[Path]:
    """Yield the folders among ``entries`` and in them, to a depth; links are not followed."""
    for path in entries:
        if path.is_dir() and not path.is_symlink():
            yield path
            if depth > 1:
                yield from _folders(visible(path), depth - 1)


def _part(listing: FolderListing, part: Part) -> None:
    """Add the pictures of one folder and what lies beside them."""
    entries = visible(part.folder)
    _check_readable(entries)
    files = [p for p in entries if p.suffix.lower() in SUFFIXES]
    images, masks = split_masks(files)
    masks += mask_folder_files(part.folder)
    given = assign_masks(images, masks, listing.concepts, part.folder)
    listing.images += images
    listing.repeats |= dict.fromkeys(images, part.repeats)
    listing.masks.update(given)
    _texts(listing, part.folder, entries, images)
    for image in images:
        marks = read_marks(json := sibling(image, ".json"), listing.concepts)
        if part.concept is not None:
            marks = {"concepts": [part.concept], **marks}
        if marks:
            listing.marks[image] = marks
        if json.is_file():
            listing.say(json, f"{', '.join(marks) or 'nothing'} of {image.name}")
        shows = f" of {part.concept!r}" if part.concept is not None else ""
        listing.say(image, f"picture{shows}", doubt(image, images))
    for (_, concept), path in given.items():
        named = [one.name for (one, of), mask in given.items() if mask == path and of == concept]
        listing.say(path, f"mask of {concept!r} in {' and '.join(named)}")
    if part.folder != listing.folder:
        listing.say(part.folder, f"folder of {len(images)} pictures", part.note)
        _rest(listing, entries)


def _texts(
    listing: FolderListing, folder: Path, entries: Sequence[Path], images: Sequence[Path]
) -> None:
    """Add the captions of ``images``: beside each, or in a table of the folder."""
    _check_beside(entries, {plain(path.stem) for path in images})
    sources: dict[Path, Path] = {}
    for image in images:
        file = caption_files.own_caption(image)
        if file is not None:
            texts, note = caption_files.read_captions(file)
            listing.captions[image], sources[image] = texts, file
            named = [one.name for one, source in sources.items() if source == file]
            listing.say(file, f"caption of {' and '.join(named)}", note)
    for name in caption_files.TABLES:
        table = folder / name
        if not table.is_file():
            continue
        captions, note = caption_files.read_table(table, images)
        for image, texts in captions.items():
            if image in sources:
                raise InputError(
                    f"{table} and {sources[image].name} are both the caption of {image.name}: keep one"
                )
            listing.captions[image], sources[image] = texts, table
        listing.say(table, f"captions of {len(captions)} pictures" if captions else LEFT_OUT, note)


def _check_beside(entries: Sequence[Path], stems: set[str]) -> None:
    """Refuse a caption or json that would not be read, since its name fits no image."""
    for path in entries:
        suffix = path.suffix.lower()
        if suffix not in _BESIDE:
            continue
        if plain(path.stem) not in stems:
            if path.stem.lower().startswith(_ABOUT):
                continue
            raise InputError(
                f"{path} is the {_BESIDE[suffix]} of no image"
                f"{nearest(path.stem, stems) or '.'} Rename it after its image, or move it away"
            )
        if not path.with_suffix(suffix).exists():
            raise InputError(f"{path}: rename it {path.stem}{suffix}")


def _rest(listing: FolderListing, entries: Sequence[Path]) -> None:
    """Add what is left: it is not read."""
    for path in entries:
        if path in listing.uses_by_path:
            continue
        if path.name == FILE and path.parent == listing.folder:
            listing.say(path, "who the concepts are")
        elif path.is_dir():
            if path.name.lower() in MASK_FOLDERS and any(
                path in p.parents for p in listing.uses_by_path
            ):
                continue
            count = len(pictures_in(path))
            what = f"a folder with {count} pictures" if count else "a folder"
            listing.say(path, LEFT_OUT, what, quiet=path.name.lower() in _SYSTEM and not count)
        else:
            about = path.stem.lower().startswith(_ABOUT) or path.name.lower() in _SYSTEM
            listing.say(path, LEFT_OUT, _why(path), quiet=about)
    for path in sorted(entries[0].parent.iterdir()) if entries else ():
        if path.name.startswith("."):
            listing.say(path, LEFT_OUT, "hidden", quiet=True)


def _why(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return "a clip among still pictures"
    if suffix in ARCHIVES:
        return "an archive: unpack it, where it holds pictures"
    if suffix in BESIDE:
        return f"{suffix} pictures are not read"
    if suffix in (".txt", ".caption", ".json"):
        return "about the folder"
    return f"{suffix or 'no suffix'}: no picture, caption, mask or marks"
