"""What modules of the network said in one step, kept for later steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from pcs_core.data import HeadEdit, WeightEdit

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Conditioning, Run, Site

Mode = Literal["off", "record", "reuse"]


class Memory:
    """Results by module and by call within a step; ``facts`` say under which they were made.

    A step may call the network several times (guidance of other edits): the k-th call of a later step
    meets what the k-th call said.
    """

    def __init__(self) -> None:
        self.mode: Mode = "off"
        self.facts: tuple[Any, ...] = ()
        self.said: dict[tuple[str, int], Any] = {}
        self._calls: dict[str, int] = {}

    def begin(self, mode: Mode) -> None:
        """Begin a step in ``mode``; recording forgets what was kept."""
        self.mode = mode
        self._calls.clear()
        if mode == "record":
            self.said.clear()

    def forget(self) -> None:
        """Keep nothing."""
        self.begin("off")
        self.said.clear()
        self.facts = ()

    def next_call(self, name: str) -> tuple[str, int]:
        """Return the key of this call of the module ``name``."""
        count = self._calls.get(name, 0)
        self._calls[name] = count + 1
        return name, count

    def knows(self, *facts: Any) -> bool:
        """Return whether what is kept was made under ``facts``: tensors must be the same object."""
        return len(facts) == len(self.facts) and all(
            a is b or (isinstance(a, tuple) and a == b)
            for a, b in zip(facts, self.facts, strict=True)
        )


class MemoryHead(HeadEdit):
    """Where the hook of a step finds the memory that the edits of its technique write to."""

    ACROSS_STEPS = True

    def __init__(self, name: str) -> None:
        super().__init__(name, mode="sample")
        self.memory = Memory()


def memory_of(run: Run, name: str) -> Memory | None:
    """Return the memory of the head ``name``, None where nothing was plugged in."""
    head: Any = run.heads.get(name)
    return None if head is None else head.memory


class KeptModule(WeightEdit):
    """Wraps one module: runs it, or says again what it said. It acts outside of a step's mode not at all.

    ``fit`` decides whether what is kept serves ``rows`` rows: by default if it has as many.
    """

    ACROSS_STEPS = True

    def __init__(self, site: Site, memory: Memory) -> None:
        super().__init__(site, mode="sample")
        self.memory = memory

    def fit(self, kept: Any, rows: int) -> Any | None:
        """Return what is said again for ``rows`` rows, or None: then the module runs."""
        first = kept[0] if isinstance(kept, tuple) else kept
        return kept if first.shape[0] == rows else None

    def call(
        self, layer: Callable[[Tensor], Tensor], x: Tensor, cond: Conditioning | None
    ) -> Tensor:
        """Run ``layer``, and keep what it says where the step records."""
        if self.memory.mode == "off":
            return layer(x)
        key = self.memory.next_call(self.name)
        if self.memory.mode == "reuse" and key in self.memory.said:
            again = self.fit(self.memory.said[key], x.shape[0])
            if again is not None:
                return again  # type: ignore[no-any-return]
        said = self.memory.said[key] = layer(x)
        return said
