"""Cross-attention is asked no more after a gate step, and guidance ends there (T-GATE, arXiv:2404.02747, 4).

At the gate each cross-attention module's output is kept, the mean of the negative and the positive
branch; from then on it stands in for the module, which does not run.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from pcs_acceleration.memory import KeptModule, MemoryHead, memory_of
from pcs_acceleration.terms import without_negative
from pcs_core import Technique, hookimpl
from pcs_core.data import Branch, Fusion
from pcs_core.errors import CapabilityError

if TYPE_CHECKING:
    from collections.abc import Generator

    from pcs_core.data import Prediction, Run, SampleStep


class KeptAttention(KeptModule):
    """One cross-attention module. What adapters add at its site is part of what is kept."""

    def fit(self, kept: Any, rows: int) -> Any | None:
        """Return the mean over the branches that the gate step had [rows ...]."""
        if kept.shape[0] % rows:
            return None
        return kept.unflatten(0, (-1, rows)).mean(0)


class CrossAttentionGate(Technique):
    """Keep what cross-attention says at the gate, and drop its work and the negative branch afterwards.

    Where the conditioning or the set of edits that act changes after the gate (delayed conditioning, words
    per noise level), cross-attention is asked again in that step: no adapter is lost.
    """

    id = "acceleration.cross_attention_gate"
    writes = ("head:acceleration.cross_attention_gate",)
    neutral = {"gate": 1.0}

    gate: Annotated[float, Field(ge=0.0, le=1.0)] = 0.4
    """Part of the sampling at which outputs are kept (the paper's 10 of 25 steps); 1 is never."""
    sites: str = "cross"
    """Globs of the attention sites that are kept."""

    @hookimpl
    def fuse(self, run: Run) -> Fusion | None:
        """Wrap every cross-attention module."""
        if self.gate >= 1.0:
            return None
        head = MemoryHead(self.id)
        sites = [s for s in run.sites(self.sites) if s.kind == "cross"]
        if not sites:
            raise CapabilityError(f"{self.id}: no cross-attention site matches {self.sites!r}")
        kept = tuple(KeptAttention(site, head.memory) for site in sites)
        return Fusion(edits=(*kept, head))

    @hookimpl(wrapper=True)
    def sample(
        self, run: Run, step: SampleStep
    ) -> Generator[None, Prediction | None, Prediction | None]:
        """Record at the gate, reuse after it."""
        memory = memory_of(run, self.id)
        gate = math.ceil(self.gate * step.count - 1e-9)
        if memory is None or step.index < gate:
            if memory is not None:
                memory.forget()
            return (yield)
        other = [b.edits for t in step.terms for b in (t.plus, t.minus) if b.edits != "*"]
        if other:
            raise CapabilityError(
                f"{self.id}: a guidance term evaluates the network with the edits {other[0]!r} alone, "
                "whose cross-attention cannot be told from the rest's: leave it out"
            )
        if step.index > gate:
            step.terms = without_negative(step.terms)
        facts = (step.acting, step.branch(Branch()).text)
        known = step.index > gate and memory.knows(*facts)
        memory.begin("reuse" if known else "record")
        memory.facts = facts
        try:
            return (yield)
        finally:
            memory.mode = "off"
