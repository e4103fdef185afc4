"""One archive of all families, and the validation slice cut from it."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pcs_core.errors import InputError
from pcs_mini.world.assets import Assets, open_assets
from pcs_mini.world.build.family import Family
from pcs_mini.world.population import Member, core, held_out, is_held_out

FAMILIES: tuple[str, ...] = ("drawn", "solids", "people", "panoramas")
LIMIT = 40_000_000
"""Largest archive, in bytes."""
SLICE_LIMIT = 5_000_000
"""Largest slice, in bytes."""

SLICE_DRAWN_PX = 64
"""Longest side of a drawing in the slice."""
SLICE_SOLIDS = 40
SLICE_VIEWS = 6
SLICE_IDENTITIES = 6
"""Trained identities of each style that the slice keeps, and as many held-out ones."""
SLICE_VARIATIONS = 6
SLICE_PANORAMA_PX = 512
"""Widest panorama in the slice."""

LICENCES: dict[str, str] = {
    "Apache-2.0": "https://www.apache.org/licenses/LICENSE-2.0",
    "CC-BY-3.0": "https://creativecommons.org/licenses/by/3.0/legalcode",
    "CC-BY-3.0-US": "https://creativecommons.org/licenses/by/3.0/us/legalcode",
    "CC-BY-4.0": "https://creativecommons.org/licenses/by/4.0/legalcode",
    "CC0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/legalcode",
}
"""Where the texts of the licences are."""
MIT = """\
## MIT License (Fluent Emoji)

Copyright (c) Microsoft Corporation.

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction,
including without limitation the rights to use, copy, modify, merge, publish, distribute,
sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or
substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT
NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES
OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN
CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""
"""The one licence whose text must travel with the drawings."""


class ArchiveError(InputError):
    """Families that do not fit together, or an archive that has grown too large."""


def merge(families: Mapping[str, Family]) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Files and index of one archive.

    Raises
    ------
    ArchiveError
        If a family is unknown, or two families hold a file of the same name.
    """
    entries: dict[str, bytes] = {}
    index: dict[str, Any] = {"sources": []}
    for name in FAMILIES:
        family = families.get(name)
        if family is None:
            index[name] = {}
            continue
        both = entries.keys() & family.entries.keys()
        if both:
            raise ArchiveError(f"{min(both)} is in {name} and in another family: rename one")
        entries.update(family.entries)
        index[name] = family.index
        for source in family.sources:
            if source not in index["sources"]:
                index["sources"].append(source)
    unknown = families.keys() - set(FAMILIES)
    if unknown:
        raise ArchiveError(f"no family {min(unknown)!r}: one of {', '.join(FAMILIES)}")
    return entries, index


def read_family(name: str, path: Path) -> Family:
    """A family that was built before, from its own archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            index = json.loads(archive.read("index.json"))
            entries = {
                file: archive.read(file) for file in archive.namelist() if file != "index.json"
            }
            return Family(entries, index[name], index.get("sources", []))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as wrong:
        raise ArchiveError(f"{path} is no archive of {name!r} ({wrong})") from None


def write_family(name: str, family: Family, path: Path) -> Path:
    """Keep a built family in an archive of its own; `read_family` reads it."""
    _write_zip(path, family.entries, {"sources": family.sources, name: family.index})
    return path


def write(
    out: Path, entries: Mapping[str, bytes], index: Mapping[str, Any], *, limit: int = LIMIT
) -> Path:
    """Write the archive, uncompressed, the same byte for byte whenever the content is.

    The index is checked against the files, and gets the list of every word that its names bring.

    Raises
    ------
    ArchiveError
        If a file is missing or belongs to nobody, or the archive is larger than `limit` bytes.
    """
    named = set(_files(index))
    if named - entries.keys():
        raise ArchiveError(f"the index names {min(named - entries.keys())}, which no builder made")
    if entries.keys() - named:
        raise ArchiveError(f"{min(entries.keys() - named)} is in no index: leave it out")
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_name(f".{out.name}")
    _write_zip(beside, entries, index)
    words = sorted({*index.get("words", ()), *open_assets(beside).words})
    _write_zip(beside, entries, {**index, "words": words})
    size = beside.stat().st_size
    if size > limit:
        beside.unlink()
        raise ArchiveError(
            f"{out.name} would have {size} bytes, more than {limit}: lower the quality of its "
            "sprites or leave views out"
        )
    beside.replace(out)
    return out


def _write_zip(path: Path, entries: Mapping[str, bytes], index: Mapping[str, Any]) -> None:
    files = {**entries, "index.json": json.dumps(index, separators=(",", ":")).encode()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), files[name])


def _files(index: Mapping[str, Any]) -> list[str]:
    paths = [f for about in index.get("drawn", {}).values() for f in about["styles"].values()]
    for about in index.get("solids", {}).values():
        paths += [about["file"], about["depth"]]
    paths += [p["file"] for those in index.get("people", {}).values() for p in those.values()]
    return paths + [about["file"] for about in index.get("panoramas", {}).values()]


def cut_slice(
    archive: Path,
    out: Path,
    *,
    limit: int = SLICE_LIMIT,
    report: Callable[[str], None] = lambda line: None,
) -> Path:
    """What evaluation needs of the archive: fewer styles, views and identities, at smaller sizes.

    Every concept stays in two styles, and what is held out beside them; the words of the whole
    archive stay in the index, so that the tokenizer is the same.
    """
    assets = open_assets(archive)
    index: dict[str, Any] = {"sources": assets.sources, "words": list(assets.words)}
    entries: dict[str, bytes] = {}
    for name, cut in (
        ("drawn", _slice_drawn),
        ("solids", _slice_solids),
        ("people", _slice_people),
        ("panoramas", _slice_panoramas),
    ):
        before = sum(map(len, entries.values()))
        index[name] = cut(assets, entries)
        report(f"slice: {name} {sum(map(len, entries.values())) - before} bytes")
    return write(out, entries, index, limit=limit)


