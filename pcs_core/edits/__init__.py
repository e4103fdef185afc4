"""The kinds of edits, a file each: what it does, how it is bound, what it claims.

A new kind is one more file here, and its line below.
"""

from __future__ import annotations

from pcs_core.edits.attention import AttentionChain, AttnEdit, AttnState
from pcs_core.edits.block import PLACES, BlockEdit
from pcs_core.edits.branch import BranchEdit
from pcs_core.edits.edit import Edit
from pcs_core.edits.head import HeadEdit
from pcs_core.edits.inject import InjectEdit
from pcs_core.edits.layer import LayerEdit
from pcs_core.edits.pixel import PixelEdit
from pcs_core.edits.replace import ReplaceEdit
from pcs_core.edits.sequence import SequenceEdit
from pcs_core.edits.site import Site
from pcs_core.edits.stacked import batched_linear, gather
from pcs_core.edits.stream import StreamEdit
from pcs_core.edits.token import TokenEdit, place_rows
from pcs_core.edits.weight import WeightEdit

__all__ = [
    "PLACES",
    "AttentionChain",
    "AttnEdit",
    "AttnState",
    "BlockEdit",
    "BranchEdit",
    "Edit",
    "HeadEdit",
    "InjectEdit",
    "LayerEdit",
    "PixelEdit",
    "ReplaceEdit",
    "SequenceEdit",
    "Site",
    "StreamEdit",
    "TokenEdit",
    "WeightEdit",
    "batched_linear",
    "gather",
    "place_rows",
]
