"""A word that a small network computes from noise level and layer (NeTI, arXiv:2305.15391, section 4).

The network also says a second vector, the bypass, that joins the word's encoding for values only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from pcs_core import Technique, hookimpl
from pcs_core.data import AttnEdit, AttnState, Features, Fusion, TokenEdit
from pcs_core.errors import CapabilityError
from pcs_tokens.mapper_network import Mapper
from pcs_tokens.templates import TEMPLATES

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Conditioning, Run, Site, Subject


class MappedRows(TokenEdit):
    """The word [b, layers, 1, d] of each row's noise level, scaled to ``norm`` [S] where given."""

    timed = True
    norm: Tensor | None

    def __init__(
        self,
        mapper: Mapper,
        numbers: Sequence[int],
        norm: Tensor | None,
        tokens: list[str],
        nouns: list[str],
    ) -> None:
        super().__init__(tokens, count=1, hosts=nouns, stacked=True)
        self.mapper, self.numbers = mapper, tuple(numbers)
        self.width = int(mapper.head.bias.shape[1])
        # of the base's table: nothing an artifact needs to hold
        self.register_buffer("norm", norm, persistent=False)

    def layer(self, time: Tensor | None, layers: int, subject: Tensor | None = None) -> Tensor:
        """Return the words; without a noise level, those of the middle one."""
        device = self.mapper.frequencies.device
        if time is None:
            time = torch.full((1 if subject is None else len(subject),), 0.5, device=device)
        if subject is None:
            subject = torch.zeros(len(time), dtype=torch.long, device=device)
        said, _ = self.mapper(time, torch.tensor(self.numbers[:layers], device=device), subject)
        if self.norm is not None:
            said = F.normalize(said, dim=-1) * self.norm[subject][:, None, None]
        return said[:, :, None]


class ValueBypass(AttnEdit):
    """v + W_v (alpha |e| u) where the word stands: e its encoding, u the mapper's second vector."""

    def __init__(
        self, site: Site, number: int, slot: int, mapper: Mapper, weight: Tensor, alpha: float
    ) -> None:
        super().__init__(site)
        self.number, self.slot, self.alpha = number, slot, alpha
        self.borrowed = (mapper, weight)  # a tuple: the token edit owns and stores the mapper

    def qkv(self, state: AttnState, cond: Conditioning) -> AttnState:
        """Change the values at the concept's span; the keys never see it."""
        span = cond.spans.get(f"concept.{self.slot}")
        if span is None or cond.time is None or cond.subject is None:
            return state
        mapper, weight = self.borrowed
        layer = torch.tensor([self.number], device=span.device)
        _, bypass = mapper(cond.time, layer, cond.subject)
        unit = F.normalize(bypass, dim=-1) @ weight.detach().float().T  # [b 1 width]
        there = F.one_hot(span.clamp_min(0), state.context.shape[1]) * (span >= 0)[..., None]
        size = self.alpha * state.context.float().norm(dim=-1) * there.amax(1)
        state.v = state.v + (size[..., None] * unit).to(state.v.dtype)
        return state


