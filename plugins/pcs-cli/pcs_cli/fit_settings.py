"""Options of ``pcs fit`` that are settings of the recipe under another name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pcs_core.errors import InputError

if TYPE_CHECKING:
    from pcs_core.data import Recipe, Subject

MASKED = "masks.masked_loss"
CLASS_PICTURES = "class_pictures"
"""The setting of techniques that draw pictures of a class: where they lie."""


def class_pictures_settings(recipe: Recipe, folder: Path, subjects: Sequence[Path]) -> list[str]:
    """Return the settings by which the uses that draw class pictures keep them in ``folder``.

    Raises
    ------
    InputError
        No use draws any; ``folder`` cannot be one, or is a subject's.
    """
    names = [use.name for use in recipe.uses if CLASS_PICTURES in use.technique.setting_names()]
    if not names:
        raise InputError(f"{recipe.id!r} draws no class pictures: leave out --class-pictures")
    place = folder.expanduser().resolve()
    if place.exists() and not place.is_dir():
        raise InputError(f"--class-pictures {folder} is a file: give a folder")
    if place in [subject.expanduser().resolve() for subject in subjects]:
        raise InputError(
            f"--class-pictures {folder} is the folder of the subject: give one for pictures of its class"
        )
    return [
        f"{name}.{CLASS_PICTURES}={json.dumps(str(place), ensure_ascii=False)}" for name in names
    ]


def with_masked_loss(recipe: Recipe) -> Recipe:
    """Return ``recipe`` with a last use that counts the error inside the masks, over how much they are.

    Raises
    ------
    InputError
        A use of it does that already.
    RecipeError
        The technique is not installed; says what to install.
    """
    from pcs_core.assembly import recipe_from_document

    for use in recipe.uses:
        words = use.technique.words()
        # what makes pictures of pictures carries masks along, and says where those are valid
        masks = any("mask.concept" in word for word in words.reads)
        if masks and "mask:loss" in words.writes and "role:subject" not in words.reads:
            raise InputError(
                f"{recipe.id!r} counts its error inside masks already, by {use.name!r}: leave out --masked-loss"
            )
    uses = [*recipe.document["use"], {"technique": MASKED, "name": MASKED, "normalise": True}]
    place = f"--masked-loss ({recipe.path or recipe.id})"
    changed = recipe_from_document(
        {**recipe.document, "use": uses}, source=recipe.source, place=place
    )
    return replace(changed, path=recipe.path, check=recipe.check, not_on=recipe.not_on)


def masked_line(subjects: Sequence[Subject]) -> str:
    """Return what a plan says of masks that weigh the error: which pictures have none.

    Raises
    ------
    InputError
        No picture of a subject has one.
    """
    from pcs_core.data.later import entries_of

    bare: list[str] = []
    for subject in subjects:
        masked = [
            any(i < len(row) and entries_of(row)[i] is not None for row in subject.masks.values())
            for i in range(len(subject.images))
        ]
        if not any(masked):
            raise InputError(
                f"--masked-loss: no picture of {subject.name!r} has a mask: lay <stem>.mask.png beside each, "
                "white where the subject is, or leave it out"
            )
        bare += [f"{subject.name}/{subject.files[i]}" for i, has in enumerate(masked) if not has]
    rest = f"; those without a mask count whole: {', '.join(bare)}" if bare else ""
    return f"the error counts inside the masks, divided by how much they cover{rest}"
