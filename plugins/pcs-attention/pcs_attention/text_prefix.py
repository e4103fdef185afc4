"""Learned keys and values beside those of the text encoder's last layers (CatVersion, arXiv:2311.14631).

What a word says is then a mixture of what it said and of a learned value: "a residual on the attention's
output" (abstract). Read from the authors' `ldm/modules/encoders/modules.py` and the prefix tuning that it uses
(arXiv:2101.00190, without its network: the keys and values are trained as they are).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from pcs_core import Technique, hookimpl
from pcs_core.backbone import gather
from pcs_core.data import AttnEdit, Features, Fusion
from pcs_core.errors import CapabilityError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from pcs_core.data import AttnState, Conditioning, Run, Site


class Prefix(AttnEdit):
    """Keys and values [S n width] that every token of a text reads, besides those that it read."""

    def __init__(self, site: Site, keys: Tensor, values: Tensor, shift: float) -> None:
        super().__init__(site, stacked=True)
        self.keys, self.values = nn.Parameter(keys), nn.Parameter(values)
        self.shift = shift

    def extra(self, state: AttnState, cond: Conditioning) -> AttnState:
        """Put the prefix in front of the keys and values."""
        keys, values = (_rows(p, state, cond) for p in (self.keys, self.values))
        state.k = torch.cat([keys, state.k], dim=1)
        state.v = torch.cat([values, state.v], dim=1)
        bias, n = state.bias, keys.shape[1]
        if bias is None and self.shift:
            bias = state.q.new_zeros(1, 1, 1, state.k.shape[1] - n)
        state.bias = None if bias is None else F.pad(bias, (n, 0), value=self.shift)
        return state


def _rows(stacked: Tensor, state: AttnState, cond: Conditioning) -> Tensor:
    """Return the prefix [b n width] of each row of the state; windows of a text have their subject's index."""
    return gather(stacked, cond.subject).to(state.k).expand(len(state.k), -1, -1)


class TextPrefix(Technique):
    """Learn keys and values that the words of every prompt read in the text encoder's last layers.

    No word is added: a prompt names the subject by its class noun. Prompts without it read the prefix, too.
    """

    id = "attention.text_prefix"
    rowwise = True
    catalogue = ("text-feature-embedding",)
    neutral = {"length": 0}
    starts_away = "keys and values start as noise, and every token reads them"

    length: Annotated[int, Field(ge=0, le=64)] = 1
    """Keys and values in front of the others; 0: none."""
    layers: Annotated[int, Field(ge=1)] = 3
    """How many of the last layers of each text encoder have them, of those whose output is read."""
    std: Annotated[float, Field(ge=0.0, le=10.0)] = 1.0
    """Standard deviation of the Gaussian that each element starts from."""
    shift: Annotated[float, Field(ge=-10.0, le=10.0)] = 0.0
    """What is added to the logit of each key of the prefix. The authors' code adds 1: its mask for the prefix
    holds ones, and is added."""

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion | None:
        """Make a prefix for each of the layers."""
        if not self.length:
            return None
        sites = last_layers(run.sites("self", part="text"), self.layers)
        if not sites:
            raise CapabilityError(f"{self.id}: attention of the text encoder cannot be edited here")
        edits = []
        for site in sites:
            start = {}
            for part in ("keys", "values"):
                rngs = (
                    run.init_rng(s, f"{self.id}/{site.name}/{part}")
                    for s in range(features.subjects)
                )
                drawn = [torch.randn(self.length, site.width, generator=r) for r in rngs]
                start[part] = self.std * torch.stack(drawn)
            edits.append(Prefix(site, **start, shift=self.shift))
        return Fusion(edits=tuple(edits))


def last_layers(sites: Sequence[Site], count: int) -> list[Site]:
    """Return the last ``count`` sites of each encoder: where the number of its block falls, another begins."""
    encoders: list[list[Site]] = []
    for site in sites:
        number = _number(site)
        if not encoders or number <= _number(encoders[-1][-1]):
            encoders.append([])
        encoders[-1].append(site)
    return [site for encoder in encoders for site in encoder[-count:]]


def _number(site: Site) -> int:
    return int(site.block.rpartition(".")[2] or 0)