class MappedToken(Technique):
    """Replace the placeholder by a word computed from noise level and cross-attention layer."""

    id = "tokens.mapper"
    reads = ("place:concept.*",)
    catalogue = ("mapper-token", "layerwise-token", "timestep-token", "embedding-constraint")
    later = ("layers",)

    frequencies: Annotated[int, Field(ge=1, le=65536)] = 1024
    """Random Fourier frequencies, each giving a sine and a cosine."""
    sigma_time: Annotated[float, Field(gt=0.0)] = 0.03
    """Spread of the frequencies over the noise level, in units of 1/1000 of its range."""
    sigma_layer: Annotated[float, Field(gt=0.0)] = 2.0
    """Spread of the frequencies over the number of the layer."""
    layers: Literal["listed", "forward"] = "listed"
    """How cross-attention layers are numbered: as the network lists them, the middle block last (what
    artifacts without this setting mean), or in the order of a forward pass, the middle between the down and the
    up blocks: the authors' numbers (`constants.py`: the middle is 6 of 0 to 15)."""
    anchors: Annotated[int, Field(ge=1, le=1000)] = 10
    """Noise levels whose encodings, with every layer, the first projection starts from: 0, 100, ..., 900 of
    1000 for ten."""
    hidden: Annotated[int, Field(ge=1, le=8192)] = 128
    """Hidden units."""
    nested_dropout: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    """Probability that a fit drops all hidden units behind a random one."""
    rescale: bool = True
    """Whether the word gets the norm of the noun's embedding."""
    bypass: Annotated[float, Field(ge=0.0, le=10.0)] = 0.2
    """Size of the bypass relative to the word's encoding; 0: there is none."""
    templates: tuple[str, ...] = TEMPLATES
    """Captions of references that have none; ``{token}`` stands for the subject."""

    def implements(self) -> tuple[str, ...]:
        """Return what the settings make of it: the word keeps to a norm under ``rescale`` alone."""
        words = self.catalogue
        return words if self.rescale else tuple(w for w in words if w != "embedding-constraint")

    @hookimpl
    def extract(self, run: Run, subject: Subject, moment: str) -> Features | None:
        """Give the references neutral captions."""
        return Features(captions=self.templates) if moment == "start" else None

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion | None:
        """Make one mapper per concept slot; let the bypass read it at every cross-attention site."""
        sites = run.sites("cross")
        if not sites:
            raise CapabilityError(f"{self.id}: the denoiser has no cross-attention site")
        numbers = self._numbers(sites)
        tokens, edits = [], []
        for slot in range(max(len(c) for c in features.concepts)):
            concepts = [c[min(slot, len(c) - 1)] for c in features.concepts]
            rngs = [run.init_rng(s, f"{self.id}/{c.name}") for s, c in enumerate(concepts)]
            means = torch.stack([run.embed_words(c.noun).mean(0).cpu() for c in concepts])
            mapper = Mapper(
                rngs,
                layers=len(sites),
                width=means.shape[1],
                bypass=sites[0].context if self.bypass else 0,
                frequencies=self.frequencies,
                sigmas=(self.sigma_time, self.sigma_layer),
                anchors=self.anchors,
                hidden=self.hidden,
                dropout=self.nested_dropout,
            )
            norm = means.norm(dim=1) if self.rescale else None
            names = [c.token for c in concepts], [c.noun for c in concepts]
            tokens.append(MappedRows(mapper, numbers, norm, *names))
            edits += self._bypasses(run, sites, slot, mapper)
        return Fusion(edits=(*tokens, *edits))

    def _bypasses(
        self, run: Run, sites: Sequence[Site], slot: int, mapper: Mapper
    ) -> list[ValueBypass]:
        if self.bypass == 0.0:
            return []
        weights = run.parameters("denoiser", "*.to_v.weight")
        return [
            ValueBypass(site, n, slot, mapper, weights[f"{site.name}.to_v.weight"], self.bypass)
            for n, site in zip(self._numbers(sites), sites, strict=True)
        ]

    def _numbers(self, sites: Sequence[Site]) -> list[int]:
        """Return the number of each site, as the mapper is told it."""
        if self.layers == "listed":
            return list(range(len(sites)))
        return forward_numbers(sites)


def forward_numbers(sites: Sequence[Site]) -> list[int]:
    """Return the place of each site in a forward pass: down blocks, the middle, up blocks.

    Blocks of another name come last. Sites of one block keep their order.
    """
    ranks = {"down": 0, "mid": 1, "up": 2}
    order = sorted(
        range(len(sites)), key=lambda i: ranks.get(sites[i].block.partition(".")[0], len(ranks))
    )
    numbers = [0] * len(sites)
    for number, place in enumerate(order):
        numbers[place] = number
    return numbers
