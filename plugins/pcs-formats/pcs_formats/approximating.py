"""What an attached system does to layers, as low-rank updates: for files that hold nothing else.

A layer's change is measured, whatever makes it (full differences, rotations, shifted singular values, another
library's adapters): what the layer says with the edits in force less what it says without them, which must be a
matrix times its input. Its best approximation of a rank is that of its largest singular values (Eckart and
Young, 1936). Changes of biases, norms and embeddings are in no such file; they count as errors of 100 %.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.data import AttnEdit, InjectEdit, ReplaceEdit, WeightEdit
from pcs_core.errors import CapabilityError

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.backbone import Attachment
    from pcs_core.data import Edit, Site

LAYERS = ("linear", "conv")
"""Kinds of layers that low-rank updates are of."""
TEXTS = {"q": "to_q", "k": "add_k_proj", "v": "add_v_proj"}
"""Projection -> its layer where text and picture share their attention: keys and values are the text's."""
LINEAR = 1e-3
"""How far, relatively, a layer's change may be from a matrix times its input."""
ROUNDING = 1e-5
"""What of the layer's own output may be rounding."""


@dataclass(frozen=True, slots=True)
class Approximation:
    """Updates by site, down [r in*] and up [out r], and relative ``errors`` by kind of layer and "overall".

    An error is the norm of all that is missing over that of all changes (Frobenius). ``rank`` is the highest.
    """

    rank: int
    products: Mapping[Site, tuple[Tensor, Tensor]]
    errors: Mapping[str, float]

    def facts(self) -> dict[str, Any]:
        """Return it as numbers."""
        return {"rank": self.rank, "errors": {k: round(e, 6) for k, e in self.errors.items()}}


def can_be_approximated(edit: Edit) -> bool:
    """Return whether an edit acts on layers' weights, at every step and on every token alike."""
    if edit.group or edit.mode != "both" or edit.start > 0.0 or edit.stop < 1.0:
        return False
    if isinstance(edit, AttnEdit):
        return bool(edit.owned()) and set(edit.owned()) <= set(TEXTS) and hasattr(edit, "strength")
    return isinstance(edit, WeightEdit | InjectEdit | ReplaceEdit)


@torch.no_grad()
def approximation(net: Attachment, edits: Sequence[Edit], rank: int) -> Approximation:
    """Return updates of at most ``rank`` for what ``edits`` do, and of their sites all that others do there.

    Raises
    ------
    CapabilityError
        What they do at a layer is no matrix times its input; or the network is not in fp32, which hides it.
    """
    kinds = {p.dtype for p in net.backbone.parts["denoiser"].parameters()}
    if kinds != {torch.float32}:
        names = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
        raise CapabilityError(
            f"backbone {net.backbone.card.id!r} is opened in {names}, whose rounding is as large as what a fit "
            "changes: approximate in fp32"
        )
    missing: dict[str, float] = {}
    whole: dict[str, float] = {}
    products: dict[Site, tuple[Tensor, Tensor]] = {}
    for kind, site, change in changes(net, edits):
        size = float(change.square().sum())
        whole[kind] = whole.get(kind, 0.0) + size
        if site is None:
            missing[kind] = missing.get(kind, 0.0) + size
            continue
        down, up = truncated(change.flatten(1), rank)
        rest = float((change.flatten(1) - up @ down).square().sum())
        missing[kind] = missing.get(kind, 0.0) + rest
        if size:
            products[site] = down, up
    errors = {kind: sqrt(missing[kind] / size) for kind, size in sorted(whole.items()) if size}
    total = sum(whole.values())
    overall = sqrt(sum(missing.values()) / total) if total else 0.0
    return Approximation(rank, products, {**errors, "overall": overall})


def changes(net: Attachment, edits: Sequence[Edit]) -> Iterator[tuple[str, Site | None, Tensor]]:
    """Yield kind, site and change of each weight that ``edits`` change; no site where no file holds it."""
    sites = {(site.part, site.name): site for site in net.backbone.sites if site.kind in LAYERS}
    others = {(site.part, site.name): site.kind for site in net.backbone.sites if site.shape}
    added: dict[Site, Tensor] = {}
    for edit in edits:
        for site, change in of_attention(edit, sites):
            added[site] = added[site] + change if site in added else change
    measured = dict.fromkeys(place for edit in edits for place in places(edit))
    for place in measured:
        if place in sites:
            site = sites[place]
            weight, bias = measured_change(net, site)
            yield site.kind, site, weight + added.pop(site, 0.0)
            if bool(bias.any()):
                yield "bias", None, bias
        else:
            for name, change in left_out(net, place, edits):
                yield ("bias" if name == "bias" else others.get(place, "other")), None, change
    for site, change in added.items():
        yield site.kind, site, change


def places(edit: Edit) -> Iterable[tuple[str, str]]:
    """Return part and name of the layers that an edit changes by itself."""
    if isinstance(edit, WeightEdit):
        return [(edit.site.part, edit.site.name)]
    if isinstance(edit, ReplaceEdit):
        return dict.fromkeys((edit.part, path.rpartition(".")[0]) for path in edit.paths)
    if isinstance(edit, InjectEdit):
        claims = (claim.partition(":") for claim in edit.claims)
        return [(part, name) for part, _, name in claims]
    return []


