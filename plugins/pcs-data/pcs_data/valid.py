"""Where a picture that was set on a plain ground is a reference, and the ground around it is none.

A technique that pads pictures marks what is picture as a region of the example, ``"mask.valid.<its name>"``,
and answers `mask` with :func:`loss_where_valid`: so that no system learns to draw it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from pcs_core.data import LOSS, Masks

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import MaskQuery

VALID = "mask.valid."
"""What the names of such regions begin with. Each technique has one of its own: masks of one name multiply."""


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


def valid_cells(covered: Tensor) -> Tensor:
    """Return 1 for the cells [b 1 h w] that show the picture alone, 0 for others, of the share that it covers.

    Covered whole, and beside no cell that shows nothing of it: what an encoder says there depends on
    the ground. A picture too small for such cells has its share of each cell.
    """
    seen = (covered > 0).to(covered)
    # the least of a cell and its neighbours; beyond the edge of the canvas there is no ground
    around = -F.max_pool2d(-seen, kernel_size=3, stride=1, padding=1)
    inside = (covered > 1 - 1e-6).to(covered) * around
    some = inside.amax(dim=(1, 2, 3), keepdim=True) > 0
    return torch.where(some, inside, covered)
