"""Updates of layers as other tools store them: LoCon and Tucker cores, LoHa, LoKr, OFT, DoRA, full differences.

LyCORIS (arXiv:2309.14859) and what it gathers: LoHa (FedPara, arXiv:2108.06098), LoKr, LoCon with a core
(Tucker), diagonal OFT (arXiv:2306.07280), differences of weights and of norms; DoRA (arXiv:2402.09353) as
LyCORIS and as peft weigh it. Strengths act as the multiplier of the tool that wrote the update.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from pcs_core import Technique, hookimpl
from pcs_core.data import Fusion, WeightEdit
from pcs_core.errors import RecipeError
from pcs_weights.imported_deltas import delta_of, rotated, shapes_of

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Conditioning, Run, Site

Kind = Literal["lora", "loha", "lokr", "full", "norm", "oft"]
Magnitude = Literal["", "rows", "columns", "peft"]
ZERO = ("up", "hada_w2_a", "lokr_w2", "lokr_w2_b", "diff", "w_norm", "oft_blocks")
"""Tensors that start at zero, so that an update starts as none."""


class _Update(WeightEdit):
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


class AddedUpdate(_Update):
    """y + strength * scale * delta(x) on one linear or convolution layer."""

    def residual(self, x: Tensor, y: Tensor, cond: Conditioning | None) -> Tensor:
        """Return what the update adds, in fp32 whatever the network's dtype."""
        delta = delta_of(self.tensors(), self.site.shape) * (self.scale * self.strength)
        low = x.to(delta.dtype)
        if delta.dim() == 2:
            return F.linear(low, delta).to(y.dtype)
        stride = -(-x.shape[-1] // y.shape[-1])
        return F.conv2d(low, delta, stride=stride, padding=delta.shape[-1] // 2).to(y.dtype)


class Rewritten(_Update):
    """W' = f(W) of one layer: a magnitude of its own (DoRA), a rotation (OFT), a norm's difference."""

    def __init__(self, site: Site, tensors: Mapping[str, Tensor], magnitude: Magnitude) -> None:
        super().__init__(site, tensors)
        self.decomposed = magnitude

    def weight(self, weight: Tensor) -> Tensor:
        """Return W'."""
        parts, base = self.tensors(), weight.float()
        if "w_norm" in parts:
            return (base + self.strength * parts["w_norm"]).to(weight.dtype)
        if "oft_blocks" in parts:
            return rotated(base, parts, self.scale, self.strength).to(weight.dtype)
        magnitude = parts.pop("magnitude")
        delta = delta_of(parts, self.site.shape) * self.scale
        if self.decomposed == "peft":
            changed = base + self.strength * delta
            return (changed * (magnitude.view(rows(base)) / norms(changed, 0))).to(weight.dtype)
        axis = 0 if self.decomposed == "rows" else 1
        changed = base + delta
        shape = rows(base) if axis == 0 else columns(base)
        ratio = magnitude.view(shape) / (norms(changed, axis) + torch.finfo(base.dtype).eps)
        return (changed * (self.strength * (ratio - 1) + 1)).to(weight.dtype)


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


def rows(weight: Tensor) -> tuple[int, ...]:
    """Return the shape of one number for each row of a weight."""
    return (weight.shape[0], *[1] * (weight.dim() - 1))


def columns(weight: Tensor) -> tuple[int, ...]:
    """Return the shape of one number for each column of a weight."""
    return (1, weight.shape[1], *[1] * (weight.dim() - 2))


def norms(weight: Tensor, axis: int) -> Tensor:
    """Return the lengths of a weight's rows (``axis`` 0) or columns (1), in a shape that broadcasts."""
    others = [i for i in range(weight.dim()) if i != axis]
    return weight.pow(2).sum(dim=others, keepdim=True).sqrt()


class Imported(Technique):
    """An update of chosen layers in one of the forms that files of other tools hold."""

    id = "weights.imported"
    rowwise = True
    catalogue = ("lora", "lokr-loha", "oft")
    stacks_subjects = False
    weighs = ("*/strength", "*/strength_bias")

    kind: Kind = "lora"
    """Which form: a product of two factors, LoHa, LoKr, a difference, that of a norm, or OFT's rotation."""
    rank: Annotated[int, Field(ge=1)] = 4
    """Rank of the factors; of "oft" the side of a block."""
    tucker: bool = False
    """Whether a convolution's factors have a core of their own between them."""
    bias: bool = False
    """Whether there is a difference of the bias beside a "full" or "norm" one."""
    magnitude: Magnitude = ""
    """Whether the changed weight has lengths of its own (DoRA): of its rows or columns, as LyCORIS weighs them,
    or of its rows, as peft does."""
    first: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = (1, 1)
    """Rows and columns of the first factor of "lokr"; they divide the layer's."""
    factored: Literal["", "first", "second", "both"] = ""
    """Which factors of "lokr" are products of rank ``rank`` themselves."""
    rescaled: bool = False
    """Whether "oft" also scales each row."""
    sites: str = "attention.*.q|attention.*.k|attention.*.v|attention.*.out"
    """Globs over layer names, joined by ``|``."""
    layers: Literal["linear", "conv", "norm"] = "linear"
    """Kind of layers taken among the matches."""
    part: Literal["denoiser", "text"] = "denoiser"
    """Which network gets it."""

    def implements(self) -> tuple[str, ...]:
        """Return the family of the form."""
        if self.kind == "oft":
            return ("oft",)
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
        try:
            shapes = shapes_of(
                self.kind,
                site.shape,
                self.rank,
                tucker=self.tucker,
                first=self.first,
                factored=self.factored,
                rescaled=self.rescaled,
            )
        except ValueError as error:
            raise RecipeError(f"{self.id}: {site}: {error}") from error
        rng = run.init_rng(0, f"{self.id}/{site}")
        tensors = {}
        for name, shape in shapes.items():
            drawn = torch.randn(shape, generator=rng) / max(prod(shape[1:]), 1) ** 0.5
            tensors[name] = torch.zeros(shape) if name in ZERO else drawn
        if "rescale" in tensors:
            tensors["rescale"] = torch.ones(shapes["rescale"])
        if self.magnitude:
            base = next(iter(run.parameters(self.part, f"{site.name}.weight").values()))
            axis = 1 if self.magnitude == "columns" else 0
            tensors["magnitude"] = norms(base.detach().float(), axis).flatten().cpu().clone()
        if self.magnitude or self.kind in ("norm", "oft"):
            return Rewritten(site, tensors, self.magnitude)
        return AddedUpdate(site, tensors)
