"""Options of ``pcs fit`` that are settings of the recipe under another name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pcs_core.errors import InputError

if TYPE_CHECKING:
    from pcs_core.data import Recipe

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
