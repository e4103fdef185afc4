"""The picture that lies in an artifact, so that a folder shows what it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pcs_core.backbone import Backbone
    from pcs_core.data import Personalization, Recipe

NAME = "preview.png"


def default_prompt(person: Personalization) -> str:
    """Return the plainest prompt that names all concepts, as the recipe's captions name them."""
    nouned = names_noun(person.recipe)
    named = [f"{c.token} {c.noun}" if nouned else c.token for c in person.concepts]
    return "a photo of " + " and ".join(named)


def names_noun(recipe: Recipe) -> bool:
    """Return whether the recipe was fitted with captions that name the noun after the token."""
    return any(use.technique.settings().get("with_noun") is True for use in recipe.uses)


def draw_preview(person: Personalization, backbone: Backbone) -> dict[str, bytes]:
    """Return ``{"preview.png": ...}``: one picture with the recipe's own sample settings."""
    from pcs_core.engine import sample
    from pcs_core.storage.pictures import png_bytes

    picture = sample(person, backbone, default_prompt(person), count=1, seed=person.seed)
    return {NAME: png_bytes(picture[0])}
