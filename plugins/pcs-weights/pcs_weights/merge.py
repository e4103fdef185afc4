"""Merging key/value deltas of several concepts (Custom Diffusion, arXiv:2212.04488, section 3.2).

W = argmin ||W C_reg^T - W0 C_reg^T||_F subject to W C^T = V, where the rows of C [t d] are the text
features of the target captions' words, V [t out] what each fine-tuned layer makes of its own, and
C_reg [n d] features of regularisation captions. Closed form: W = W0 + (V - C W0^T)^T M with
M = (C G^-1 C^T)^-1 C G^-1 and G = C_reg^T C_reg.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field

from pcs_core import Technique, hookimpl
from pcs_core.backbone import select_sites
from pcs_core.data import Features, Fusion
from pcs_core.errors import InputError
from pcs_weights.kv import ProjectionDelta

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Personalization, Run, Use

TOKENS = ("tokens.learnable",)
"""Techniques whose tensors a merge keeps, by token."""

DELTAS = ("weights.kv", "weights.merge")
"""Techniques whose deltas it merges."""

START_ONLY = frozenset({"init", "init_word", "noise", "templates"})
"""Settings of a token that mean nothing once it is trained."""

TEMPLATE = "a photo of {}"
"""Caption of a concept whose words are held fixed."""

REGULARISATION: tuple[str, ...] = (
    "a photo of a {}",
    "a picture of a {} on the grass",
    "a drawing of a {}",
    "a {} on the beach",
    "a {} on a red background",
    "a {} in the snow",
    "a large {}",
    "a small {}",
)


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


class ClosedFormMerge(Technique):
    """A personalization merged from others: its deltas were solved for, nothing is trained."""

    id = "weights.merge"
    catalogue = ("weight-merge-closed-form",)
    stacks_subjects = False
    neutral = {"strength": 0.0}

    sites: str = "cross"
    """Attention sites that were merged."""
    strength: Annotated[float, Field(ge=0.0, le=2.0)] = 1.0
    """Factor of the merged delta."""

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion | None:
        """Put the merged deltas where the originals were."""
        return Fusion(
            attention=tuple(
                ProjectionDelta(site, ("k", "v"), 1, self.strength)
                for site in run.sites(self.sites)
                if site.kind == "cross"
            )
        )


def closed_form(
    persons: Sequence[Personalization],
    backbone: Any,
    *,
    ridge: float = 1e-6,
    captions: Sequence[str] = REGULARISATION,
    template: str = TEMPLATE,
) -> Personalization:
    """Merge by constrained least squares; every concept keeps its own keys and values."""
    return _merge(persons, backbone, ridge=ridge, captions=captions, template=template)


def average(persons: Sequence[Personalization], backbone: Any) -> Personalization:
    """Merge by the plain mean of the deltas: the baseline."""
    return _merge(persons, backbone, ridge=None, captions=(), template="")


def _merge(
    persons: Sequence[Personalization],
    backbone: Any,
    *,
    ridge: float | None,
    captions: Sequence[str],
    template: str,
) -> Personalization:
    from dataclasses import replace

    from pcs_core import recipe_from_document

    deltas = [deltas_of(p) for p in persons]
    words = [token_uses(p) for p in persons]
    check_words(persons, words)
    keys = sorted(set().union(*deltas))
    if any(set(d) != set(keys) for d in deltas):
        raise InputError("the personalizations have deltas at different sites: they do not merge")
    check_sites(persons[0], keys, backbone)
    if ridge is None:
        merged = {k: torch.stack([d[k] for d in deltas]).mean(0) for k in keys}
    else:
        features = [target_features(p, backbone, template) for p in persons]
        regular = regular_features(persons, backbone, captions)
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
        for person, uses in zip(persons, words, strict=True)
        for ours, theirs in zip(words[0], uses, strict=True)
        for name, value in person.tensors.items()
        if name.startswith(f"{theirs.name}/")
    }
    document = merged_document(persons[0], sites, backbone)
    return replace(
        persons[0],
        recipe=recipe_from_document(document),
        concepts=tuple(c for p in persons for c in p.concepts),
        tensors={**tokens, **{f"weights.merge/{k}": v for k, v in merged.items()}},
        features={},
        losses={},
        subject="+".join(p.subject for p in persons),
        extra={"merged_from": [p.subject for p in persons]},
    )


def token_uses(person: Personalization) -> list[Use]:
    """Return the uses that hold learned tokens, in recipe order.

    Raises
    ------
    InputError
        Another use, neither tokens nor key/value deltas, acts on the pictures: merging would lose it.
    """
    for use in person.recipe.uses:
        # what has neither hook acts in a fit alone
        acts = any(hasattr(use.technique, hook) for hook in ("fuse", "sample"))
        if acts and use.technique.id not in (*TOKENS, *DELTAS):
            raise InputError(
                f"{person.subject!r}: what the use {use.name!r} ({use.technique.id}) does would be lost: "
                f"only systems of {', '.join((*TOKENS, *DELTAS))} merge"
            )
    owners = {use.name for use in person.recipe.uses if use.technique.id in (*TOKENS, *DELTAS)}
    for name in person.tensors:
        if (owner := name.split("/", 1)[0]) not in owners:
            raise InputError(
                f"{person.subject!r}: the tensors of the use {owner!r} would be lost: "
                f"only systems of {', '.join((*TOKENS, *DELTAS))} merge"
            )
    return [use for use in person.recipe.uses if use.technique.id in TOKENS]


def check_words(persons: Sequence[Personalization], words: Sequence[Sequence[Use]]) -> None:
    """Refuse personalizations whose tokens one recipe cannot hold.

    Raises
    ------
    InputError
        Names the personalization, the use and the setting.
    """
    first = words[0]
    for person, uses in zip(persons[1:], words[1:], strict=True):
        if len(uses) != len(first):
            raise InputError(
                f"{person.subject!r} has {len(uses)} uses of tokens.learnable "
                f"({', '.join(u.name for u in uses) or 'none'}), {persons[0].subject!r} has "
                f"{len(first)} ({', '.join(u.name for u in first) or 'none'}): they do not merge"
            )
        for ours, theirs in zip(first, uses, strict=True):
            settings, wanted = theirs.technique.settings(), ours.technique.settings()
            for key, value in settings.items():
                if key not in START_ONLY and value != wanted[key]:
                    raise InputError(
                        f"{person.subject!r}: the use {theirs.name!r} has {key} = {value!r}, "
                        f"{persons[0].subject!r} has {wanted[key]!r}: fit one of them again"
                    )


def check_sites(person: Personalization, keys: Sequence[str], backbone: Any) -> None:
    """Refuse deltas of projections that do not read the text.

    Raises
    ------
    InputError
        Names the personalization and the site.
    """
    cross = {site.name for site in select_sites(backbone.sites, "cross")}
    for key in keys:
        if (site := key.rpartition("/")[0]) not in cross:
            raise InputError(
                f"{person.subject!r} has a delta at {site!r}, which is no cross attention: "
                "only keys and values of the text merge"
            )


def deltas_of(person: Personalization) -> dict[str, Tensor]:
    """Return the key/value deltas in force, by ``"<site>/<k or v>"``, the strength multiplied in.

    Raises
    ------
    InputError
        The personalization has none, or also deltas of another projection.
    """
    found: dict[str, Tensor] = {}
    for use in person.recipe.uses:
        if use.technique.id not in DELTAS:
            continue
        strength = float(getattr(use.technique, "strength", 1.0))
        for name, value in person.tensors.items():
            owner, _, key = name.partition("/")
            if owner != use.name:
                continue
            if (part := key.rpartition("/")[2]) not in ("k", "v"):
                raise InputError(
                    f"{person.subject!r}: the use {use.name!r} has deltas of {part!r}: only keys and "
                    'values merge; fit with parts = ["k", "v"]'
                )
            found[key] = found[key] + strength * value if key in found else strength * value
    if not found:
        raise InputError(
            f"{person.subject!r} (recipe {person.recipe.id!r}) has no key/value deltas: only systems "
            "with weights.kv, such as custom-diffusion, merge in closed form"
        )
    return found


def base_weight(backbone: Any, key: str) -> Tensor:
    """Return the base projection [out in] of ``"<site>/<k or v>"``."""
    site, part = key.rsplit("/", 1)
    layer = backbone.parts["denoiser"].get_submodule(site).get_submodule(f"to_{part}")
    weight: Tensor = layer.weight.detach().float().cpu()
    return weight


def target_features(person: Personalization, backbone: Any, template: str) -> Tensor:
    """Return the text features [t d] of the caption words, from the token on, of each concept."""
    from pcs_core import text_features

    rows = []
    for concept in person.concepts:
        named = template.format(f"{concept.token} {concept.noun}")
        text, length, first = text_features(person, backbone, named)
        rows.append(text[0, first[0] if first else 1 : length[0]])
    return torch.cat(rows).float().cpu()


def regular_features(
    persons: Sequence[Personalization], backbone: Any, captions: Sequence[str]
) -> Tensor:
    """Return text features [n d] of the regularisation captions over many nouns, end token included."""
    from pcs_core import text_features

    nouns = dict.fromkeys([c.noun for p in persons for c in p.concepts] + NOUNS)
    rows = []
    for noun in nouns:
        for caption in captions:
            text, length, _ = text_features(None, backbone, caption.format(noun))
            rows.append(text[0, 1 : length[0] + 1])
    return torch.cat(rows).float().cpu()


NOUNS = [
    "cat",
    "dog",
    "car",
    "house",
    "tree",
    "cup",
    "toy",
    "bird",
    "boat",
    "flower",
    "chair",
    "book",
]


def merged_document(
    person: Personalization, sites: Sequence[str], backbone: Any
) -> Mapping[str, Any]:
    """Return the recipe of the merged personalization: the first one's tokens, and the merged deltas."""
    document: dict[str, Any] = dict(person.recipe.document)
    kept = [u for u in document["use"] if u["technique"] in TOKENS]
    every = sorted(site.name for site in select_sites(backbone.sites, "cross"))
    where = "cross" if list(sites) == every else "|".join(sites)
    document["use"] = [*kept, {"technique": "weights.merge", "sites": where}]
    document["phase"] = []
    return document
