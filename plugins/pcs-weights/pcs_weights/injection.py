"""peft's change of a module tree as one edit: made at construction, injected, exactly undone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.data import InjectEdit, StandIn, stand_in

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pcs_core.data import Site


class ByPlace(StandIn):
    """Stands in for the ``forward`` of a layer that peft made, whose input may be given by a name.

    diffusers' motion modules (AnimateDiff) give ``proj_in`` and ``proj_out`` theirs by torch's name of it, and
    in peft's layers it has another.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the layer."""
        if not args:
            args = (kwargs.pop(next(iter(kwargs))),)
        return self.base(*args, **kwargs)


class Injected(InjectEdit):
    """One peft adapter in one part of the network.

    Parameters are listed by reference under ``"<layer>/<peft name>"``; they exist from construction,
    made on a detached skeleton of the layers, and move into the network at :meth:`inject`.
    """

    def __init__(
        self,
        part: str,
        sites: tuple[Site, ...],
        root: nn.Module,
        config: Any,
        seed: int,
        adjust: Callable[[Any], None] | None = None,
    ) -> None:
        # ``adjust`` is called with each wrapper that peft made: what peft knows no setting for, layer by layer
        super().__init__(part, f"peft-{part}")
        self.sites, self.config, self.seed, self.adjust = sites, config, seed, adjust
        self.claims = tuple(str(site) for site in sites)
        self.adapter = "pcs"
        self._layers: list[tuple[str, Any]] = []
        self._root = [root]
        self._grads: dict[str, bool] = {}
        self._values: dict[str, Tensor] = {}
        self.inject(root)
        self.eject(root)

    def inject(self, root: nn.Module) -> None:
        """Wrap the layers; bring the trained values back if there are some."""
        from peft import inject_adapter_in_model
        from peft.tuners.tuners_utils import BaseTunerLayer

        self._grads = {name: p.requires_grad for name, p in root.named_parameters()}
        others = {id(m) for m in root.modules() if isinstance(m, BaseTunerLayer)}
        with torch.random.fork_rng(devices=[]):  # peft draws from the global generator
            torch.manual_seed(self.seed)
            inject_adapter_in_model(self.config, root, adapter_name=self.name_of(root))
        self._layers = [
            (name, module)
            for name, module in root.named_modules()
            if isinstance(module, BaseTunerLayer) and id(module) not in others
        ]
        for _, layer in self._layers:
            stand_in(layer, ByPlace(layer))  # gone with the layer
            if self.adjust is not None:
                self.adjust(layer)
        if self._values:
            self._adopt()
        else:
            self._values = dict(self._named())
            for parameter in self._values.values():
                parameter.data = parameter.data.float()

    def name_of(self, root: nn.Module) -> str:
        """Return this use's adapter name (dots are not allowed in module names)."""
        return (self.owner or self.adapter).replace(".", "_")

    def _named(self) -> list[tuple[str, Any]]:
        named = []
        for name, layer in self._layers:
            base = layer.get_base_layer()
            base_ids = {id(p) for p in base.parameters()}
            for path, parameter in layer.named_parameters():
                if id(parameter) not in base_ids:
                    parts = [q for q in path.split(".") if q not in ("pcs", self.name_of(layer))]
                    named.append((f"{name}/{'.'.join(parts)}", parameter))
        return named

    def _adopt(self) -> None:
        """Put the parameters made at construction in place of those peft just drew."""
        for name, layer in self._layers:
            base = {id(p) for p in layer.get_base_layer().parameters()}
            for module in layer.modules():
                for key, parameter in list(module._parameters.items()):
                    if parameter is None or id(parameter) in base:
                        continue
                    path = next(p for p, q in layer.named_parameters() if q is parameter)
                    parts = [q for q in path.split(".") if q not in ("pcs", self.name_of(layer))]
                    module._parameters[key] = self._values[f"{name}/{'.'.join(parts)}"]

    def eject(self, root: nn.Module) -> None:
        """Put the base layers back, outermost wrapper first, and restore ``requires_grad``."""
        for name, layer in self._layers:
            parent_name, _, child = name.rpartition(".")
            setattr(root.get_submodule(parent_name), child, layer.get_base_layer())
        self._layers = []
        if hasattr(root, "peft_config"):
            delattr(root, "peft_config")
        for name, parameter in root.named_parameters():
            parameter.requires_grad_(self._grads.get(name, False))

    def active(self, on: bool) -> None:
        """Enable or disable the adapters of this use."""
        flags = [(p, p.requires_grad) for p in self._values.values()]
        for _, layer in self._layers:
            layer.enable_adapters(on)  # sets requires_grad of all it switches
        for parameter, flag in flags:
            parameter.requires_grad_(flag)

    def settle(self) -> None:
        """Make every adapter of each layer active: the last injection silences the others."""
        for _, layer in self._layers:
            layer.set_adapter([self.name_of(layer)])
        for parameter in self._values.values():
            parameter.requires_grad_(True)

    def owned(self) -> Mapping[str, Tensor]:
        """Return the adapter's parameters by layer."""
        return self._values
