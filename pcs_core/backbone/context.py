"""One context per attachment: the conditioning in force, and whether edits are off.

Edits inside the network find the conditioning here. Under gradient checkpointing the recompute runs
in backward, when the context has moved on: :class:`Restore` re-enters the one of that forward.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Conditioning, Edit


@dataclass
class Context:
    """What is in force during one call of the network.

    ``off`` gives the base network; ``edits`` globs over owners that act, comma between; ``record`` globs of
    attention sites whose maps go to ``tape``; ``spans`` [b n] by placeholder, ``subject`` [b],
    ``layer`` (of ``layers`` cross-attention sites) and ``reading`` serve the text encoder, ``instead`` the
    ``untuned`` of the token edits whose rows stand in the base's reading of a prompt; ``size`` (h, w) or
    (t, h, w) is that of the latents. ``group`` names the sequence edit whose tokens a layer is called for, and
    ``sequence`` is what a backbone knows of them during the call.
    """

    cond: Conditioning | None = None
    off: bool = False
    edits: str = "*"
    fitting: bool = False
    progress: float = 0.0
    record: tuple[str, ...] = ()
    tape: dict[str, Tensor] = field(default_factory=dict)
    spans: Mapping[str, Tensor] = field(default_factory=dict)
    subject: Tensor | None = None
    layer: int = 0
    layers: int = 1
    reading: int = 0
    instead: str = ""
    size: tuple[int, ...] = ()
    group: str = ""
    sequence: Any = None

    def acts(self, edit: Edit) -> bool:
        """True when ``edit`` is in force now."""
        if self.edits != "*" and not any(
            fnmatchcase(edit.owner, glob.strip()) for glob in self.edits.split(",")
        ):
            return False
        if edit.group and edit.group != self.group:
            return False
        if edit.mode != "both" and (edit.mode == "fit") != self.fitting:
            return False
        # a fit draws its noise levels at random: there, an edit with a part of the sampling trains at all
        if not self.fitting and (edit.start > 0.0 or edit.stop < 1.0):
            return edit.start <= self.progress < edit.stop or (
                edit.stop >= 1.0 and self.progress >= edit.start
            )
        return True

    def recorded(self, site: str, kind: str) -> bool:
        """True when the maps of this site were asked for, by name glob or by kind."""
        return any(fnmatchcase(site, glob) or glob == kind for glob in self.record)

    def state(self) -> dict[str, Any]:
        """Return what a recompute must find again."""
        return dict(vars(self))


class Restore:
    """Context manager that puts a context back to an earlier state, then to what it was."""

    def __init__(self, context: Context, state: Mapping[str, Any]) -> None:
        self.context, self.state = context, dict(state)
        self.before: dict[str, Any] = {}

    def __enter__(self) -> None:
        self.before = self.context.state()
        vars(self.context).update(self.state)

    def __exit__(self, *_: object) -> None:
        vars(self.context).update(self.before)
