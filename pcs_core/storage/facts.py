"""What an artifact says of itself, read without the plugins that made it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pcs_core.catalogue import Catalogue
from pcs_core.catalogue import catalogue as installed
from pcs_core.errors import NotInstalledError, PcsError, UnknownNameError
from pcs_core.storage.manifest import Manifest
from pcs_core.storage.versions import LIBRARIES

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class ArtifactFacts:
    """The manifest of an artifact and its tensors, every byte checked.

    ``missing`` maps the id of each technique that is not installed to the distributions one of which
    holds it: such an artifact is shown, and cannot be drawn.
    """

    manifest: Manifest
    tensors: Mapping[str, Tensor]
    features: Mapping[str, Tensor]
    missing: Mapping[str, tuple[str, ...]]

    @property
    def techniques(self) -> tuple[str, ...]:
        """The ids of the techniques of its recipe, in order."""
        return techniques_of(self.manifest)


def techniques_of(manifest: Manifest) -> tuple[str, ...]:
    """Return the ids of the techniques that the recipe of a manifest uses."""
    uses = manifest.recipe.get("use", ())
    return tuple(str(use.get("technique", "")) for use in uses if isinstance(use, dict))


def missing_techniques(
    manifest: Manifest, catalogue: Catalogue | None = None
) -> dict[str, tuple[str, ...]]:
    """Return the techniques of a manifest that are not installed, each with what to install.

    Where the project does not know whose a technique is, these are the plugins that the artifact was
    made with and that are not here; of these the one that the technique's id begins with, if it does.
    """
    known = catalogue or installed()
    here = {plugin.distribution for plugin in known.plugins()}
    common = {"python", "pcs-core", *LIBRARIES}
    absent = tuple(name for name in manifest.versions if name not in here | common)
    missing: dict[str, tuple[str, ...]] = {}
    for id in techniques_of(manifest):
        try:
            known.where("techniques", id)
        except NotInstalledError as error:
            missing[id] = (error.distribution,)
        except UnknownNameError:
            named = "pcs-" + id.partition(".")[0].replace("_", "-")
            missing[id] = (named,) if named in absent else absent
        except PcsError:
            continue  # two plugins hold it: said when it is used
    return missing


def describe_missing(missing: Mapping[str, tuple[str, ...]]) -> str:
    """Return in words what is not installed, and what to install."""
    phrases = []
    for id, distributions in missing.items():
        where = " or ".join(distributions) or "a plugin that the artifact does not name"
        phrases.append(f"technique {id!r} of {where}")
    return ", ".join(phrases)