def licences(assets: Assets) -> str:
    """A page that names the source, author and licence of everything in the archive."""
    lines = [
        "# Sources of the world",
        "",
        "Drawings, models, avatars and photographs of others, rendered, cropped, scaled and in part",
        "recoloured. Written from the archive by `pcs mini world licences`.",
        "",
        "| package | part | author | licence |",
        "|---|---|---|---|",
    ]
    for source in assets.sources:
        part = source.get("library") or source.get("file") or source.get("style") or ""
        cells = (
            f"`{source['package']}` {source['version']}",
            part,
            source.get("author", ""),
            source["licence"],
        )
        lines.append(f"| {' | '.join(cells)} |")
        lines += [
            f"| | {photo['place']} (`{photo['file']}`) | {photo['author']} | {photo['licence']} |"
            for photo in source.get("photographs", ())
        ]
    lines += ["", "## Models", "", "| solid | author, licence |", "|---|---|"]
    lines += [f"| {name} | {about.credit} |" for name, about in assets.solids.items()]
    lines += ["", "## Licences", ""]
    known = {licence for s in assets.sources for licence in s["licence"].split(" AND ")}
    lines += [f"- {name}: <{LICENCES[name]}>" for name in sorted(known & LICENCES.keys())]
    return "\n".join([*lines, "", MIT])


def _webp(pixels: np.ndarray, quality: int = 70) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", quality=quality, alpha_quality=80, method=6)
    return buffer.getvalue()


def _shrink(pixels: np.ndarray, longest: int) -> np.ndarray:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    shrunk = np.array(image)
    if shrunk.shape[-1] == 4:
        shrunk[shrunk[..., 3] == 0] = 0
    return shrunk


def _slice_drawn(assets: Assets, entries: dict[str, bytes]) -> dict[str, Any]:
    index = {}
    for at, (concept, about) in enumerate(assets.drawn.items()):
        members = [Member("drawn", concept, style) for style in sorted(about.styles)]
        trained = [m.style for m in members if not is_held_out(assets, m)]
        whole = concept in held_out().concepts
        # which two styles stay goes round, so that the slice has all of them
        both = trained or [m.style for m in members]
        kept = {both[(at + i) % len(both)] for i in range(2)}
        # of the held-out style, what people name first and what is held out anyway
        kept |= {
            m.style
            for m in members
            if is_held_out(assets, m)
            and (
                (concept, m.style) in held_out().instances
                or (m.style in held_out().styles and (whole or concept in core()))
            )
        }
        styles = {}
        for style in sorted(kept):
            file = f"drawn/{style}/{concept}.webp"
            entries[file] = _webp(_shrink(assets.drawing(concept, style), SLICE_DRAWN_PX), 60)
            styles[style] = file
        index[concept] = {"category": about.category, "styles": styles}
    return index


def _slice_solids(assets: Assets, entries: dict[str, bytes]) -> dict[str, Any]:
    held_out = [c for c in assets.solids if is_held_out(assets, Member("solid", c, "solid"))]
    trained = [c for c in assets.solids if c not in held_out]
    step = max(1, len(trained) // SLICE_SOLIDS)
    index: dict[str, Any] = {}
    for concept in sorted([*trained[::step][:SLICE_SOLIDS], *held_out]):
        about = assets.solids[concept]
        kept = _spread(len(about.views), SLICE_VIEWS)
        cells = [assets.solid_view(concept, view) for view in kept]
        cell = about.cell
        file, depth = f"solids/{concept}.webp", f"solids/{concept}.depth.webp"
        entries[file] = _webp(np.concatenate([image for image, _ in cells], 1))
        near = np.concatenate([d for _, d in cells], 1)
        entries[depth] = _webp(np.repeat(near[..., None], 3, 2), 60)
        index[concept] = {
            **assets.index["solids"][concept],
            "views": [list(about.views[view]) for view in kept],
            "file": file,
            "depth": depth,
            "cell": cell,
        }
    return index


def _slice_people(assets: Assets, entries: dict[str, bytes]) -> dict[str, Any]:
    index: dict[str, Any] = {}
    for style, those in assets.people.items():
        held_out = [n for n in those if is_held_out(assets, Member("person", "person", style, n))]
        trained = [n for n in those if n not in held_out]
        index[style] = {}
        for name in sorted([*trained[:SLICE_IDENTITIES], *held_out[:SLICE_IDENTITIES]]):
            kept = _spread(len(those[name].variations), SLICE_VARIATIONS)
            cells = [assets.person_view(style, name, variation) for variation in kept]
            given = assets.index["people"][style][name]
            file = f"people/{style}/{name}.webp"
            entries[file] = _webp(np.concatenate(cells, 1))
            index[style][name] = {
                **given,
                "file": file,
                "columns": len(kept),
                "variations": [given["variations"][variation] for variation in kept],
            }
    return index


def _slice_panoramas(assets: Assets, entries: dict[str, bytes]) -> dict[str, Any]:
    index = {}
    for place in assets.panoramas:
        file = f"panoramas/{place}.webp"
        entries[file] = _webp(_shrink(assets.panorama(place), SLICE_PANORAMA_PX), 75)
        index[place] = {**assets.index["panoramas"][place], "file": file}
    return index


def _spread(total: int, count: int) -> list[int]:
    """Numbers below `total`, evenly spread."""
    if total <= count:
        return list(range(total))
    return [round(i * total / count) for i in range(count)]
