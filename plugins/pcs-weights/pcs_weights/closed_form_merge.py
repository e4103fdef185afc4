"""Merging key/value deltas of several concepts (Custom Diffusion, arXiv:2212.04488, section 3.2).

W = argmin ||W C_reg^T - W0 C_reg^T||_F subject to W C^T = V, where the rows of C [t d] are the text
features of the target captions' words, V [t out] what each fine-tuned layer makes of its own, and
C_reg [n d] features of regularisation captions. Closed form: W = W0 + (V - C W0^T)^T M with
M = (C G^-1 C^T)^-1 C G^-1 and G = C_reg^T C_reg.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.backbone import select_sites
from pcs_core.errors import InputError
from pcs_weights.captions import REGULARISATION, TEMPLATE, regular_features, target_features
from pcs_weights.mergeable import TOKENS, check_sites, check_words, deltas_of, token_uses

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Personalization


def solve(base: Tensor, targets: Tensor, values: Tensor, regular: Tensor, ridge: float) -> Tensor:
    """Return W - W0 [out in] of the constrained least squares problem, solved in fp64.

    ``base`` W0 [out in]; ``targets`` C [t in]; ``values`` V [t out]; ``regular`` C_reg [n in];
    ``ridge`` is added to G, relative to its mean diagonal. Linearly dependent target rows are met in
    the least-squares sense.
    """
    w0, c, v, r = (t.double() for t in (base, targets, values, regular))
    gram = r.T @ r
    gram = gram + ridge * gram.diagonal().mean() * torch.eye(gram.shape[0], dtype=gram.dtype)
    inverse = torch.linalg.solve(gram, c.T)  # G^-1 C^T, [in t]
    middle = torch.linalg.pinv(c @ inverse, hermitian=True, rtol=1e-12)
    return ((v - c @ w0.T).T @ middle @ inverse.T).to(base.dtype)


def closed_form(
    artifacts: Sequence[Personalization],
    backbone: Any,
    *,
    ridge: float = 1e-6,
    captions: Sequence[str] = REGULARISATION,
    template: str = TEMPLATE,
) -> Personalization:
    """Merge by constrained least squares; every concept keeps its own keys and values."""
    return _merge(artifacts, backbone, ridge=ridge, captions=captions, template=template)


def average(artifacts: Sequence[Personalization], backbone: Any) -> Personalization:
    """Merge by the plain mean of the deltas: the baseline."""
    return _merge(artifacts, backbone, ridge=None, captions=(), template="")


def _merge(
    artifacts: Sequence[Personalization],
    backbone: Any,
    *,
    ridge: float | None,
    captions: Sequence[str],
    template: str,
) -> Personalization:
    from dataclasses import replace

    from pcs_core import recipe_from_document

    deltas = [deltas_of(p) for p in artifacts]
    words = [token_uses(p) for p in artifacts]
    check_words(artifacts, words)
    keys = sorted(set().union(*deltas))
    if any(set(d) != set(keys) for d in deltas):
        raise InputError("the personalizations have deltas at different sites: they do not merge")
    check_sites(artifacts[0], keys, backbone)
    if ridge is None:
        merged = {k: torch.stack([d[k] for d in deltas]).mean(0) for k in keys}
    else:
        features = [target_features(p, backbone, template) for p in artifacts]
        regular = regular_features(artifacts, backbone, captions)
        merged = {}
        for key in keys:
            base = base_weight(backbone, key)
            values = [f @ (base + d[key]).T for f, d in zip(features, deltas, strict=True)]
            merged[key] = solve(base, torch.cat(features), torch.cat(values), regular, ridge)
    sites = sorted({key.rpartition("/")[0] for key in keys})
    for site in sites:  # the merged technique holds both projections of a site
        for key in (f"{site}/k", f"{site}/v"):
            merged.setdefault(key, torch.zeros_like(base_weight(backbone, key)))
    tokens = {
        f"{ours.name}/{name.removeprefix(f'{theirs.name}/')}": value
        for artifact, uses in zip(artifacts, words, strict=True)
        for ours, theirs in zip(words[0], uses, strict=True)
        for name, value in artifact.tensors.items()
        if name.startswith(f"{theirs.name}/")
    }
    document = merged_document(artifacts[0], sites, backbone)
    return replace(
        artifacts[0],
        recipe=recipe_from_document(document),
        concepts=tuple(c for p in artifacts for c in p.concepts),
        tensors={**tokens, **{f"weights.merge/{k}": v for k, v in merged.items()}},
        features={},
        losses={},
        subject="+".join(p.subject for p in artifacts),
        extra={"merged_from": [p.subject for p in artifacts]},
    )


def base_weight(backbone: Any, key: str) -> Tensor:
    """Return the base projection [out in] of ``"<site>/<k or v>"``."""
    site, part = key.rsplit("/", 1)
    layer = backbone.parts["denoiser"].get_submodule(site).get_submodule(f"to_{part}")
    weight: Tensor = layer.weight.detach().float().cpu()
    return weight


def merged_document(
    artifact: Personalization, sites: Sequence[str], backbone: Any
) -> Mapping[str, Any]:
    """Return the recipe of the merged personalization: the first one's tokens, and the merged deltas."""
    document: dict[str, Any] = dict(artifact.recipe.document)
    kept = [u for u in document["use"] if u["technique"] in TOKENS]
    every = sorted(site.name for site in select_sites(backbone.sites, "cross"))
    where = "cross" if list(sites) == every else "|".join(sites)
    document["use"] = [*kept, {"technique": "weights.merge", "sites": where}]
    document["phase"] = []
    return document
