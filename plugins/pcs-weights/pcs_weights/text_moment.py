"""The second moment of the text features of captions, whose inverse says how alike two words are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.backbone import Attachment, tokenise
from pcs_core.data import Fusion
from pcs_core.errors import CapabilityError

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Run

LEAST = 1e-12
"""Smallest eigenvalue that counts, relative to the largest, in fp64."""

FREE = 2
"""Dimensions that no text may have: without learned factors a last normalisation keeps each sum at 0."""


def inverse_moment(run: Run, captions: Sequence[str], ridge: float) -> Tensor:
    """Return C^-1 [d d] in fp64, C = mean of x x^T over what the text encoder says at every position.

    ``ridge`` is added to C's diagonal, relative to its mean.

    Raises
    ------
    CapabilityError
        The captions say fewer different things than the encoder has numbers, so that C has no inverse.
    """
    moment, count = torch.zeros(()), 0
    for windows, _, _ in _encoded(run, captions):
        rows = windows.double().flatten(0, 1)
        moment, count = moment + rows.T @ rows, count + len(rows)
    moment = moment / count
    eye = torch.eye(len(moment), dtype=moment.dtype)
    moment = moment + ridge * moment.diagonal().mean() * eye
    values = torch.linalg.eigvalsh(moment)
    rank = int((values > LEAST * values[-1]).sum())
    if rank < len(moment) - FREE:
        raise CapabilityError(
            f"the statistics of {len(captions)} captions have rank {rank} of {len(moment)}: raise the number "
            "of captions (weights.key_locked.captions)"
        )
    inverse: Tensor = torch.linalg.pinv(moment, hermitian=True, rtol=LEAST)
    return inverse


def encode(run: Run, captions: Sequence[str]) -> list[Tensor]:
    """Return what the base's text encoder makes of the words [n d] of each caption."""
    words: list[list[Tensor]] = [[] for _ in captions]
    for windows, ends, owners in _encoded(run, captions):
        for window, end, owner in zip(windows, ends, owners, strict=True):
            words[owner].append(window[1:end].cpu())
    return [torch.cat(parts) for parts in words]


@torch.no_grad()
def _encoded(run: Run, captions: Sequence[str]) -> Iterator[tuple[Tensor, list[int], list[int]]]:
    """Yield the encoder's output by windows [n l d], where each ends, and whose it is; 64 captions at a time.

    Empty windows, which stand behind a caption when another is longer, are left out.
    """
    backbone: Any = run.backbone  # type: ignore[attr-defined]
    with Attachment(backbone, Fusion()) as net:
        for start in range(0, len(captions), 64):
            prompts = tokenise(captions[start : start + 64], backbone.tokenizer)
            text, k = net.encode_text(prompts).text.float(), prompts.windows
            ids = prompts.ids.reshape(len(prompts.ids) * k, -1)
            ends = [row.tolist().index(backbone.tokenizer.end, 1) for row in ids]
            filled = [i for i, end in enumerate(ends) if end > 1 or i % k == 0]
            yield (
                text.reshape(len(ids), -1, text.shape[-1])[filled],
                [ends[i] for i in filled],
                [start + i // k for i in filled],
            )
