"""The last blocks of an image encoder, which train (FastComposer, ``--image_encoder_trainable_layers``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F

from pcs_core.data import StreamEdit

if TYPE_CHECKING:
    from torch import Tensor, nn


class TrainedTail(StreamEdit):
    """What an encoder's last blocks make of what they read of each reference, as one vector a concept.

    ``tail`` maps states [n t w] to vectors [n d]. A reference of zeros is none, and its vector is zero.
    """

    def __init__(self, key: str, tail: nn.Module, normalise: bool) -> None:
        super().__init__(f"{key}.trained", (f"{key}.states",))
        self.tail, self.normalise = tail, normalise

    def stream(self, *features: Tensor) -> Tensor:
        """Return the mean vector [b slots d] over references of states [b slots r t w]."""
        (states,) = features
        there = (states.abs().amax((-1, -2)) > 0).to(states)
        encoded = self.tail(states.flatten(0, 2)).unflatten(0, states.shape[:3])
        if self.normalise:
            encoded = F.normalize(encoded, dim=-1)
        count = there.sum(2, keepdim=True).clamp_min(1)
        return (encoded * there.unsqueeze(-1)).sum(2) / count
