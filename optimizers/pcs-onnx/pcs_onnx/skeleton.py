"""A tree of layers without weights: where edits are bound when the network itself is a graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pcs_core.data import Site


def skeleton(
    sites: Iterable[Site], part: str, parameters: Mapping[str, Sequence[int]] | None = None
) -> nn.Module:
    """Return modules at the paths of the sites of ``part``, and further ``parameters`` by path.

    Weights have their shapes and are zeros that take no memory. What an artifact stores replaces all
    that techniques make of them.
    """
    root = nn.Module()
    for site in sites:
        if site.part == part and not site.layer:  # a place between layers is none
            parent, _, name = site.name.rpartition(".")
            _place(reach(root, parent), name, site)
    for path, shape in (parameters or {}).items():
        parent, _, name = path.rpartition(".")
        owner = reach(root, parent)
        if owner._parameters.get(name) is None:
            zeros = torch.zeros(()).expand(tuple(shape))
            owner.register_parameter(name, nn.Parameter(zeros, requires_grad=False))
    return root


def reach(root: nn.Module, path: str) -> nn.Module:
    """Return the module at ``path`` below ``root``, made where it is missing."""
    for name in filter(None, path.split(".")):
        if name not in root._modules:
            root.add_module(name, nn.Module())
        following = root._modules[name]
        assert following is not None
        root = following
    return root


def _place(parent: nn.Module, name: str, site: Site) -> None:
    layer: nn.Module
    with torch.device("meta"):
        if site.kind == "linear":
            layer = nn.Linear(site.shape[1], site.shape[0], bias=False)
        elif site.kind == "conv":
            layer = nn.Conv2d(site.shape[1], site.shape[0], site.shape[2:], bias=False)  # type: ignore[arg-type]
        elif site.kind == "embedding":
            layer = nn.Embedding(site.shape[0], site.shape[1])
        elif site.kind == "norm":
            layer = nn.LayerNorm(site.shape, bias=False)
        else:
            layer = nn.Module()
    if site.shape:
        zeros = torch.zeros(()).expand(site.shape)
        layer.weight = nn.Parameter(zeros, requires_grad=False)
    old = parent._modules.get(name)
    if old is not None:  # an attention site whose projections came first
        for child, module in old.named_children():
            layer.add_module(child, module)
    parent.add_module(name, layer)
