"""A small decoder in place of the autoencoder's (TAESD, github.com/madebyollin/taesd; no paper)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pcs_core import Technique, hookimpl
from pcs_core.data import Fusion

if TYPE_CHECKING:
    from pcs_core.data import Run


class LightDecoder(Technique):
    """Turn the last latents into pictures with a decoder of the TAESD class. The denoiser is untouched.

    Saves 90 % and more of the decoding, and costs fine detail.
    """

    id = "acceleration.light_decoder"
    neutral = {"on": False}

    location: str = ""
    """Folder or hub id of the decoder; empty: the one that the backbone comes with."""
    on: bool = True
    """Whether it decodes."""

    @hookimpl
    def fuse(self, run: Run) -> Fusion | None:
        """Give the decoder, where it fits the backbone."""
        return Fusion(decoder=run.light_decoder(self.location)) if self.on else None
