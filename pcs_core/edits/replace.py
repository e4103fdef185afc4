"""Edits whose parameters stand in for the network's own (full fine-tuning)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

from pcs_core.edits.edit import Edit

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.backbone.attach import Attachment


class ReplaceEdit(Edit):
    """Owned parameters that stand in for a part's own while attached (full fine-tuning).

    ``targets`` maps a parameter path inside ``part`` to the owned parameter. Attaching swaps
    pointers, so restoring is exact by construction and nothing recompiles.
    """

    STAGES = ("replace",)
    LISTED, BOUND, LARGE = 50, 10, True

    def __init__(self, part: str, base: Mapping[str, nn.Parameter], **options: object) -> None:
        super().__init__(part, **options)  # type: ignore[arg-type]
        self.part = part
        self.base = dict(base)
        self.paths = tuple(base)
        self.values = nn.ParameterList(
            [nn.Parameter(p.detach().to(torch.float32).clone()) for p in base.values()]
        )

    @classmethod
    def bind(cls, edits: Sequence[ReplaceEdit], net: Attachment) -> None:
        """Put the owned parameters in: first of all, for an injection moves the paths of parameters."""
        pairs = [
            (edit, Replacement(net.backbone.parts[edit.part], edit.targets())) for edit in edits
        ]
        for edit, replacement in pairs:
            replacement.put(True)
            net.undo(partial(replacement.put, False))
            net.switch(edit, replacement.put)

    def exclusive(self) -> Iterable[tuple[str, str]]:
        """Return the weights of the layers whose parameters it replaces."""
        return [(f"{self.part}:{path.rpartition('.')[0]}", "weight") for path in self.paths]

    def stage(self) -> str:
        """Return ``"replace"``: there is nothing to override."""
        return "replace"

    def targets(self) -> Mapping[str, nn.Parameter]:
        """Return parameter path -> owned parameter."""
        return dict(zip(self.paths, self.values, strict=True))

    def owned(self) -> Mapping[str, Tensor]:
        """Return the owned parameters under their paths in the network."""
        return self.targets()

    def stored(self, key: str, tensor: Tensor, subject: int = 0) -> Tensor:
        """Return the difference W' - W0, fp32."""
        return tensor.detach().float() - self.base[key].detach().float()

    def restored(self, key: str, value: Tensor) -> Tensor:
        """Return W' from the difference."""
        return value + self.base[key].detach().float()


class Replacement:
    """Owned parameters in place of the network's own, by pointer: restoring is exact."""

    def __init__(self, root: nn.Module, targets: Mapping[str, nn.Parameter]) -> None:
        self.entries: list[tuple[nn.Module, str, nn.Parameter, nn.Parameter]] = []
        for path, param in targets.items():
            parent_path, _, name = path.rpartition(".")
            parent = root.get_submodule(parent_path)
            base = parent._parameters[name]
            assert base is not None
            self.entries.append((parent, name, base, param))

    def put(self, owned: bool) -> None:
        """Put the owned parameters in (True) or the base's back (False)."""
        for parent, name, base, mine in self.entries:
            parent._parameters[name] = mine if owned else base
