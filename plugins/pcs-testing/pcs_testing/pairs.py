"""Two techniques in one run: neither disturbs the other, or they are refused by both names."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.backbone import Attachment, trainable
from pcs_core.data import TokenEdit
from pcs_core.errors import ConflictError
from pcs_testing.fixtures import build, evaluate_attached, make_recipe, make_subject

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Features, Fusion
    from pcs_core.technique import Technique
    from pcs_testing.case import Case

PROMPTS = ("a photo of a dog", "a red toy on the beach")
_ALONE: dict[tuple[Any, ...], Tensor] = {}


def check_pair(first: Case, second: Case) -> bool:
    """Try two techniques in one run, each once at work beside the other at its neutral setting.

    What the one at work says must not change by a bit. Returns False where a conflict refused them.

    Raises
    ------
    AssertionError
        One disturbs the other, or the conflict names fewer than two uses.
    """
    if first.technique.id in second.beside or second.technique.id in first.beside:
        return True  # one needs the other: the contract tries them together
    for at_work, idle in ((first, second), (second, first)):
        shared = {**at_work.named_others(), **idle.named_others()}
        active, quiet = at_work.make(), idle.make(**(idle.technique.neutral or {}))
        alone = {**shared, active.id: active}
        both = {**shared, active.id: active, quiet.id: quiet}
        # without a neutral setting, what it starts at is the base
        still = quiet.id if idle.technique.neutral is None else ""
        try:
            together, said = _output(at_work, both, still)
        except ConflictError as error:
            named = [use for use in both if repr(use) in str(error)]
            assert len(named) == 2, f"the conflict does not name both uses: {error}"
            return False
        # a word with another meaning is no disturbance: prompts then leave the subject out
        speaks = any(e.owner == quiet.id for e in together.of(TokenEdit)) or together.words
        prompts = PROMPTS if speaks else (*PROMPTS, at_work.prompt())
        before = _alone(at_work, alone, prompts)
        moved = (before - _look(at_work, together, said, prompts)).abs()
        assert float(moved.max()) == 0.0, (
            f"{quiet.id!r} at its neutral setting changes what {active.id!r} does by "
            f"{float(moved.max()):.3g}"
        )
    return True


def _alone(case: Case, uses: dict[str, Technique], prompts: tuple[str, ...]) -> Tensor:
    """Return the output of uses without a second technique: computed once, for all that come beside them."""
    key = (case.backbone, tuple((name, repr(use)) for name, use in uses.items()), prompts)
    if key not in _ALONE:
        fusion, features = _output(case, uses)
        _ALONE[key] = _look(case, fusion, features, prompts)
    return _ALONE[key]


def _output(case: Case, uses: dict[str, Technique], still: str = "") -> tuple[Fusion, Features]:
    fusion, features = build(make_recipe(uses), [make_subject()], case.open())
    _perturb(fusion, still)
    return fusion, features


@torch.no_grad()
def _perturb(fusion: Fusion, still: str) -> None:
    """Move every parameter, but those of the use ``still``, by noise that depends on its name alone."""
    for name, param in trainable(fusion).items():
        if still and name.startswith(f"{still}/"):
            continue
        rng = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        param.add_(0.05 * torch.randn(param.shape, generator=rng).to(param))


def _look(case: Case, fusion: Fusion, features: Features, prompts: tuple[str, ...]) -> Tensor:
    with torch.no_grad(), Attachment(case.open(), fusion) as net:
        return evaluate_attached(net, prompts, features=features).output
