"""A place in the network where an edit may act."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Site:
    """A place in the network.

    ``name`` is the module path, ``part`` denoiser, text or vae, ``kind`` self, cross, joint,
    temporal (attention), linear, conv, norm, resnet, embedding, block (layers), or a place in the
    residual stream (:data:`pcs_core.edits.block.PLACES`); ``scale`` is the
    downsampling of the grid there against the latents (1, 2, 4 ...); ``width`` the query or output
    width, ``context`` the width of keys' input, ``heads`` the number of heads.

    ``role`` says what it is for in any family: "attention.cross" is an attention site,
    "attention.cross.k" its layer that makes the keys ("q", "k", "v", "out"; of the text's side of a joint
    site "text_q" ...), "ff.in" and "ff.out" the layers of a feed-forward network; those over time begin with
    "temporal."; "" has no role. ``block`` is where it stands: "down.1", "mid", "up.0", "block.3".

    A place in the residual stream has further ``stream``, the form of what flows there ("tokens"
    [b n c], "grid" [b c h w], "time" [b*n t c]), and ``layer``, the path of the module it stands at. The
    stream is that module's input where the kind begins with "before"; else its output, or with ``entry``
    the sum of its output and of the input of the module ``entry``. ``item`` says which one it is where the
    module gives several.
    """

    name: str
    part: str
    kind: str
    scale: int = 1
    width: int = 0
    context: int = 0
    heads: int = 1
    shape: tuple[int, ...] = ()
    role: str = ""
    block: str = ""
    stream: str = ""
    layer: str = ""
    entry: str = ""
    item: int = 0

    def __str__(self) -> str:
        return f"{self.part}:{self.name}"
