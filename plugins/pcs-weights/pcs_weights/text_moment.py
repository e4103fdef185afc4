"""The second moment of the text features of captions, whose inverse says how alike two words are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.backbone import Attachment, tokenise
from pcs_core.data import Fusion

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Run


def inverse_moment(
    run: Run, templates: Sequence[str], nouns: Sequence[str], ridge: float
) -> Tensor:
    """Return C^-1 [d d], C = mean of x x^T over the words x of every template with every noun.

    ``ridge`` is added to C's diagonal, relative to its mean.
    """
    rows = torch.cat(encode(run, [t.format(n) for t in templates for n in nouns])).double()
    moment = rows.T @ rows / len(rows)
    eye = torch.eye(len(moment), dtype=moment.dtype)
    return torch.linalg.inv(moment + ridge * moment.diagonal().mean() * eye).float()


@torch.no_grad()
def encode(run: Run, captions: Sequence[str]) -> list[Tensor]:
    """Return what the base's text encoder makes of the words [n d] of each caption."""
    backbone: Any = run.backbone  # type: ignore[attr-defined]
    prompts = tokenise(captions, backbone.tokenizer)
    with Attachment(backbone, Fusion()) as net:
        text = net.encode_text(prompts).text.float().cpu()
    ends = [row.tolist().index(backbone.tokenizer.end, 1) for row in prompts.ids]
    return [words[1:end] for words, end in zip(text, ends, strict=True)]
