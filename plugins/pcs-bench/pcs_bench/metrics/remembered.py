"""What a network said of a picture, kept: references are looked at again with every batch."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor


class Remembered:
    """Calls ``look`` [n 3 h w] -> [n ...] for pictures that it has not seen lately.

    ``most`` rows are kept, by the pictures' bytes.
    """

    def __init__(self, look: Callable[[Tensor], Tensor], most: int = 512) -> None:
        self.look, self.most = look, most
        self.rows: OrderedDict[str, Tensor] = OrderedDict()

    def __call__(self, pictures: Tensor) -> Tensor:
        """Return a row per picture."""
        keys = [_key(picture) for picture in pictures]
        known = {key: self.rows[key] for key in keys if key in self.rows}
        new = [i for i, key in enumerate(keys) if key not in known]
        if new:
            fresh = self.look(pictures[new])
            known |= {keys[i]: row for i, row in zip(new, fresh, strict=True)}
        for key in keys:
            self.rows[key] = known[key]
            self.rows.move_to_end(key)
        while len(self.rows) > self.most:
            self.rows.popitem(last=False)
        return torch.stack([known[key] for key in keys])


def _key(picture: Tensor) -> str:
    content = picture.contiguous().cpu().numpy().tobytes()
    return hashlib.sha256(repr(tuple(picture.shape)).encode() + content).hexdigest()