def of_attention(
    edit: Edit, sites: Mapping[tuple[str, str], Site]
) -> Iterator[tuple[Site, Tensor]]:
    """Yield the change of each projection of an attention by its layer.

    Raises
    ------
    CapabilityError
        The projection has no layer of its own: text and picture share it.
    """
    if not isinstance(edit, AttnEdit):
        return
    joint = edit.site.kind == "joint"
    shared = joint and (edit.site.part, f"{edit.site.name}.{TEXTS['k']}") not in sites
    for part, value in edit.owned().items():
        layer = TEXTS[part] if joint else f"to_{part}"
        place = (edit.site.part, f"{edit.site.name}.{layer}")
        if shared or place not in sites:
            raise CapabilityError(
                f"{edit.owner!r} cannot be approximated at {edit.site}: text and picture share the layer "
                f"of its {part!r} there"
            )
        strength: Any = getattr(edit, "strength")  # noqa: B009
        yield sites[place], value[0].detach().float() * strength


def measured_change(net: Attachment, site: Site) -> tuple[Tensor, Tensor]:
    """Return what is added to the weight [out in*] and the bias [out] of a layer.

    Raises
    ------
    CapabilityError
        What is added to its output is no matrix times its input and a constant.
    """
    zero = torch.zeros(1, 1, site.shape[1], device=net.backbone.device)
    if site.kind == "linear":
        bias = added(net, site, zero)[0, 0]
        weight = (added(net, site, torch.eye(site.shape[1]).to(zero)[None])[0] - bias).T
        shown = torch.randn(1, 3, site.shape[1], generator=torch.Generator().manual_seed(0)).to(
            zero
        )
        expected = shown @ weight.T + bias
    else:
        weight, bias = convolved(net, site)
        side = 2 * site.shape[2] + 1
        shown = torch.randn(
            1, site.shape[1], side, side, generator=torch.Generator().manual_seed(0)
        )
        shown = shown.to(zero)
        module = bare(layer_of(net, site))
        expected = torch.conv2d(shown, weight, bias, module.stride, module.padding, module.dilation)
    actual, output = added(net, site, shown), without(net, site, shown)
    if (actual - expected).norm() > LINEAR * actual.norm() + ROUNDING * output.norm():
        raise CapabilityError(
            f"what is done at {site} cannot be approximated: it is no change of the layer's weight, which a "
            "low-rank update is"
        )
    return weight.cpu(), bias.cpu()


def convolved(net: Attachment, site: Site) -> tuple[Tensor, Tensor]:
    """Return what is added to a convolution's weight [out in k k] and bias [out], by its output's gradients."""
    out, inner, side = site.shape[0], site.shape[1], site.shape[2]
    module = bare(layer_of(net, site))
    stride, padding = module.stride[0], module.padding[0]
    first = -(-padding // stride)  # the first output whose whole kernel lies inside
    start = first * stride - padding
    picture = torch.zeros(out, inner, start + side, start + side, device=net.backbone.device)
    with torch.enable_grad():
        given = picture.requires_grad_()
        said = added(net, site, given)[:, :, first, first]
        (weight,) = torch.autograd.grad(said.diagonal().sum(), given)
    return weight[..., start:, start:], said[0].detach()


def added(net: Attachment, site: Site, x: Tensor) -> Tensor:
    """Return what a layer says of ``x`` with the edits in force, less what it says without."""
    layer = layer_of(net, site)
    with net.under(cond=None):
        output: Tensor = layer(x)
    return output - without(net, site, x)


def without(net: Attachment, site: Site, x: Tensor) -> Tensor:
    """Return what a layer of the base says of ``x``."""
    with net.under(off=True):
        output: Tensor = layer_of(net, site)(x)
    return output


def layer_of(net: Attachment, site: Site) -> Any:
    """Return the layer at a site."""
    return net.backbone.parts[site.part].get_submodule(site.name)


def bare(layer: Any) -> Any:
    """Return the layer itself where peft has wrapped it."""
    return getattr(layer, "base_layer", layer)


def left_out(
    net: Attachment, place: tuple[str, str], edits: Sequence[Edit]
) -> Iterator[tuple[str, Tensor]]:
    """Yield name and change of the parameters of a layer that takes no low-rank update."""
    part, name = place
    module: Any = net.backbone.parts[part].get_submodule(name)
    for edit in edits:
        if isinstance(edit, ReplaceEdit) and edit.part == part:
            for path, value in edit.targets().items():
                if path.rpartition(".")[0] == name:
                    yield path.rpartition(".")[2], edit.stored(path, value).cpu()
        elif isinstance(edit, WeightEdit) and (edit.site.part, edit.site.name) == place:
            if edit.stage() == "weight":
                yield "weight", (edit.weight(module.weight) - module.weight).detach().float().cpu()
            else:
                zero = torch.zeros(1, *module.weight.shape[:1], device=net.backbone.device)
                yield "bias", edit.residual(zero, zero, None).detach().float().cpu()


def truncated(change: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the factors down [r in] and up [out r] of the largest singular values of [out in], shared evenly.

    By the eigenvectors of the smaller of its two Gram matrices, in fp64.
    """
    wide = change.shape[0] > change.shape[1]
    matrix = (change.T if wide else change).double()
    values, vectors = torch.linalg.eigh(matrix @ matrix.T)
    values, vectors = values[-rank:].flip(0), vectors[:, -rank:].flip(1)
    root = values.clamp_min(0.0).sqrt().sqrt()  # of the singular values
    first = vectors * root
    second = (vectors.T @ matrix) / root.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    down, up = (first.T, second.T) if wide else (second, first)
    return down.float().contiguous(), up.float().contiguous()
