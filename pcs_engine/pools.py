"""Pools of encoded examples, a subject each: every picture is encoded once, before the loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pcs_core.backbone import Attachment
from pcs_core.data import RENDERED, Example, Features
from pcs_core.data.later import Later
from pcs_core.data.masks import mask_at
from pcs_core.errors import RecipeError
from pcs_engine.captions import CaptionTable
from pcs_engine.sizes import place_of

ENCODE_BATCH = 16
"""Pictures the VAE encodes at a time, of up to ENCODE_PIXELS together: what that takes grows with them."""
ENCODE_PIXELS = 2 * 512 * 512


@dataclass
class Pool:
    """Encoded examples of one subject. ``roles`` maps a role to rows of the tensors.

    ``mean``, ``std`` are the moments [c h w] of each example's latents, [c t h w] of a clip of t frames
    (examples of one role are alike); ``mask`` [n 1 h w] weighs the error;
    ``texts`` per row, indices into the caption table; ``extra`` [n ...] what every example carries by
    name, ``regions`` [n 1 h w] their masks by name; ``images`` [n 3 h w] only where
    a pixel edit stands before the VAE.
    """

    roles: Mapping[str, list[int]]
    mean: Sequence[Tensor]
    std: Sequence[Tensor]
    weight: Tensor
    mask: Tensor | None
    texts: list[list[int]]
    index: list[int]
    extra: Mapping[str, Tensor]
    regions: Mapping[str, Tensor] = field(default_factory=dict)
    images: Sequence[Tensor] | None = None
    repeats: Sequence[int] = ()
    """How often each is drawn, of those of its role; nothing: all alike."""


Latents = dict[int, tuple[Any, Tensor, Tensor]]
"""Pictures that are encoded already, by the place of their pixels: the picture (so that nothing else
comes to stand there), mean and std of its latents."""


def encode_pools(
    net: Attachment,
    features: Sequence[Features],
    roles: Sequence[str],
    latents: Latents | None = None,
    table: CaptionTable | None = None,
) -> tuple[list[Pool], CaptionTable]:
    """Encode every example once, those that ``latents`` holds not at all; captions go into ``table``.

    Raises
    ------
    RecipeError
        A phase asks for a role no technique gives examples of.
    """
    table = CaptionTable() if table is None else table
    pools = []
    cache: Latents = {} if latents is None else latents  # shared pictures (prior) are encoded once
    for subject, subject_features in enumerate(features):
        examples = list(subject_features.examples)
        by_role: dict[str, list[int]] = {}
        for row, example in enumerate(examples):
            by_role.setdefault(example.role, []).append(row)
        for role in roles:
            if role not in by_role and role != RENDERED:
                raise RecipeError(
                    f"a phase asks for examples of role {role!r}, but no technique of the recipe "
                    f"gives any (roles found: {', '.join(by_role)})"
                )
        if not examples:  # nothing but a renderable to draw from
            nothing = torch.zeros(0, device=net.backbone.device)
            pools.append(Pool({}, [], [], nothing, None, [], [], {}, {}))
            continue
        _encode_missing(net, examples, cache)
        moments = [cache[_identity(e)][1:] for e in examples]
        pools.append(
            Pool(
                roles=by_role,
                mean=[m for m, _ in moments],
                std=[s for _, s in moments],
                weight=torch.tensor([e.weight for e in examples], device=net.backbone.device),
                mask=_latent_masks(examples, moments[0][0]),
                texts=[[table.add(subject, c) for c in e.captions] for e in examples],
                index=[e.index for e in examples],
                extra=_extra(examples, moments[0][0]),
                regions=_regions(examples, moments[0][0]),
                images=(
                    [e.image.to(net.backbone.device) for e in examples]
                    if net.encodes_each_step
                    else None
                ),
                repeats=[e.repeats for e in examples],
            )
        )
    return pools, table


def _identity(example: Example) -> int:
    return place_of(example.picture)


def _encode_missing(net: Attachment, examples: Sequence[Example], cache: Latents) -> None:
    missing = {_identity(e): e.picture for e in examples if _identity(e) not in cache}
    shapes: dict[tuple[int, ...], list[int]] = {}
    for key, image in missing.items():  # clips and single frames do not share a batch
        shapes.setdefault(tuple(image.shape), []).append(key)
    for shape, keys in shapes.items():
        batch = max(1, encoded_together(shape[-2:]) // (shape[1] if len(shape) == 4 else 1))
        for start in range(0, len(keys), batch):
            chunk = keys[start : start + batch]
            with torch.no_grad():
                pictures = [missing[k] for k in chunk]
                read = [p.read() if isinstance(p, Later) else p for p in pictures]
                mean, std = net.backbone.moments(torch.stack(read))
            cache.update({k: (missing[k], mean[i], std[i]) for i, k in enumerate(chunk)})


def encoded_together(size: Sequence[int]) -> int:
    """Return how many pictures or frames of ``size`` [height, width] are encoded at a time."""
    return max(1, min(ENCODE_BATCH, ENCODE_PIXELS // (size[-2] * size[-1])))


def _latent_masks(examples: Sequence[Example], like: Tensor) -> Tensor | None:
    if all(e.mask is None for e in examples):
        return None
    size = (like.shape[-2], like.shape[-1])
    full = torch.ones(1, *size)
    rows = [full if e.mask is None else mask_at(e.mask, size) for e in examples]
    return torch.stack(rows).to(like.device)


def _extra(examples: Sequence[Example], like: Tensor) -> dict[str, Tensor]:
    """Stack what all examples carry, as it is."""
    stacked = {}
    for key in dict.fromkeys(k for e in examples for k in e.extra):
        values = [e.extra[key] for e in examples if key in e.extra]
        if len(values) == len(examples):
            stacked[key] = torch.stack([torch.as_tensor(v) for v in values]).to(like.device)
    return stacked


def _regions(examples: Sequence[Example], like: Tensor) -> dict[str, Tensor]:
    """Stack the regions [n 1 h w] at the size of the latents; one that an example lacks is empty."""
    size = (like.shape[-2], like.shape[-1])
    empty = torch.zeros(1, *size)
    return {
        key: torch.stack(
            [mask_at(e.regions[key], size) if key in e.regions else empty for e in examples]
        ).to(like.device)
        for key in dict.fromkeys(k for e in examples for k in e.regions)
    }
