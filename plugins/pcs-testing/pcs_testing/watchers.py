"""Techniques that only watch: the end of a fit, and what a step's losses are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch

from pcs_core.backbone import Attachment
from pcs_core.backbone.attach import attached
from pcs_core.data import Features
from pcs_core.hookspecs import hookimpl
from pcs_core.technique import Technique
from pcs_testing.fixtures import evaluate_attached

if TYPE_CHECKING:
    from collections.abc import Generator

    from torch import Tensor

    from pcs_core.backbone import Backbone
    from pcs_core.data import FitStep, Loss, Run

PROMPTS = ("a photo of a dog", "a red toy on the beach", "a photo of <fido> on the beach")

_SEEN: WeakKeyDictionary[Technique, Any] = WeakKeyDictionary()
"""What each watching instance saw: instances hold settings only."""


def prompt_latents(backbone: Backbone, rows: int) -> Tensor:
    """Return fixed latents [rows c h w] as the network of ``backbone`` is shown them."""
    noise = torch.randn(rows, *backbone.latent_shape, generator=torch.Generator().manual_seed(7))
    return backbone.sampler("ddim", 1).start(noise).to(backbone.device)


def glance(net: Attachment, features: Features) -> Tensor:
    """Return the output of an attached network on fixed latents, as in a sampling."""
    fitting, net.context.fitting = net.context.fitting, False
    for edit in net.fusion.edits:
        edit.train(False)
    try:
        with torch.no_grad():
            return evaluate_attached(net, PROMPTS, features=features).output
    finally:
        net.context.fitting = fitting
        for edit in net.fusion.edits:
            edit.train(fitting)


class FitEnd(Technique):
    """Looks at the network once, when a fit has ended and is still attached."""

    id = "testing.fit_end"

    @hookimpl
    def extract(self, run: Run, moment: str) -> Features | None:
        """Look."""
        if moment == "finish":
            net = attached(run.backbone)  # type: ignore[attr-defined]
            assert net is not None
            _SEEN[self] = glance(net, run.features)
        return None

    def taken(self) -> Tensor:
        """Return what was seen."""
        seen: Tensor = _SEEN.pop(self)
        return seen


class StepWatch(Technique):
    """Keeps the losses and the batches of fit steps, and compares a step before and after."""

    id = "testing.step_watch"

    @hookimpl(wrapper=True)
    def regularize(self, step: FitStep) -> Generator[None, list[Any], list[Any]]:
        """Look at the step, let the others answer, look again."""
        record = _SEEN.setdefault(self, {"losses": [], "rows": [], "changed": []})
        tensors = _tensors(step)
        copies = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        results = yield
        for name, copy in copies.items():
            if not torch.equal(tensors[name].detach(), copy):
                record["changed"].append(name)
        for result in results:
            record["losses"] += [result] if hasattr(result, "value") else list(result)
        rows = (step.batch.captions, step.batch.roles, step.batch.latents.sum().item())
        masks = {k: v.sum().item() for k, v in step.masks.by_name.items()}
        record["rows"].append((*rows, masks, float(step.level.sigma.sum())))
        return results

    @property
    def losses(self) -> list[Loss]:
        """The losses of all steps."""
        return _SEEN.get(self, {}).get("losses", [])  # type: ignore[no-any-return]

    @property
    def rows(self) -> list[Any]:
        """Captions, roles, sums of latents, of masks and of levels of all steps."""
        return _SEEN.get(self, {}).get("rows", [])  # type: ignore[no-any-return]

    @property
    def changed(self) -> list[str]:
        """Names of the tensors that changed while the step was asked about."""
        return _SEEN.get(self, {}).get("changed", [])  # type: ignore[no-any-return]


def _tensors(step: FitStep) -> dict[str, Tensor]:
    cond = step.cond
    named = {
        "batch.latents": step.batch.latents,
        "noisy": step.noisy,
        "noise": step.noise,
        "cond.text": cond.text,
        "output": step.output,
        "error": step.error,
    }
    named |= {f"batch.regions[{k!r}]": v for k, v in step.batch.regions.items()}
    named |= {f"batch.extra[{k!r}]": v for k, v in step.batch.extra.items()}
    named |= {f"cond.extra[{k!r}]": v for k, v in cond.extra.items()}
    return named
