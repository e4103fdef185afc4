"""What quality gates found out about presets: one JSON file per preset, backbone and system.

They lie in the folder that the environment variable ``PCS_VERDICTS`` names (usually
``~/.cache/pcs/verdicts``), and, where they came with a preset, in ``verdicts`` beside its file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcs_core.errors import InputError, PcsError
from pcs_core.small_files import read_json

if TYPE_CHECKING:
    from pcs_core.data import BackboneCard, Preset

FOLDER = "PCS_VERDICTS"
SCHEMA = "pcs-verdict/1"


def verdict_folder() -> Path:
    """Return where this user's verdicts lie."""
    from pcs_core.caches import cache_folder

    given = os.environ.get(FOLDER)
    return Path(given) if given else cache_folder() / "verdicts"


def read_verdict(preset: Preset, card: BackboneCard, system: str) -> dict[str, Any] | None:
    """Return the verdict on ``preset`` for ``system`` on this backbone, None where there is none.

    One about another text of the preset, or other weights, is none.
    """
    name = _name(preset.id, card.id, system)
    folders = [verdict_folder()]
    if preset.path:
        folders.append(Path(preset.path).parent / "verdicts")
    for folder in folders:
        try:
            verdict = read_json(folder / name)
        except PcsError:
            continue
        about = (verdict.get("preset", {}).get("hash"), verdict.get("backbone", {}).get("hash"))
        if verdict.get("schema") == SCHEMA and about == (preset.hash, card.hash):
            return verdict  # type: ignore[no-any-return]
    return None


def write_verdict(
    preset: Preset,
    card: BackboneCard,
    system: str,
    facts: Mapping[str, Any],
    folder: Path | None = None,
) -> Path:
    """Write ``facts`` (with ``passed`` and ``summary``) as the verdict, and return the file.

    Raises
    ------
    InputError
        It cannot be written.
    """
    path = (folder or verdict_folder()) / _name(preset.id, card.id, system)
    whole = {
        "schema": SCHEMA,
        "preset": {"id": preset.id, "hash": preset.hash},
        "backbone": {"id": card.id, "hash": card.hash},
        "system": system,
        **facts,
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n", "utf-8")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def _name(preset: str, backbone: str, system: str) -> str:
    return f"{preset}.{Path(backbone).name}.{system}.json"
