"""What the project knows of but finds not installed, so that a message can name the mend."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pcs_core.errors import NotInstalledError, PcsError, UnknownNameError
from pcs_core.facade import services

if TYPE_CHECKING:
    from pcs_core.catalogue.catalogue import Catalogue

DEFAULT_BACKBONE, DEFAULT_BACKBONE_IN = "mini", "pcs-mini"
"""What is drawn on where nothing is said, and the distribution that brings it."""
KNOWN_TECHNIQUES = "catalogue.techniques"


def facts(catalogue: Catalogue, dataset: str) -> list[object]:
    """Return the entries of a data set of facts, or none where no plugin holds it."""
    if dataset not in catalogue.ids("datasets"):
        return []
    return list(catalogue.get("datasets", dataset)())


def absent(catalogue: Catalogue, what: str, id: str) -> UnknownNameError | None:
    """Return the error about a service, technique or system that is known but not there, else None."""
    try:
        if what == "service":
            return _service(id)
        if what == "technique":
            return _technique(catalogue, id)
        if what == "backbone" and id == DEFAULT_BACKBONE:
            return _not_installed(f"backbone {id!r}", DEFAULT_BACKBONE_IN)
    except PcsError:
        # the facts only improve a message that is being written already: without them it is shorter
        return None
    return None


def _not_installed(what: str, distribution: str) -> NotInstalledError:
    # a local path: a name not owned on the public index must not be installed from it
    text = f"belongs to {distribution} (pip install ./plugins/{distribution})"
    return NotInstalledError(f"{what} is not installed: it {text}", distribution)


def _service(id: str) -> UnknownNameError | None:
    distribution = services().get(id)
    return _not_installed(repr(id), distribution) if distribution else None


def _technique(catalogue: Catalogue, id: str) -> UnknownNameError | None:
    if codes := catalogue.implementations().get(id):
        written = " or ".join(repr(code) for code in codes)
        return UnknownNameError(
            f"{id!r} is the catalogue's word for a technique: a recipe names it {written}"
        )
    # a technique's id begins with the name of its distribution: "tokens.rare" is of pcs-tokens
    distribution = "pcs-" + id.partition(".")[0].replace("_", "-")
    known = {getattr(entry, "distribution", "") for entry in facts(catalogue, KNOWN_TECHNIQUES)}
    installed = {plugin.distribution for plugin in catalogue.plugins()}
    if "." in id and distribution in known - installed:
        return _not_installed(f"technique {id!r}", distribution)
    return None
