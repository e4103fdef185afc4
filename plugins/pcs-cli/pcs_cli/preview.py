"""The picture that lies in an artifact, so that a folder shows what it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pcs_cli.output import notice
from pcs_core.errors import PcsError

if TYPE_CHECKING:
    from pcs_core.backbone import Backbone
    from pcs_core.data import Personalization

NAME = "preview.png"


def default_prompt(artifact: Personalization) -> str:
    """Return the plainest prompt that names all concepts; without any, of a dog."""
    return "a photo of " + (" and ".join(c.token for c in artifact.concepts) or "a dog")


def draw_preview(
    artifact: Personalization,
    backbone: Backbone,
    prompt: str | None = None,
    negative: str | None = None,
) -> dict[str, bytes]:
    """Return ``{"preview.png": ...}``: one picture (of a clip its frames), with the recipe's own settings.

    Without a ``prompt`` the plainest.

    Empty, with a word on stderr, where it cannot be drawn (a control branch without key points, too little
    memory, Ctrl-C): what was fitted must not be lost for a picture, whatever its fault.
    """
    from pcs_engine import sample
    from pcs_folders.pictures import frame_sheet, png_bytes

    try:
        text = default_prompt(artifact) if prompt is None else prompt
        picture = sample(artifact, backbone, text, count=1, seed=artifact.seed, negative=negative)
        return {NAME: png_bytes(frame_sheet(picture[0]) if picture.dim() == 5 else picture[0])}
    except PcsError as refused:
        reason = str(refused)
    except KeyboardInterrupt:
        reason = "interrupted"
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    notice(f"no {NAME} ({reason}); what was made is kept")
    return {}
