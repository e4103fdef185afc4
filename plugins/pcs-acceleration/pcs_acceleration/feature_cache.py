"""Features of the network's deep blocks are kept for some steps (DeepCache, arXiv:2312.00858, section 3.2).

In the steps between, only the blocks at the finest grid run: the first of the way down, and the last of the
way up, which reads the kept features of the block below it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from pcs_acceleration.memory import KeptModule, MemoryHead, memory_of
from pcs_core import Technique, hookimpl
from pcs_core.data import Fusion
from pcs_core.errors import CapabilityError

if TYPE_CHECKING:
    from collections.abc import Generator

    from pcs_core.data import Prediction, Run, SampleStep


class FeatureCache(Technique):
    """Run the deep blocks in every ``every``-th step only.

    Adapters stay alive: in each step those of the shallow blocks act on what they are given then, those
    of the deep blocks in the full steps. A step whose guidance branches or acting edits are not those of the
    kept step is a full one.
    """

    id = "acceleration.feature_cache"
    writes = ("head:acceleration.feature_cache",)
    neutral = {"every": 1}

    every: Annotated[int, Field(ge=1, le=1000)] = 3
    """Steps from one full evaluation to the next; 1 keeps nothing."""
    scale: Annotated[int, Field(ge=2)] = 2
    """Blocks whose grid is this many times coarser than the latents, or more, are kept."""
    start: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Part of the sampling before which every step is a full one, 0 = pure noise."""
    stop: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0
    """Part of the sampling from which on every step is a full one, 1 = the picture."""

    @hookimpl
    def fuse(self, run: Run) -> Fusion | None:
        """Wrap every deep block."""
        if self.every == 1:
            return None
        head = MemoryHead(self.id)
        sites = [site for site in run.sites("*", "block") if site.scale >= self.scale]
        if not sites:
            raise CapabilityError(
                f"{self.id}: this backbone names no blocks at a grid {self.scale} times coarser: "
                "use another scale, or leave the technique out"
            )
        kept = tuple(KeptModule(site, head.memory) for site in sites)
        return Fusion(edits=(*kept, head))

    @hookimpl(wrapper=True)
    def sample(
        self, run: Run, step: SampleStep
    ) -> Generator[None, Prediction | None, Prediction | None]:
        """Record in full steps, reuse between them."""
        memory = memory_of(run, self.id)
        if memory is None:
            return (yield)
        if step.index == 0:
            memory.forget()
        inside = self.start <= step.progress < self.stop
        facts = (step.acting, tuple(t for t in step.terms if t.start <= step.progress < t.stop))
        full = step.index % self.every == 0 or not inside or not memory.knows(*facts)
        memory.begin("record" if full else "reuse")
        memory.facts = facts
        try:
            return (yield)
        finally:
            memory.mode = "off"
