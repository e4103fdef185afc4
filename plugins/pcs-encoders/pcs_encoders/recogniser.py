"""A face recogniser of the user's own: an ONNX file in ArcFace's layout (arXiv:1801.07698)."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from pcs_core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

VARIABLE = "PCS_FACE_ID"
HOW = (
    f"set {VARIABLE} to an ONNX file of a face recogniser (pictures [n 3 112 112] in, vectors [n d] out), as "
    "glintr100.onnx of insightface's antelopev2, which InstantID was trained with and whose licence allows "
    "research that is not commercial"
)
EARLY = 8
"""Nodes at a graph's beginning among which its own normalisation of pixels would be."""


class FaceRecogniser:
    """Vectors [n d] of faces [n 3 h w] in [0, 1], not scaled to unit length. Runs on the CPU.

    ``raw``: the graph normalises pixels itself and reads 0 to 255; others read (pixel - 127.5) / 127.5,
    channels in the order red, green, blue, as insightface feeds either kind.
    """

    def __init__(self, session: Any, raw: bool) -> None:
        self.session, self.raw = session, raw
        (given,) = session.get_inputs()
        self.name, shape = given.name, given.shape
        self.rows = shape[0] if isinstance(shape[0], int) else 0
        self.size = int(shape[2]) if isinstance(shape[2], int) else 112

    @torch.no_grad()
    def pooled(self, images: Tensor) -> Tensor:
        """Return a vector for each picture; one of another size is scaled linearly."""
        size = (self.size, self.size)
        if tuple(images.shape[-2:]) != size:
            images = F.interpolate(images, size, mode="bilinear", antialias=True)
        pixels = images.detach().cpu().float() * 255
        if not self.raw:
            pixels = (pixels - 127.5) / 127.5
        count = self.rows or len(pixels)
        blank = pixels.new_zeros(
            -len(pixels) % count, *pixels.shape[1:]
        )  # of a fixed number of rows
        parts = torch.cat([pixels, blank]).split(count)
        vectors = [self.session.run(None, {self.name: part.numpy()})[0] for part in parts]
        return torch.cat([torch.from_numpy(part) for part in vectors])[: len(pixels)].float()


def open_recogniser(file: str | Path) -> FaceRecogniser:
    """Open an ONNX file as a recogniser.

    Raises
    ------
    InputError
        It is not there, is no ONNX file, or has not the layout; or ONNX Runtime is not installed.
    """
    path = Path(file)
    if not path.is_file():
        raise InputError(f"feature model 'face.id': there is no file {path}: {HOW}")
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise InputError(
            "feature model 'face.id' needs onnx and onnxruntime: pip install 'pcs-encoders[face]'"
        ) from error
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # either library raises kinds of its own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"feature model 'face.id': {path} cannot be opened ({reason}): {HOW}"
        ) from error
    shapes = [given.shape for given in session.get_inputs()]
    answers = [answer.shape for answer in session.get_outputs()]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][1] != 3 or len(answers[0]) != 2:
        raise InputError(
            f"feature model 'face.id': {path} reads {shapes} and gives {answers}, no recogniser's layout: {HOW}"
        )
    early = {node.op_type for node in graph.node[:EARLY]}
    return FaceRecogniser(session, raw={"Sub", "Mul"} <= early)


@cache
def face_id() -> FaceRecogniser:
    """Open the recogniser that the environment names.

    Raises
    ------
    InputError
        None is named, or it cannot be opened.
    """
    named = os.environ.get(VARIABLE, "")
    if not named:
        raise InputError(f"feature model 'face.id': none is shipped: {HOW}")
    return open_recogniser(named)
