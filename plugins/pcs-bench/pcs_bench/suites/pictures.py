"""Pictures of subjects: photographs checked against a manifest, or members of the Mini world."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcs_core.errors import InputError
from pcs_core.small_files import beneath, read_text

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Subject

ROOT = "PCS_BENCH_IMAGES"
"""Environment variable: the folder that holds one folder of pictures per source."""


def root() -> Path:
    """Return where pictures are looked for."""
    return Path(os.environ.get(ROOT) or Path.home() / ".cache" / "pcs-bench")


def missing(suite: str, images: Mapping[str, Any], path: Path) -> InputError:
    """Return the error that says where the pictures come from and where they belong."""
    if "folder" not in images:
        return InputError(f"suite {suite!r}: {path} is not there")
    folder = root() / str(images["folder"])
    how = str(images.get("how", "")).replace("{folder}", str(folder))
    return InputError(
        f"suite {suite!r}: {path} is not there. Pictures: {images['source']}; licence: "
        f"{images['licence']}; layout: {str(images['layout']).replace('<folder>', str(folder))}. "
        f"To get them: {how}. Another place: set {ROOT} to the folder above."
    )


def manifest(file: Path) -> dict[str, str]:
    """Return path -> sha256 (hex) of a manifest as ``sha256sum`` writes it.

    Raises
    ------
    InputError
        A line is none of one: names it.
    """
    sums = {}
    for number, line in enumerate(read_text(file).split("\n"), 1):
        sha, gap, path = line.rstrip("\r").partition("  ")
        if not line.strip():
            continue
        if not gap or not re.fullmatch("[0-9a-f]{64}", sha):
            raise InputError(f"{file}:{number}: no sha256 and path, as `sha256sum` writes them")
        sums[path] = sha
    return sums


def verify(suite: str, folder: Path, base: Path, sums: Mapping[str, str]) -> None:
    """Compare the files of a subject with the manifest.

    Raises
    ------
    InputError
        A file is missing or differs; names it.
    """
    start = folder.relative_to(base).as_posix() + "/"
    for path, expected in sums.items():
        if not path.startswith(start):
            continue
        file = beneath(base, path, f"suite {suite!r}")
        if not file.is_file():
            raise InputError(f"suite {suite!r}: {file} is missing: take the whole set of originals")
        actual = _digest(file)
        if actual != expected:
            raise InputError(
                f"suite {suite!r}: {file} differs from the manifest (sha256 {actual[:12]}..., wanted "
                f"{expected[:12]}...). Scores of changed pictures are not comparable: take the original, "
                "or make a suite of your own with `pcs bench new` (--like SUITE keeps its subjects)"
            )


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def photographs(folders: Sequence[Path], nouns: Sequence[str], tokens: Sequence[str]) -> Subject:
    """Read a subject folder, or the two of a pair as one subject of two concepts."""
    from pcs_core import load_subject

    parts = [
        load_subject(f, noun=n, token=t) for f, n, t in zip(folders, nouns, tokens, strict=True)
    ]
    return parts[0] if len(parts) == 1 else join(parts)


def join(parts: Sequence[Subject]) -> Subject:
    """Return subjects as one: each picture says which concept it shows.

    Where some picture of a concept has a mask, pictures of the other concepts get an empty one.
    """
    import torch

    from pcs_core.data import Subject

    images = tuple(image for part in parts for image in part.images)
    masks: dict[str, tuple[Tensor | None, ...]] = {}
    for part in parts:
        part_masks = part.masks.get(part.concept.name)
        if part_masks is None:
            continue
        row: list[Tensor | None] = []
        for other in parts:
            row += part_masks if other is part else [torch.zeros_like(i[:1]) for i in other.images]
        masks[part.concept.name] = tuple(row)
    return Subject(
        name="_".join(part.name for part in parts),
        concepts=tuple(part.concept for part in parts),
        images=images,
        captions=tuple(
            given or f"a photo of {part.concept.token}" for part in parts for given in part.captions
        ),
        masks=masks,
        files=tuple(f"{part.name}/{file}" for part in parts for file in part.files),
        extra=tuple({} for _ in images),
        alternatives=tuple(p.texts(i)[1:] for p in parts for i in range(len(p.images))),
        repeats=tuple(n for p in parts for n in p.repeats or (1,) * len(p.images)),
    )


def drawn(
    world: str,
    name: str,
    members: Sequence[str],
    nouns: Sequence[str],
    tokens: Sequence[str],
    kind: str,
    count: int,
) -> Subject:
    """Draw a subject of the Mini world: one member, a pair, or several members of one style."""
    from pcs_core import installed
    from pcs_core.data import Concept, Subject

    studio = installed().get("datasets", world)()

    def one(
        part: str, concept: Concept, pictures: Sequence[Any], said: Sequence[str | None]
    ) -> Any:
        return Subject(
            name=part,
            concepts=(concept,),
            images=tuple(p.image for p in pictures),
            captions=tuple(said),
            masks={concept.name: tuple(p.masks[0] for p in pictures)},
            files=tuple(f"{number:02d}.png" for number in range(len(pictures))),
            extra=tuple({} for _ in pictures),
        )

    if kind == "style":
        concept = Concept(name, tokens[0], nouns[0], "style")
        pictures = [studio.references(member, 1)[0] for member in members]
        words = [member.partition("/")[0] for member in members]
        subject = one(name, concept, pictures, [f"{tokens[0]} of a {word}" for word in words])
        return Subject(**{**_fields(subject), "masks": {}})
    parts = []
    for member, noun, token in zip(members, nouns, tokens, strict=True):
        part = name if len(members) == 1 else token.strip("<>").replace("-", "_")
        concept = Concept(part, token, noun, "face" if kind == "face" else "object")
        pictures = studio.references(member, count)
        parts.append(one(part, concept, pictures, [None] * len(pictures)))
    return parts[0] if len(parts) == 1 else Subject(**{**_fields(join(parts)), "name": name})


def _fields(subject: Subject) -> dict[str, Any]:
    return {key: getattr(subject, key) for key in subject.__dataclass_fields__}
