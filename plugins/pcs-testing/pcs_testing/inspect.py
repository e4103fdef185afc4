"""One look inside a personalized network: what its attention sites and its text say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.backbone import Attachment, suspended
from pcs_core.data import AttnEdit, Branch, BranchEdit, SampleSettings
from pcs_engine.guidance import Guidance
from pcs_engine.restoring import restore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from pcs_core.backbone import Backbone
    from pcs_core.data import AttnState, Conditioning, Layout, Level, Personalization, Site


class _Spy(AttnEdit):
    """Copies what stands at a site after every other edit."""

    def __init__(self, site: Site, seen: dict[str, AttnState]) -> None:
        super().__init__(site)
        self.seen = seen

    def out(self, state: AttnState, cond: Conditioning) -> AttnState:
        """Keep the state."""
        self.seen[self.site.name] = replace(state)
        return state


@contextmanager
def opened(
    artifact: Personalization | None,
    backbone: Backbone,
    prompts: Sequence[str],
    *,
    time: int = 400,
    progress: float = 0.6,
    strengths: Mapping[str, float] | None = None,
    layout: Layout | None = None,
    spies: Mapping[str, AttnState] | None = None,
) -> Iterator[tuple[Attachment, Conditioning, Level]]:
    """Attach a personalization and encode ``prompts`` at one level; yield net, conditioning, level."""
    run, fusion = restore(artifact, backbone, 0)
    run.layout, run.strengths = layout, dict(strengths or {})
    if spies is not None:
        sites = [s for s in backbone.sites if s.part == "denoiser" and s.kind in ("self", "cross")]
        seen: Any = spies
        fusion = replace(fusion, edits=(*fusion.edits, *(_Spy(s, seen) for s in sites)))
    with suspended(backbone), Attachment(backbone, fusion) as net, torch.no_grad():
        level = backbone.process.level(
            torch.full((len(prompts),), time, device=backbone.device, dtype=torch.long)
        )
        guide = Guidance(run, net, prompts, SampleSettings(scale=1.0))
        yield net, guide.branch(Branch("positive"), level, progress), level


def attention_states(
    artifact: Personalization | None,
    backbone: Backbone,
    prompt: str,
    *,
    latents: Tensor | None = None,
    time: int = 400,
    progress: float = 0.6,
    **options: Any,
) -> dict[str, AttnState]:
    """Return what each attention site saw and gave, for one prompt on fixed latents."""
    seen: dict[str, AttnState] = {}
    more = {"time": time, "progress": progress, "spies": seen, **options}
    with opened(artifact, backbone, [prompt], **more) as (net, cond, level):
        if latents is None:
            rng = torch.Generator().manual_seed(7)
            latents = torch.randn(1, *backbone.latent_shape, generator=rng)
        net.evaluate(latents.to(backbone.device), level, cond, progress=progress)
    return seen


def attention_outputs(
    artifact: Personalization | None, backbone: Backbone, prompt: str, **options: Any
) -> dict[str, Tensor]:
    """Return the output [1 n hd] of each attention site before its output projection."""
    states = attention_states(artifact, backbone, prompt, **options)
    return {name: state.out for name, state in states.items() if state.out is not None}


def conditioning(
    artifact: Personalization | None, backbone: Backbone, prompt: str, **options: Any
) -> Conditioning:
    """Return the conditioning of one prompt under a personalization."""
    with opened(artifact, backbone, [prompt], **options) as (_, cond, _level):
        return cond


def control_residuals(
    artifact: Personalization, backbone: Backbone, prompt: str, **options: Any
) -> list[Tensor]:
    """Return the residuals of all control branches on fixed latents, middle block last."""
    with opened(artifact, backbone, [prompt], **options) as (net, cond, level):
        rng = torch.Generator().manual_seed(7)
        latents = torch.randn(1, *backbone.latent_shape, generator=rng).to(backbone.device)
        residuals: list[Tensor] = []
        for edit in net.fusion.of(BranchEdit):
            if (answer := edit.residuals(latents, level.time, cond)) is not None:
                residuals += [*answer[0], answer[1]]
        return residuals
