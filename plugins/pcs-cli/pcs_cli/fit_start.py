"""``pcs fit --from``: the artifact that a fit goes on with, and what it says in place of the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pcs_core.errors import InputError

if TYPE_CHECKING:
    from pcs_core.data import Personalization, Recipe

BACKBONE = "mini"
"""The image generator of a fit that neither the command nor an artifact names."""


@dataclass(frozen=True, slots=True)
class FitStart:
    """What a fit is of: a system or the recipe of ``artifact``, the folders, the backbone to open."""

    source: str | Recipe
    folders: tuple[Path, ...]
    backbone: str
    artifact: Personalization | None = None

    def words_of(self, folder: Path | None) -> tuple[str | None, str | None]:
        """Return noun and token of the artifact's only concept, for a folder that says none, or no folder."""
        from pcs_folders.concepts import FILE

        concepts = () if self.artifact is None else self.artifact.concepts
        if len(concepts) != 1 or (folder and (folder / FILE).exists()):
            return None, None
        return concepts[0].noun, concepts[0].token


def fit_start(words: Sequence[str], begun: Path | None, backbone: str | None) -> FitStart:
    """Return what ``SYSTEM FOLDER...`` means, where with ``--from`` the system may be left out.

    Raises
    ------
    InputError
        No system, or another than the artifact's.
    ArtifactError
        ``begun`` is no artifact, or damaged.
    """
    if begun is None:
        if not words:
            raise InputError("give a SYSTEM (see pcs systems), or --from an artifact to go on with")
        folders = tuple(map(Path, words[1:]))
        return FitStart(words[0], folders, backbone or BACKBONE)
    from pcs_cli.opening import open_artifact
    from pcs_engine.known_backbones import location_of

    artifact = open_artifact(begun)
    system, folders = apart(words)
    if system is not None and (id := recipe_id(system)) != artifact.recipe.id:
        raise InputError(
            f"--from {begun} is a fit of {artifact.recipe.id!r}, not of {id!r}: leave out SYSTEM, or --from"
        )
    return FitStart(artifact.recipe, folders, backbone or location_of(artifact.backbone), artifact)


def apart(words: Sequence[str]) -> tuple[str | None, tuple[Path, ...]]:
    """Return the system that ``words`` begin with, if they do, and the folders."""
    from pcs_core.catalogue import catalogue

    first = bool(words) and (words[0].endswith(".toml") or words[0] in catalogue().recipe_files())
    return (words[0] if first else None), tuple(map(Path, words[1:] if first else words))


def recipe_id(system: str) -> str:
    """Return the id of a system, or of the recipe in a file."""
    from pcs_core.assembly import load_recipe

    return load_recipe(system).id if system.endswith(".toml") else system


def start_line(artifact: Personalization, recipe: Recipe) -> str:
    """Return what a fit that goes on says: from where, and how many steps."""
    from pcs_engine.continuing import steps_behind

    more = sum(p.steps for p in recipe.phases if not p.pretrain) * recipe.cycles
    return (
        f"goes on from the fit of {artifact.subject!r} at {steps_behind(artifact)} steps, {more} more "
        "(its tensors are the start, the optimizer's state is new)"
    )
