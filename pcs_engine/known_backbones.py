"""Where this user keeps backbones, by the hash of their weights.

An artifact says which weights it was made on, and where its maker kept them. The second is shown and never
followed: somebody else's file would decide which folder is opened here, or what is fetched from a hub. What
this user has named once is found again, wherever the artifact comes from.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from pcs_core.caches import cache_folder, write_cached
from pcs_core.errors import ArtifactError, InputError
from pcs_core.small_files import read_json

if TYPE_CHECKING:
    from pcs_core.data import BackboneCard

FILE = "backbones.json"
LONGEST = 400
"""Characters of a name from elsewhere that a message shows."""
MOST = 500
"""Of entries; the oldest go."""
_log = logging.getLogger("pcs.backbones")


def remember(card: BackboneCard, location: str | Path) -> None:
    """Note that the user opened the weights of ``card`` at ``location``: a folder, a file or a hub id.

    Where it cannot be written nothing is lost: the next drawing asks where the backbone is.
    """
    path = Path(location).expanduser()
    name = str(path.resolve()) if path.exists() else str(location)
    known = _read()
    if known.get(card.hash) == name:
        return
    known.pop(card.hash, None)
    known[card.hash] = name
    kept = dict(list(known.items())[-MOST:])
    file = cache_folder() / FILE
    try:
        write_cached(file, json.dumps(kept, indent=1, ensure_ascii=False))
    except OSError as error:
        _log.debug("%s cannot be written: %s", file, error)


def location_of(card: BackboneCard) -> str:
    """Return what opens the backbone of ``card`` here: an installed id, or where this user opened it before.

    Raises
    ------
    ArtifactError
        It was never opened here, or is gone; says where its maker kept it.
    """
    from pcs_core.catalogue import catalogue

    if card.id in catalogue().ids("backbones"):
        return card.id
    known = _read().get(card.hash)
    mend = "say where it is with --backbone (in Python: backbone=...)"
    if known is None:
        name = card.location or card.id
        name = name if len(name) <= LONGEST else f"{name[:LONGEST]}..."
        raise ArtifactError(
            f"this artifact was made on backbone {name!r}, whose weights were not opened "
            f"here before (sha256 {card.hash[:12]}): {mend}"
        )
    if Path(known).is_absolute() and not Path(known).exists():
        raise ArtifactError(f"the backbone of this artifact is gone from {known}: {mend}")
    return known


def _read() -> dict[str, str]:
    file = cache_folder() / FILE
    try:
        data = read_json(file) if file.exists() else {}
    except InputError as error:
        _log.debug("%s", error)
        data = {}
    if not isinstance(data, dict):
        return {}
    return {k: v for k, v in data.items() if isinstance(v, str)}
