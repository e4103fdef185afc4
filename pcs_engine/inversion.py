"""DDIM inversion: from a picture to the noise that draws it (arXiv:2010.02502, section 4.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pcs_core.backbone import Attachment, suspended, tokenise
from pcs_core.data import Conditioning, Fusion, Level, concatenate
from pcs_core.errors import CapabilityError

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.backbone import Backbone


@torch.no_grad()
def invert(
    backbone: Backbone, image: Tensor, prompt: str, *, steps: int, scale: float = 1.0
) -> Tensor:
    """Return the trajectory [steps+1 c h w] of ``image`` [3 h w] under the frozen base.

    Entry 0 is the picture's own latents, the last one pure noise. Each step converts at the level
    it stands on and tells the network the time of the level it goes to: the discretised ODE run
    backwards. ``scale`` is the guidance scale; above 1 the way back no longer ends at the picture.
    A clip [3 t h w] has the trajectory [steps+1 c t h w].

    Raises
    ------
    CapabilityError
        The backbone's latents are tokens.
    """
    if not backbone.process.continuous:
        raise CapabilityError(
            f"backbone {backbone.card.id!r} draws tokens: only continuous latents can be inverted"
        )
    with suspended(backbone), Attachment(backbone, Fusion()) as net:
        # the levels a DDIM sampler of as many steps stands on, from pure noise to the picture
        sampler = backbone.sampler("ddim", steps)
        levels = [sampler.level(i, 1) for i in range(steps)][::-1]
        subject = torch.zeros(1, dtype=torch.long, device=backbone.device)
        texts = tokenise([prompt] if scale == 1.0 else ["", prompt], backbone.tokenizer)
        conds = [net.encode_text(texts.rows([row]), subject) for row in range(len(texts.ids))]
        latents = backbone.moments(image[None].to(backbone.device))[0].float()
        trajectory = [latents]
        # the picture counts as standing on the first training level, not on none (alpha is never one)
        before = backbone.process.level(torch.zeros_like(levels[0].time, dtype=torch.long))
        for level in levels:
            at = Level(before.alpha, before.sigma, level.time)
            x0 = _guided(net, latents, at, conds, scale)
            alpha, sigma = at.like(latents)
            noise = (latents - alpha * x0) / sigma
            alpha, sigma = level.like(latents)
            latents = alpha * x0 + sigma * noise
            trajectory.append(latents)
            before = level
    return torch.cat(trajectory)


def _guided(
    net: Attachment, latents: Tensor, at: Level, conds: list[Conditioning], scale: float
) -> Tensor:
    """Return the guided x0 at level ``at``."""
    if len(conds) == 1:
        return net.evaluate(latents, at, conds[0]).x0
    both = Level(*(t.repeat(2) for t in at))
    empty, full = net.evaluate(
        torch.cat([latents, latents]), both, concatenate(tuple(conds))
    ).x0.chunk(2)
    return empty + scale * (full - empty)
