"""Render the world's drawings from the icon packages into the atlas."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from pcs_mini.world.atlas import ATLAS_FILE, SPRITE_PX
from pcs_mini.world.roster import roster


@dataclass(frozen=True)
class IconPackage:
    """One npm package of SVG bodies, pinned."""

    npm: str
    version: str
    sha256: str
    """Of ``icons.json``."""
    licence: str


PACKAGES: dict[str, IconPackage] = {
    "noto": IconPackage(
        "@iconify-json/noto",
        "1.2.9",
        "9eac6ef4e7ec122b6f0e7ac281d61008afdbc720d0ce861e398b939daaa347c6",
        "Apache-2.0",
    ),
    "noto-v1": IconPackage(
        "@iconify-json/noto-v1",
        "1.2.5",
        "ce70d8aa90345cf389875c3571ecd245bd943401822a0c5a0f62336bf8487333",
        "Apache-2.0",
    ),
    "fluent-emoji-flat": IconPackage(
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "f5f4cf457c0db2ad5a2e42e033e02e0c87d10e43d0164cfffb3bb84914970a63",
        "MIT",
    ),
    "emojione": IconPackage(
        "@iconify-json/emojione",
        "1.2.3",
        "e9a865faed523a7c3535b5319ae533d09fac1a62b4e96920eb178bb60e707e80",
        "CC-BY-4.0",
    ),
}


def _icons_of_folder(folder: Path, package: IconPackage) -> bytes:
    path = folder / package.npm / "icons.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing: `npm install {package.npm}@{package.version}` in the folder "
            "above, or leave --packages out to fetch it"
        )
    return path.read_bytes()


def _icons_of_npm(package: IconPackage) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            ["npm", "pack", f"{package.npm}@{package.version}", "--pack-destination", folder],
            check=True,
            capture_output=True,
        )
        (archive,) = Path(folder).glob("*.tgz")
        with tarfile.open(archive) as tar:
            member = tar.extractfile("package/icons.json")
            if member is None:
                raise FileNotFoundError(f"{package.npm}@{package.version} holds no icons.json")
            return member.read()


def load_icons(package: IconPackage, folder: Path | None) -> dict[str, Any]:
    """The package's icon table, its checksum verified."""
    data = _icons_of_npm(package) if folder is None else _icons_of_folder(folder, package)
    found = hashlib.sha256(data).hexdigest()
    if found != package.sha256:
        raise ValueError(
            f"{package.npm}@{package.version}: icons.json has sha256 {found}, expected "
            f"{package.sha256}: install the pinned version, or change PACKAGES in world/pack.py"
        )
    return json.loads(data)


def render(table: dict[str, Any], name: str, px: int = SPRITE_PX) -> Image.Image | None:
    """One icon as RGBA at `px`, cropped to its visible box; None if the set lacks it."""
    import resvg_py

    aliases = table.get("aliases", {})
    while name in aliases:
        name = aliases[name]["parent"]
    icon = table["icons"].get(name)
    if icon is None:
        return None
    width, height = (icon.get(k, table.get(k, 16)) for k in ("width", "height"))
    left, top = (icon.get(k, table.get(k, 0)) for k in ("left", "top"))
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{width}" height="{height}" viewBox="{left} {top} {width} {height}">'
        f"{icon['body']}</svg>"
    )
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=px, height=px))
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    return image.crop(image.getbbox())


def pack(
    packages: Path | None = None,
    out: Path = ATLAS_FILE,
    report: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write the atlas. `packages` is a ``node_modules`` folder; None fetches the pinned versions.

    The file is the same byte for byte whenever the drawings are.
    """
    people = roster()
    entries: dict[str, bytes] = {}
    sets: dict[str, Any] = {}
    for style, set_name in people.all_styles.items():
        package = PACKAGES[set_name]
        table = load_icons(package, packages)
        nouns = people.all_nouns if style in people.styles else people.world_nouns
        for noun, icon in nouns.items():
            image = render(table, icon)
            if image is None:
                report(f"{set_name} has no {icon}: {style} {noun} stays out")
                continue
            buffer = io.BytesIO()
            image.save(buffer, "WEBP", lossless=True, quality=100, method=6)
            entries[f"{set_name}/{icon}.webp"] = buffer.getvalue()
        sets[set_name] = {
            "package": package.npm,
            "version": package.version,
            "licence": package.licence,
            "sha256": package.sha256,
            "style": style,
            "trained": style in people.styles,
        }
        report(f"{set_name}: done")
    entries["index.json"] = json.dumps({"sprite_px": SPRITE_PX, "sets": sets}, indent=1).encode()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(entries):
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), entries[name])
    return out
