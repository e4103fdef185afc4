"""Owned parameters in place of the network's own."""

from __future__ import annotations

from torch import nn


class Swap:
    """Owned parameters in place of the network's own, by pointer: restoring is exact."""

    def __init__(self, root: nn.Module, targets: dict[str, nn.Parameter]) -> None:
        self.entries: list[tuple[nn.Module, str, nn.Parameter, nn.Parameter]] = []
        for path, own in targets.items():
            parent_path, _, name = path.rpartition(".")
            parent = root.get_submodule(parent_path)
            base = parent._parameters[name]
            assert base is not None
            self.entries.append((parent, name, base, own))

    def put(self, own: bool) -> None:
        """Put the owned parameters in (True) or the base's back (False)."""
        for parent, name, base, mine in self.entries:
            parent._parameters[name] = mine if own else base
