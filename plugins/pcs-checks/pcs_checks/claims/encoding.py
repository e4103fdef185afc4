"""Claims about what the text encoder says, as the denoiser reads it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from pcs_checks.observe import NOUN, PROMPT, TOKEN
from pcs_core.backbone import Attachment, tokenise
from pcs_core.data import Fusion
from pcs_core.data.check import CheckRow
from pcs_testing import conditioning

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_checks.observe import Observation


def ends_in(
    seen: Observation, *, use: str, rows: int, scale: float, start: str
) -> Iterator[CheckRow]:
    """A prompt's encoding ends in ``rows`` learned rows times ``scale``, which began at those of ``start``.

    All rows in front of them are what the untuned encoder says of the prompt, bit for bit.
    """
    learned = [t for n, t in seen.artifact.tensors.items() if n.startswith(f"{use}/")]
    width = plain(seen, PROMPT.replace(TOKEN, NOUN)).shape[-1]
    wrong = sum(tuple(t.shape) != (rows, width) for t in learned)
    yield CheckRow.compare("learned tensors", len(learned), "==", 1)
    yield CheckRow.compare(f"tensors that are not {rows} rows of the text's width", wrong, "==", 0)
    if wrong or not learned:
        return
    read = conditioning(seen.artifact, seen.backbone, PROMPT).text[0]
    base = plain(seen, PROMPT.replace(TOKEN, NOUN))
    before = float((read[:-rows] - base[:-rows]).abs().max())
    yield CheckRow.compare("largest change of a row in front of them", before, "==", 0.0)
    behind = float((read[-rows:] - scale * learned[0].to(read)).abs().max())
    yield CheckRow.compare(
        f"largest difference of the last from {scale} of them", behind, "<=", 1e-6
    )
    first = next(iter(seen.notes.starts.values()), {})
    unknown = torch.full((rows, width), torch.nan)
    began = next((t for n, t in first.items() if n.endswith("/rows")), unknown)
    away = plain(seen, start.replace("{noun}", NOUN))[-rows:] - began.reshape(-1, width)
    yield CheckRow.compare("largest difference of their start", float(away.abs().max()), "<=", 1e-6)


@torch.no_grad()
def plain(seen: Observation, text: str) -> Tensor:
    """Return what the untuned encoder says of ``text`` [l d]."""
    backbone = seen.backbone
    with Attachment(backbone, Fusion()) as net:
        return net.encode_text(tokenise([text], backbone.tokenizer)).text[0]
