"""Changes of the module tree that another library makes, and undoes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from pcs_core.edits.edit import Edit

if TYPE_CHECKING:
    from torch import nn

    from pcs_core.backbone.attach import Attachment


class InjectEdit(Edit):
    """A change of the module tree of ``part`` made by another library (peft), exactly undone.

    Its binding is :meth:`inject`; ``active(False)`` must give the base network.
    """

    STAGES = ("inject",)
    LISTED, BOUND, LARGE = 60, 20, True

    def __init__(self, part: str, name: str, **options: object) -> None:
        super().__init__(name, **options)  # type: ignore[arg-type]
        self.part = part

    @classmethod
    def bind(cls, edits: Sequence[InjectEdit], net: Attachment) -> None:
        """Let each change its part, in order, then settle all of them."""
        for edit in edits:
            root = net.backbone.parts[edit.part]
            net.undo(partial(edit.eject, root))
            edit.inject(root)
            net.switch(edit, edit.active)
        for edit in edits:
            edit.settle()

    def exclusive(self) -> Iterable[tuple[str, str]]:
        """Return the weights of the layers that it declares in ``claims``."""
        return [(place, "weight") for place in self.claims]

    def stage(self) -> str:
        """Return ``"inject"``."""
        return "inject"

    def inject(self, root: nn.Module) -> None:
        """Change ``root``."""
        raise NotImplementedError

    def eject(self, root: nn.Module) -> None:
        """Restore ``root``: modules, keys, order, ``requires_grad``."""
        raise NotImplementedError

    def active(self, on: bool) -> None:
        """Switch the change on or off without touching the tree."""
        raise NotImplementedError

    def settle(self) -> None:
        """Called on every injected edit after the last injection (a later one may silence it)."""
