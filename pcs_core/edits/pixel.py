"""Edits of pixels, before the autoencoder and behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pcs_core.edits.edit import Edit

if TYPE_CHECKING:
    from torch import Tensor


class PixelEdit(Edit):
    """A change of pixels [b 3 h w] in [0, 1] before encoding or after decoding."""

    STAGES = ("input", "decoded")
    LISTED = 40

    def changes_latents(self) -> bool:
        """Return whether it stands before the encoder."""
        return self.stage() == "input"

    def input(self, images: Tensor, index: Tensor) -> Tensor:
        """Return the images the VAE encodes; ``index`` [b] the reference each one is, or -1.

        A fit encodes them in every step then, inside autograd.
        """
        return images

    def decoded(self, images: Tensor) -> Tensor:
        """Return the images the user gets."""
        return images
