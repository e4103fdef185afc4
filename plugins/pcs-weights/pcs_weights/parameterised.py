"""Every other parameterisation, through peft.

LoRA (arXiv:2106.09685), rsLoRA (arXiv:2312.03732), DoRA (arXiv:2402.09353), LoHa (FedPara,
arXiv:2108.06098), LoKr (LyCORIS, arXiv:2309.14859), OFT (arXiv:2306.07280), BOFT
(arXiv:2311.06243).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field

from pcs_core import Technique, hookimpl
from pcs_core.data import Fusion, InjectEdit
from pcs_core.errors import CapabilityError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pcs_core.data import Run, Site

Kind = Literal["lora", "rslora", "dora", "loha", "lokr", "oft", "boft"]


class Injected(InjectEdit):
    """One peft adapter in one part of the network.

    Parameters are listed by reference under ``"<layer>/<peft name>"``; they exist from construction,
    made on a detached skeleton of the layers, and move into the network at :meth:`inject`.
    """

    def __init__(
        self, part: str, sites: tuple[Site, ...], root: nn.Module, config: Any, seed: int
    ) -> None:
        super().__init__(part, f"peft-{part}")
        self.sites, self.config, self.seed = sites, config, seed
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
        found = []
        for name, layer in self._layers:
            base = layer.get_base_layer()
            own = {id(p) for p in base.parameters()}
            for path, parameter in layer.named_parameters():
                if id(parameter) not in own:
                    parts = [q for q in path.split(".") if q not in ("pcs", self.name_of(layer))]
                    found.append((f"{name}/{'.'.join(parts)}", parameter))
        return found

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


class Peft(Technique):
    """One of peft's parameterisations on chosen linear layers."""

    id = "weights.peft"
    catalogue = ("oft", "lokr-loha")
    stacks_subjects = False

    kind: Kind = "dora"
    """Which parameterisation."""
    rank: Annotated[int, Field(ge=1, le=1024)] = 4
    """Rank, or block size for oft and boft."""
    alpha: Annotated[float, Field(gt=0.0)] | None = None
    """Numerator of the scale, the rank when not given."""
    sites: str = "*.to_q|*.to_k|*.to_v|*.to_out.0"
    """Globs over layer names, joined by ``|``."""
    part: Literal["denoiser", "text"] = "denoiser"
    """Which network gets it."""
    convolutions: bool = False
    """Whether matching convolutions take part."""
    blocks: Annotated[int, Field(ge=1)] | None = None
    """Number of rotations along the diagonal (oft); the block size, then, is not ``rank``."""
    block_share: bool = False
    """Whether all blocks of a layer are one rotation (oft)."""
    coft: bool = False
    """Whether each rotation stays near the identity (oft): COFT, section 3.2 of the paper."""
    eps: Annotated[float, Field(ge=0.0)] = 6e-5
    """Largest norm of the skew-symmetric generator under ``coft``, before peft divides it by
    the square root of the number of blocks; 0 allows no rotation."""

    @hookimpl
    def fuse(self, run: Run) -> Fusion | None:
        """Make the peft configuration and its edit."""
        kinds = ("linear", "conv") if self.convolutions else ("linear",)
        sites = tuple(s for s in run.sites(self.sites, "*", self.part) if s.kind in kinds)
        if not sites:
            raise CapabilityError(
                f"{self.id}: no layer of part {self.part!r} matches {self.sites!r}"
            )
        if self.kind == "oft" and any(len(s.shape) == 4 and s.shape[-1] > 1 for s in sites):
            raise CapabilityError(
                f"{self.id}: oft is not a no-op on convolutions with a kernel above 1 (peft 0.21): "
                "use kind = 'boft' or leave convolutions out"
            )
        root = run.backbone.parts[self.part]  # type: ignore[attr-defined]
        seed = run.init_rng(0, self.id).initial_seed() % 2**31
        return Fusion(injections=(Injected(self.part, sites, root, self._config(sites), seed),))

    def _config(self, sites: tuple[Site, ...]) -> Any:
        import peft

        targets = [s.name for s in sites]
        alpha = self.rank if self.alpha is None else self.alpha
        low_rank = {"r": self.rank, "target_modules": targets}
        if self.kind in ("lora", "rslora", "dora"):
            return peft.LoraConfig(
                lora_alpha=alpha,
                use_rslora=self.kind == "rslora",
                use_dora=self.kind == "dora",
                **low_rank,
            )
        if self.kind == "loha":
            return peft.LoHaConfig(alpha=alpha, **low_rank)
        if self.kind == "lokr":
            return peft.LoKrConfig(alpha=alpha, **low_rank)
        if self.kind == "oft":
            size = {"r": self.blocks or 0, "oft_block_size": 0 if self.blocks else self.rank}
            return peft.OFTConfig(
                **size,
                coft=self.coft,
                eps=self.eps,
                block_share=self.block_share,
                use_cayley_neumann=False,  # the series is orthogonal near zero only
                target_modules=targets,
            )
        return peft.BOFTConfig(boft_block_size=self.rank, target_modules=targets)
