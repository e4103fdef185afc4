"""Class pictures of a folder: the user's, those of earlier fits, and what is missing, drawn into it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from pcs_core.errors import InputError
from pcs_core.small_files import read_json

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import BackboneCard

RECORDS = "class-pictures.json"
"""Beside the pictures: of each that was drawn, its prompt, backbone (id and sha256) and seed."""
AT_A_TIME = 8
"""Pictures that are drawn before they are written: no more are lost by an interruption."""


@dataclass(frozen=True, slots=True)
class ClassFolder:
    """A folder of class pictures of ``prompt``: its pictures, what is left out, what is known of them."""

    folder: Path
    prompt: str
    pictures: tuple[Path, ...] = ()
    others: tuple[str, ...] = ()
    records: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def plan(self, count: int, card: BackboneCard) -> tuple[str, ...]:
        """Return what is used of it for ``count`` pictures on a backbone, a sentence each."""
        number, missing = len(self.pictures), max(0, count - len(self.pictures))
        lines = [
            f"class pictures of {self.prompt!r}: {number} in {self.folder}, "
            + (f"{missing} more are drawn and kept there" if missing else "none is drawn")
        ]
        here = (self.prompt, card.id, card.hash)
        sources: dict[str, int] = {}
        for picture in self.pictures:
            of = self.records.get(picture.name)
            if of is not None and (of["prompt"], of["backbone"], of["sha256"]) != here:
                source = (
                    f"drawn of {of['prompt']!r} on {of['backbone']} (sha256 {of['sha256'][:12]})"
                )
                sources[source] = sources.get(source, 0) + 1
        lines += [
            f"{number} of them were {source}, this fit is on {card.id} (sha256 {card.hash[:12]}): they "
            "are used all the same; another folder draws new ones"
            for source, number in sources.items()
        ]
        if self.others:
            lines.append(f"left out of {self.folder}: {', '.join(self.others)}")
        return tuple(lines)

    def slots(self, count: int) -> list[int]:
        """Return the numbers of the pictures to draw, those whose names are free."""
        names, missing = {p.name for p in self.pictures}, max(0, count - len(self.pictures))
        free = (n for n in range(count + len(names)) if drawn_name(n) not in names)
        return [slot for slot, _ in zip(free, range(missing), strict=False)]

    def first_seed(self, seed: int, slots: Sequence[int]) -> int:
        """Return a seed for the first of ``slots`` from which none is drawn that is there already."""
        names = {p.name for p in self.pictures}
        used = {int(of["seed"]) for name, of in self.records.items() if name in names}
        clash = used & {seed + slot for slot in slots}
        return max(used) + 1 - slots[0] if clash else seed


def drawn_name(slot: int) -> str:
    """Return the name of the file of a picture that is drawn."""
    return f"drawn-{slot:05}.png"


def place_of(folder: Path, prompt: str, prompts: Sequence[str]) -> Path:
    """Return where the pictures of one of several prompts lie: in a folder of its own, named after it."""
    inner = folder / re.sub(r"[^\w<>]+", "-", prompt).strip("-")
    return inner if len(set(prompts)) > 1 or inner.is_dir() else folder


def list_class_folder(folder: Path, prompt: str) -> ClassFolder:
    """Return what lies in ``folder``, which need not exist.

    Raises
    ------
    InputError
        It is a file, cannot be read, or what it says of its pictures is damaged.
    """
    from pcs_folders.parts import pictures_in, visible

    if not folder.exists():
        return ClassFolder(folder, prompt)
    if not folder.is_dir():
        raise InputError(f"class pictures: {folder} is a file: give a folder")
    try:
        pictures = pictures_in(folder)
        rest = [p.name for p in visible(folder) if p not in pictures and p.name != RECORDS]
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror or error}") from error
    return ClassFolder(folder, prompt, tuple(pictures), tuple(rest), _records(folder / RECORDS))


def _records(file: Path) -> dict[str, dict[str, Any]]:
    if not file.exists():
        return {}
    try:
        records: Any = read_json(file)["pictures"]
        return {
            str(name): {
                **{k: str(of[k]) for k in ("prompt", "backbone", "sha256")},
                "seed": int(of["seed"]),
            }
            for name, of in records.items()
        }
    except (InputError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{file} is damaged: remove it; the pictures beside it are then used as they are"
        ) from error


def class_pictures(
    known: ClassFolder,
    count: int,
    card: BackboneCard,
    seed: int,
    size: tuple[int, int],
    draw: Callable[[int, int], Tensor],
) -> list[Tensor]:
    """Return the pictures [3 h w] of a folder at ``size``, after drawing what it lacks of ``count``.

    ``draw(number, seed)`` gives so many [n 3 h w], of that seed and those after it. What was drawn is read
    back from its file, so that the next fit learns from the same pictures.

    Raises
    ------
    InputError
        A picture cannot be read, or the folder not be written.
    """
    from pcs_folders.images import read_picture
    from pcs_folders.pictures import write_png

    def read(files: Sequence[Path]) -> dict[Path, Tensor]:
        return {file: _covering(read_picture(file, size).rgb, size) for file in files}

    pictures = read(known.pictures)  # before anything is drawn: one of them may be damaged
    slots = known.slots(count)
    start = known.first_seed(seed, slots) if slots else seed
    records = dict(known.records)
    for chunk in _runs(slots):
        of = {"prompt": known.prompt, "backbone": card.id, "sha256": card.hash}
        records |= {drawn_name(slot): {**of, "seed": start + slot} for slot in chunk}
        _write(known.folder / RECORDS, records)
        images = draw(len(chunk), start + chunk[0])
        for slot, image in zip(chunk, images, strict=True):
            write_png(image, known.folder / drawn_name(slot))
    pictures |= read([known.folder / drawn_name(slot) for slot in slots])
    return [
        pictures[file] for file in sorted(pictures)
    ]  # the order in which the next fit lists them


def _runs(slots: Sequence[int]) -> Iterator[list[int]]:
    """Yield consecutive numbers together, :data:`AT_A_TIME` at most."""
    run: list[int] = []
    for slot in slots:
        if run and (slot != run[-1] + 1 or len(run) == AT_A_TIME):
            yield run
            run = []
        run.append(slot)
    if run:
        yield run


def _write(file: Path, records: Mapping[str, Mapping[str, Any]]) -> None:
    from pcs_core.storage.durable import replacing_file

    try:
        with replacing_file(file) as temporary:
            text = json.dumps({"pictures": records}, indent=1, ensure_ascii=False)
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {file}: {error.strerror or error}") from error


def _covering(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a picture [3 h w] scaled to cover ``size``, and its middle."""
    height, width = size
    scale = max(height / image.shape[1], width / image.shape[2])
    target = (max(height, round(image.shape[1] * scale)), max(width, round(image.shape[2] * scale)))
    if tuple(image.shape[1:]) != target:
        image = F.interpolate(image[None], target, mode="bicubic", antialias=True)[0].clamp(0, 1)
    top, left = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
    return torch.clone(image[:, top : top + height, left : left + width])
