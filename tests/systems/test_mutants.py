"""A defining check fails where its method is broken in the code, not only where a setting leaves a part out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pcs_checks.run import find
from pcs_core.data import Example, Loss

pytestmark = pytest.mark.slow

Patch = Callable[[pytest.MonkeyPatch], None]


def no_gate(patch: pytest.MonkeyPatch) -> None:
    """Targets are put in place at full strength for every word."""
    from pcs_weights.rank_one import Gate

    patch.setattr(Gate, "__call__", lambda self, s, cond, training: torch.ones_like(s))


def key_of_the_word(patch: pytest.MonkeyPatch) -> None:
    """The key is locked to what the learned word says, not to the class."""
    from pcs_weights.rank_one import ConceptInput

    point = ConceptInput.point

    def follow(self: Any) -> None:
        point(self)
        self.superclass.copy_(self.input)

    patch.setattr(ConceptInput, "point", follow)


def no_statistics(patch: pytest.MonkeyPatch) -> None:
    """C^-1 is the identity."""
    import pcs_weights.key_locked as module

    def identity(run: Any, captions: Any, ridge: float) -> torch.Tensor:
        return torch.eye(run.text_width, dtype=torch.float64)

    patch.setattr(module, "inverse_moment", identity)


def exchanged(patch: pytest.MonkeyPatch) -> None:
    """Keys get what is meant for values, and the other way round."""
    from pcs_weights.rank_one import KeyLocked

    qkv = KeyLocked.qkv

    def swapped(self: Any, state: Any, cond: Any) -> Any:
        k, v = state.k, state.v
        state = qkv(self, state, cond)
        state.k, state.v = k + (state.v - v), v + (state.k - k)
        return state

    patch.setattr(KeyLocked, "qkv", swapped)


def own_prompt(patch: pytest.MonkeyPatch) -> None:
    """Keys are made of the concept's own prompt."""
    from pcs_weights.rank_one import SuperCategory

    patch.setattr(SuperCategory, "untuned", "")


def no_relu(patch: pytest.MonkeyPatch) -> None:
    """Singular values may become negative."""
    from pcs_weights.svd import SpectralShift

    def weight(self: Any, weight: torch.Tensor) -> torch.Tensor:
        delta = (self.left * (self.strength * self.shift)) @ self.right
        return weight + delta.reshape(weight.shape)

    patch.setattr(SpectralShift, "weight", weight)


def no_prior(patch: pytest.MonkeyPatch) -> None:
    """The class term is gone."""
    from pcs_regularizers.prior_preservation import PriorPreservation

    regularize = PriorPreservation.regularize

    def gone(self: Any, step: Any) -> Any:
        term = regularize(self, step)
        return Loss(term.name, term.value * 0.0, weight=term.weight, rows=term.rows)

    gone.__dict__.update(regularize.__dict__)
    patch.setattr(PriorPreservation, "regularize", gone)


def summed_prior(patch: pytest.MonkeyPatch) -> None:
    """The class term is a sum over elements."""
    from pcs_regularizers.prior_preservation import PriorPreservation

    regularize = PriorPreservation.regularize

    def summed(self: Any, step: Any) -> Any:
        term = regularize(self, step)
        value = step.error.flatten(1).sum(1)
        return Loss(term.name, value, weight=term.weight, rows=term.rows)

    summed.__dict__.update(regularize.__dict__)
    patch.setattr(PriorPreservation, "regularize", summed)


def class_told_as_subject(patch: pytest.MonkeyPatch) -> None:
    """Class pictures have the subject's caption."""
    from pcs_regularizers.prior_preservation import PriorPreservation

    examples = PriorPreservation._examples

    def captioned_as_subject(self: Any, run: Any, noun: str) -> list[Example]:
        return [e.with_(captions=("a photo of {token}",)) for e in examples(self, run, noun)]

    patch.setattr(PriorPreservation, "_examples", captioned_as_subject)


def no_size_words(patch: pytest.MonkeyPatch) -> None:
    """Nobody says that a picture was made smaller or larger."""
    from pcs_data.augment import Augment

    patch.setattr(Augment, "_told", lambda self, factor, captions: captions)


def ground_counts(patch: pytest.MonkeyPatch) -> None:
    """The ground around a smaller picture is learned too."""
    import pcs_data.augment as module

    patch.setattr(module, "loss_where_valid", lambda query, region: None)


def not_divided(patch: pytest.MonkeyPatch) -> None:
    """The error is summed over the picture and divided by all cells."""
    import pcs_data.augment as module

    whole = module.loss_where_valid

    def masked(query: Any, region: str) -> Any:
        masks = whole(query, region)
        if masks is None:
            return None
        return type(masks)({k: (v > 0).float() for k, v in masks.by_name.items()})

    patch.setattr(module, "loss_where_valid", masked)


def no_projection(patch: pytest.MonkeyPatch) -> None:
    """Rotations are held by nothing."""
    from peft.tuners.oft.layer import OFTRotationModule

    patch.setattr(OFTRotationModule, "_project_batch", lambda self, q, eps=1e-5: q)


def pefts_radius(patch: pytest.MonkeyPatch) -> None:
    """The radius is peft's, whatever a block's size."""
    import pcs_weights.parameterised as module

    patch.setattr(module, "widen", lambda layer, eps: None)


def twice_the_blocks(patch: pytest.MonkeyPatch) -> None:
    """Each layer has eight rotations."""
    import peft

    config = peft.OFTConfig
    patch.setattr(peft, "OFTConfig", lambda r, **more: config(r=2 * r, **more))


MUTANTS: list[tuple[str, Patch]] = [
    ("perfusion", no_gate),
    ("perfusion", key_of_the_word),
    ("perfusion", no_statistics),
    ("perfusion", exchanged),
    ("perfusion", own_prompt),
    ("svdiff", no_relu),
    ("svdiff", no_prior),
    ("svdiff", summed_prior),
    ("svdiff", class_told_as_subject),
    ("custom-diffusion", no_prior),
    ("custom-diffusion", summed_prior),
    ("custom-diffusion", class_told_as_subject),
    ("custom-diffusion", no_size_words),
    ("custom-diffusion", ground_counts),
    ("custom-diffusion", not_divided),
    ("oft", no_projection),
    ("oft", pefts_radius),
    ("oft", twice_the_blocks),
    ("oft", no_prior),
    ("oft", summed_prior),
    ("oft", class_told_as_subject),
]


@pytest.mark.parametrize(
    ("system", "mutant"), MUTANTS, ids=[f"{s}-{m.__name__}" for s, m in MUTANTS]
)
def test_a_check_fails_on_a_broken_method(
    system: str, mutant: Patch, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant(monkeypatch)
    report = find(system).run()
    broken = [row for row in report.rows if not row.holds]
    assert broken, f"{system} passes with {mutant.__doc__}"
    assert not any(row.name.startswith("refused") for row in broken), broken
