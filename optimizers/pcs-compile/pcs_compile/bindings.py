"""What an attachment bound, in the form that a compiled region can be reused for another artifact.

Dynamo guards a callable object that stands as a layer's ``forward`` by its identity, so every artifact
would be compiled anew. A bound method is guarded by what it reads: types, shapes and plain settings.
Which edits act in a step is decided outside of the compiled regions, by what the lists hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pcs_core.backbone import Context

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import nn

    from pcs_core.backbone import AttentionChain
    from pcs_core.data import Edit


class Acting(Context):
    """A context in which every edit that is still in a list acts, and no map is recorded."""

    def acts(self, edit: Edit) -> bool:
        """Return True: edits that do not act are taken out of the lists before."""
        return True

    def recorded(self, site: str, kind: str) -> bool:
        """Return False: recording is refused before."""
        return False


class Bindings:
    """The chains on attention sites and layers of the denoiser under one attachment.

    Attributes
    ----------
    context
        The attachment's own: what is in force now, None where nothing is attached.
    acting
        What the compiled regions read in its place.
    edits
        All edits bound in the denoiser.
    """

    def __init__(self, denoiser: nn.Module, chains: Mapping[str, AttentionChain]) -> None:
        self.context: Context | None = next((c.context for c in chains.values()), None)
        self.acting = Acting()
        self.layers: list[tuple[nn.Module, Any]] = [
            (module, bound)
            for module in denoiser.modules()
            if hasattr(bound := vars(module).get("forward"), "stages")
        ]
        self._holders: list[Any] = [*chains.values(), *(bound for _, bound in self.layers)]
        self.lists: list[tuple[list[Any], tuple[Edit, ...]]] = [
            (edits, tuple(edits))
            for holder in self._holders
            for edits in holder.stages.values()
            if edits
        ]
        self.edits = [edit for _, whole in self.lists for edit in whole]
        for module, bound in self.layers:
            object.__setattr__(module, "forward", bound.__call__)
        for holder in self._holders:
            holder.context = self.acting

    def undo(self) -> None:
        """Put back what the attachment bound."""
        self.select(self.edits)
        for holder in self._holders:
            holder.context = self.context
        for module, bound in self.layers:
            object.__setattr__(module, "forward", bound)

    def select(self, edits: list[Edit]) -> None:
        """Leave only ``edits`` in the lists."""
        ids = {id(edit) for edit in edits}
        for active, whole in self.lists:
            active[:] = [edit for edit in whole if id(edit) in ids]

    def in_force(self) -> list[Edit]:
        """Return the edits that act now."""
        context = self.context
        if context is None or context.off:
            return []
        return [edit for edit in self.edits if context.acts(edit)]

    def enter(self) -> list[Edit]:
        """Make the compiled regions see what is in force; return the edits that act."""
        acting = self.in_force()
        self.select(acting)
        assert self.context is not None
        vars(self.acting).update(
            self.context.state()
            | {"off": False, "edits": "*", "progress": 0.0, "fitting": False, "record": ()}
        )
        return acting


def owners(edits: list[Edit]) -> str:
    """Return the names of the uses that ``edits`` belong to, for messages."""
    return ", ".join(sorted({repr(edit.owner) for edit in edits})) or "no use"


def own_tensors(edit: Edit) -> Iterator[tuple[nn.Module, dict[str, Any], str]]:
    """Yield the module, its table and the name of each parameter and buffer registered in ``edit``."""
    for module in edit.modules():
        for table in (module._parameters, module._buffers):
            for name, value in table.items():
                if value is not None:
                    yield module, table, name


def restorer(entries: list[tuple[dict[str, Any], str, Any]]) -> Callable[[], None]:
    """Return what puts tensors back where ``entries`` took them from."""

    def undo() -> None:
        for table, name, value in entries:
            table[name] = value

    return undo
