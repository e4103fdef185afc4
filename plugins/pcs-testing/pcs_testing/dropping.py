"""How often rows of a pre-training lose a condition, measured by drawing many."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch

from pcs_core.engine.pretrain import drop_rows, drop_subjects


def dropped_shares(dropout: Mapping[str, float], rows: int = 8192) -> dict[str, float]:
    """Return the shares of ``rows`` that lose "text", "streams" or "both", and of "subjects" left plain.

    ``dropout`` is a fusion's. A share's standard error is at most ``0.5 / sqrt(rows)``.
    """
    rng = torch.Generator().manual_seed(0)
    text, streams = drop_rows(dropout, rows, rng)
    record: Any = SimpleNamespace(phrases=("one",))
    plain = drop_subjects(dropout, [record] * rows, rng)
    shares = {
        "text": text & ~streams,
        "streams": streams & ~text,
        "both": text & streams,
        "subjects": plain,
    }
    return {name: float(found.float().mean()) for name, found in shares.items()}
