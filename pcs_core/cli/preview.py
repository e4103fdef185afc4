"""The picture that lies in an artifact, so that a folder shows what it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pcs_core.backbone import Backbone
    from pcs_core.data import Personalization

NAME = "preview.png"


def default_prompt(person: Personalization) -> str:
    """Return the plainest prompt that names all concepts; without any, of a dog."""
    return "a photo of " + (" and ".join(c.token for c in person.concepts) or "a dog")


def draw_preview(person: Personalization, backbone: Backbone) -> dict[str, bytes]:
    """Return ``{"preview.png": ...}``: one picture (of a clip its frames), with the recipe's own settings."""
    from pcs_core.engine import sample
    from pcs_core.storage.pictures import frame_sheet, png_bytes

    picture = sample(person, backbone, default_prompt(person), count=1, seed=person.seed)
    return {NAME: png_bytes(frame_sheet(picture[0]) if picture.dim() == 5 else picture[0])}
