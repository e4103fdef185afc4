"""Updates that are added to layers, as other tools store them: cores (Tucker), LoHa, LoKr, full differences.

By the names and shapes of LyCORIS (arXiv:2309.14859): LoHa (FedPara, arXiv:2108.06098), LoKr, LoCon with a core
(Tucker), differences of weights. A strength is the multiplier of the tool that wrote them.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from pcs_core import Technique, hookimpl
from pcs_core.data import Fusion, WeightEdit
from pcs_core.errors import RecipeError
from pcs_weights.imported_deltas import delta_of, shapes_of

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Conditioning, Run, Site

Kind = Literal["lora", "loha", "lokr", "full"]
ZERO = ("up", "hada_w2_a", "lokr_w2", "lokr_w2_b", "diff", "w_norm", "oft_blocks")
"""Tensors that start at zero, so that an update starts as none."""


class Update(WeightEdit):
    """Tensors of one layer's update, with ``scale`` (alpha / rank) and ``strength``."""

    scale: Tensor
    strength: Tensor

    def __init__(self, site: Site, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(site)
        for name, tensor in tensors.items():
            self.register_parameter(name, nn.Parameter(tensor))
        self.register_buffer("scale", torch.tensor(1.0))
        self.register_buffer("strength", torch.tensor(1.0))

    def tensors(self) -> dict[str, Tensor]:
        """Return the update's tensors by name."""
        return dict(self.named_parameters())


class AddedUpdate(Update):
    """y + strength * scale * delta(x) on one linear or convolution layer."""

    def residual(self, x: Tensor, y: Tensor, cond: Conditioning | None) -> Tensor:
        """Return what the update adds, in fp32 whatever the network's dtype."""
        delta = delta_of(self.tensors(), self.site.shape) * (self.scale * self.strength)
        low = x.to(delta.dtype)
        if delta.dim() == 2:
            return F.linear(low, delta).to(y.dtype)
        stride = -(-x.shape[-1] // y.shape[-1])
        return F.conv2d(low, delta, stride=stride, padding=delta.shape[-1] // 2).to(y.dtype)

    def low_rank(self) -> tuple[Tensor, Tensor, float] | None:
        """Return the two factors and their scale, where it is a product of two."""
        tensors = self.tensors()
        if tensors.keys() != {"down", "up"}:
            return None
        scale = float(self.scale * self.strength)
        return tensors["down"].flatten(1), tensors["up"].flatten(1), scale


class AddedBias(WeightEdit):
    """y + strength * b: the difference of a layer's or norm's bias."""

    strength_bias: Tensor

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.bias = nn.Parameter(torch.zeros(site.shape[0]))
        self.register_buffer("strength_bias", torch.tensor(1.0))

    def residual(self, x: Tensor, y: Tensor, cond: Conditioning | None) -> Tensor:
        """Return the difference, at the axis of the layer's channels."""
        channels = (1, -1, *[1] * (y.dim() - 2)) if self.along_second(y) else (-1,)
        return (self.strength_bias * self.bias).view(channels).to(y.dtype).expand_as(y)

    def along_second(self, y: Tensor) -> bool:
        """Return whether the channels of ``y`` are its second axis: of grids, not of tokens."""
        return y.dim() == 4 or (y.shape[-1] != len(self.bias) and y.shape[1] == len(self.bias))


class Imported(Technique):
    """An update of chosen layers in one of the forms that files of other tools hold."""

    id = "weights.imported"
    rowwise = True
    catalogue: ClassVar[tuple[str, ...]] = ("lora", "lokr-loha")
    stacks_subjects = False
    weighs = ("*/strength", "*/strength_bias")

    kind: Kind = "lora"
    """Which form: a product of two factors, LoHa, LoKr, or a full difference."""
    rank: Annotated[int, Field(ge=1)] = 4
    """Rank of the factors."""
    tucker: bool = False
    """Whether a convolution's factors have a core of their own between them."""
    bias: bool = False
    """Whether there is a difference of the bias beside a full one."""
    first: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = (1, 1)
    """Rows and columns of the first factor of "lokr"; they divide the layer's."""
    factored: Literal["", "first", "second", "both"] = ""
    """Which factors of "lokr" are products of rank ``rank`` themselves."""
    sites: str = "attention.*.q|attention.*.k|attention.*.v|attention.*.out"
    """Globs over layer names, joined by ``|``."""
    layers: Literal["linear", "conv", "norm"] = "linear"
    """Kind of layers taken among the matches."""
    part: Literal["denoiser", "text"] = "denoiser"
    """Which network gets it."""

    def implements(self) -> tuple[str, ...]:
        """Return the family of the form."""
        return ("lokr-loha",) if self.kind in ("loha", "lokr") else ("lora",)

    @hookimpl
    def fuse(self, run: Run) -> Fusion | None:
        """Make the edit of each matching layer; it starts as no change."""
        edits: list[WeightEdit] = []
        for site in run.sites(self.sites, self.layers, self.part):
            edits.append(self._edit(run, site))
            if self.bias:
                edits.append(AddedBias(site))
        if not edits:
            raise RecipeError(
                f"{self.id}: no {self.layers} layer of {self.part!r} is {self.sites!r}"
            )
        return Fusion(edits=tuple(edits))

    def _edit(self, run: Run, site: Site) -> WeightEdit:
        return AddedUpdate(site, self._tensors(run, site))

    def _tensors(self, run: Run, site: Site, **more: bool) -> dict[str, Tensor]:
        """Return the tensors of one layer's update, at which it is none."""
        try:
            shapes = shapes_of(
                self.kind,
                site.shape,
                self.rank,
                tucker=self.tucker,
                first=self.first,
                factored=self.factored,
                **more,
            )
        except ValueError as error:
            raise RecipeError(f"{self.id}: {site}: {error}") from error
        rng = run.init_rng(0, f"{self.id}/{site}")
        tensors = {}
        for name, shape in shapes.items():
            drawn = torch.randn(shape, generator=rng) / max(prod(shape[1:]), 1) ** 0.5
            tensors[name] = torch.zeros(shape) if name in ZERO else drawn
        return tensors
