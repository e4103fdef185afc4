"""What `pcs-all` requires: the distributions that lie beside it in the checkout.

They are required as folders of this checkout, so that their names are never looked up on an index where
somebody else may own them. With ``PCS_RELEASE=1`` they are required by name and version, as wheels for an index
must. An sdist says what was required when it was made.
"""

from __future__ import annotations

import os
import tomllib
from email import message_from_string
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

RELEASE = "PCS_RELEASE"


def requirements(folder: Path, *, release: bool) -> list[str]:
    """Return the requirements of the meta distribution in ``folder``.

    Raises
    ------
    FileNotFoundError
        Neither the checkout around it nor the metadata of an sdist is there.
    """
    root = folder.parent.parent
    if not (root / "plugins").is_dir() or not (root / "pyproject.toml").is_file():
        metadata = message_from_string((folder / "PKG-INFO").read_text("utf-8"))
        return sorted(metadata.get_all("Requires-Dist", []))
    projects = [root / "pyproject.toml"]
    projects += [*root.glob("plugins/*/pyproject.toml"), *root.glob("optimizers/*/pyproject.toml")]
    lines = []
    for path in projects:
        if path.parent == folder:
            continue
        project = tomllib.loads(path.read_text("utf-8"))["project"]
        place = f"=={project['version']}" if release else f" @ {path.parent.as_uri()}"
        lines.append(project["name"] + place)
    return sorted(lines)


class Siblings(MetadataHookInterface):
    """Fills in the dependencies when the metadata is made."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set ``dependencies`` of ``metadata``, the table ``[project]``."""
        release = os.environ.get(RELEASE, "") not in ("", "0")
        metadata["dependencies"] = requirements(Path(self.root), release=release)
