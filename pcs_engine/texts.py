"""Text features of a prompt, with a personalization's tokens in force: for closed-form solutions."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch

from pcs_core.arguments import checks_arguments
from pcs_core.backbone import Attachment, suspended, tokenise
from pcs_core.data import TokenEdit
from pcs_engine.restoring import restore

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.backbone import Backbone
    from pcs_core.data import Personalization


@torch.no_grad()
@checks_arguments
def text_features(
    artifact: Personalization | None, backbone: Backbone, prompt: str
) -> tuple[Tensor, list[int], list[int]]:
    """Return the features [1 l d] of ``prompt`` and where its words stand.

    That is [position of the end token], and the positions of the first learned token's span (empty
    without one).
    """
    with ExitStack() as stack:
        stack.enter_context(suspended(backbone))
        _, fusion = restore(artifact, backbone, 0)
        net = stack.enter_context(Attachment(backbone, fusion))
        tokens = tokenise(
            [prompt], backbone.tokenizer, words=fusion.words, tokens=fusion.of(TokenEdit)
        )
        subject = torch.zeros(1, dtype=torch.long, device=backbone.device)
        text = net.encode_text(tokens, subject).text
    ids = tokens.ids[0].tolist()
    end = ids.index(backbone.tokenizer.end, 1)
    span = tokens.spans["0"][0].tolist() if fusion.of(TokenEdit) else []
    return text, [end], [p for p in span if p >= 0]
