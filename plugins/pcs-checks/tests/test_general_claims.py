"""The claims of every system fail on a system that is broken where they look."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from pcs_checks.claims import general
from pcs_checks.observe import Observation
from pcs_checks.variant import load
from pcs_core.data import CheckRow
from pcs_testing import brief_settings

Claim = Callable[[Observation], Iterator[CheckRow]]


def observed(system: str = "lora-dreambooth", *more: str) -> Observation:
    """Return an observation of a brief fit."""
    return Observation(load(system, overrides=[*brief_settings(load(system)), *more]))


def failing(claim: Claim, seen: Observation) -> list[str]:
    return [row.name for row in claim(seen) if not row.holds]


@pytest.mark.parametrize("claim", general.GENERAL, ids=lambda c: c.__name__)
def test_holds_on_what_is_whole(claim: Claim) -> None:
    assert failing(claim, observed()) == []


def test_an_optimizer_that_does_not_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, *_: None)
    assert failing(general.globs_move, observed()) == ["tune: `train` globs that nothing moved"]


def test_what_moves_without_being_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    from pcs_core.backbone import trainable
    from pcs_core.backbone.attach import attached

    seen = observed("custom-diffusion", 'tune.train=["weights.kv/*"]')
    step = torch.optim.AdamW.step

    def and_another(self: Any, *arguments: Any) -> Any:
        net = attached(seen.backbone)
        assert net is not None
        for name, param in trainable(net.fusion).items():
            if name.startswith("tokens."):
                param.data.add_(1.0)
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", and_another)
    assert failing(general.globs_move, seen) == ["tune: tensors that moved unasked"]


def test_a_network_that_does_not_come_back() -> None:
    seen = observed()
    _ = seen.picture
    weight = next(seen.backbone.parts["denoiser"].parameters())
    with torch.no_grad():
        weight.add_(1e-3)
        assert failing(general.base_untouched, seen) == ["tensors of the network that changed"]
        weight.sub_(1e-3)


def test_a_stored_tensor_that_nothing_reads() -> None:
    seen = observed()
    seen.artifact.features  # noqa: B018  # fitted before it is changed
    name = next(n for n in seen.artifact.tensors if n.endswith("/B"))
    silent = dict(seen.artifact.tensors)
    silent[name[:-1] + "A"] = torch.zeros_like(silent[name[:-1] + "A"])
    seen.__dict__["artifact"] = general.with_tensors(seen.artifact, silent)
    assert failing(general.owned_matter, seen) == ["stored tensors that change no pixel"]


def test_phases_in_another_order() -> None:
    seen = observed("break-a-scene")
    _ = seen.artifact
    seen.notes.steps.reverse()
    assert failing(general.phases_in_order, seen) == ["phases out of order"]


def test_a_loss_that_reaches_nothing() -> None:
    seen = observed("dreambooth", "regularizers.prior_preservation.weight=0.0")
    assert failing(general.terms_reach, seen) == ["tune: losses that reach nothing"]


def test_a_role_that_is_not_drawn() -> None:
    seen = observed("dreambooth")
    _ = seen.artifact
    for step in seen.notes.steps:
        step.roles = ("subject", "subject")
    assert failing(general.roles_used, seen) == ["tune: steps with other rows than its batch"]


def test_a_picture_that_differs_at_the_same_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = observed()
    first = seen.picture
    monkeypatch.setattr(Observation, "draw", lambda self, *_, **__: first + 0.1)
    assert failing(general.deterministic, seen) == ["pixels that differ at the same seed"]
