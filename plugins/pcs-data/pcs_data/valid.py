"""Where a picture that was set on a plain ground is a reference, and the ground around it is none.

A technique that pads pictures marks what is picture as a region of the example, ``"mask.valid.<its name>"``,
and answers `mask` with :func:`loss_where_valid`: so that no system learns to draw it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pcs_core.data import LOSS, Masks, valid_cells

if TYPE_CHECKING:
    from pcs_core.data import MaskQuery


def loss_where_valid(query: MaskQuery, region: str) -> Masks | None:
    """Return the mask "loss" [b 1 h w] of a batch: v / mean(v) per row, v 1 in the valid cells and else 0.

    The reconstruction loss is a mean over elements, so that it becomes the error summed over the valid cells,
    divided by their number, as in Custom Diffusion's code. Rows without ``region`` count in full.
    """
    if query.moment != "batch" or query.step is None:
        return None
    covered = query.step.batch.regions.get(region)  # type: ignore[union-attr]
    if covered is None or not bool((covered > 0).any()):
        return None
    valid = valid_cells(covered)
    mean = valid.mean(dim=(1, 2, 3), keepdim=True)
    return Masks({LOSS: torch.where(mean > 0, valid / mean.clamp_min(1e-12), 1.0)})
