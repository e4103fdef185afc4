"""Claims about what is found without gradients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from pcs_checks.claims.general import values_of
from pcs_core.backbone import import_tensors
from pcs_core.data import TokenEdit
from pcs_core.data.check import CheckRow
from pcs_testing import build_fusion

if TYPE_CHECKING:
    from pcs_checks.observe import Observation


def searched(seen: Observation, *, candidates: int, phase: str = "") -> Iterator[CheckRow]:
    """Nothing asks for a gradient; each step tries ``candidates``, which its losses tell apart."""
    _ = seen.artifact
    name = phase or seen.recipe.phases[0].name
    steps = [s for s in seen.notes.steps if s.phase == name]
    asked = len(seen.notes.trained.get(name, frozenset()))
    yield CheckRow.compare(f"{name}: tensors that ask for a gradient", asked, "==", 0)
    tried = Counter(s.index for s in steps)
    parts = next(p.accumulate for p in seen.recipe.phases if p.name == name)
    wrong = sum(count != candidates * parts for count in tried.values())
    yield CheckRow.compare(f"{name}: steps", len(tried), ">", 0)
    yield CheckRow.compare(f"{name}: steps of other than {candidates} candidates", wrong, "==", 0)
    apart = [len(values_of(seen, s, term)) for s in steps[:1] for term in s.terms]
    yield CheckRow.compare(
        f"{name}: losses of the first step", max(apart, default=0), ">=", candidates
    )


@torch.no_grad()
def in_subspace(seen: Observation, *, use: str, dimensions: int) -> Iterator[CheckRow]:
    """A word of ``use`` is ``dimensions`` numbers along the principal directions of the token table."""
    stored = [t for n, t in seen.artifact.tensors.items() if n.startswith(f"{use}/")]
    wrong = sum(t.shape[-1] != dimensions for t in stored)
    yield CheckRow.compare("stored tensors of the word", len(stored), "==", 1)
    yield CheckRow.compare(f"of these, not of {dimensions} numbers a row", wrong, "==", 0)
    fusion = build_fusion(seen.recipe, [seen.subject(1)], seen.backbone)
    edits = [e for e in fusion.edits if isinstance(e, TokenEdit) and e.owner == use]
    yield CheckRow.compare(f"words of {use}", len(edits), "==", 1)
    if wrong or len(stored) != 1 or len(edits) != 1:
        return
    began = edits[0].vocabulary().clone()
    import_tensors(fusion, dict(seen.artifact.tensors))
    moved = (edits[0].vocabulary() - began)[0].double()
    table: Any = seen.backbone.embedding.weight
    away = table.detach().double() - table.detach().double().mean(0)
    _, _, directions = torch.linalg.svd(away, full_matrices=False)
    top = directions[:dimensions]
    size = float(moved.norm())
    yield CheckRow.compare("how far the word moved", size, ">", 1e-4)
    beside = float((moved - moved @ top.T @ top).norm()) / max(size, 1e-12)
    yield CheckRow.compare("share of it beside these directions", beside, "<=", 1e-4)
    shift = float((moved.norm(dim=-1) - stored[0].double().norm(dim=-1)).abs().max())
    yield CheckRow.compare("largest difference of its length from the numbers'", shift, "<=", 1e-4)
