"""``--engine compile``: a backbone whose denoiser is compiled once for every subject.

All but the denoiser's calls is the backbone's own: text and pictures are encoded as before, edits are
bound as before, and the compiled regions read their tensors as inputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from pcs_compile.bindings import Bindings, owners
from pcs_compile.cuda_graphs import Replays, check_graphs
from pcs_compile.regions import Counting, Regions, blocks
from pcs_compile.slots import Slots
from pcs_core.errors import CapabilityError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from pcs_core.backbone import AttentionChain, Backbone
    from pcs_core.data import Conditioning, Edit


class CompiledBackbone:
    """``inner`` with its denoiser compiled. Implements :class:`pcs_core.backbone.Backbone`."""

    def __init__(
        self,
        inner: Backbone,
        *,
        backend: str,
        regions: str,
        rank: int,
        dynamic: bool,
        graphs: bool,
    ) -> None:
        self.inner: Any = inner
        self.backend = Counting(backend)
        network = inner.parts["denoiser"]
        self.regions = Regions(blocks(network, regions), self.backend, dynamic=dynamic)
        self.slots = Slots(rank, fixed=graphs)
        self.replays = Replays(inner.denoise, network) if graphs else None
        self.bindings: Bindings | None = None

    def __getattr__(self, name: str) -> Any:
        # what is not compiled is the backbone's own
        if name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)

    @property
    def engine(self) -> dict[str, Any]:
        """What runs the networks: for reports. ``compiled`` counts the graphs compiled so far."""
        return {
            "name": "compile",
            "torch": torch.__version__,
            "backend": self.backend.name,
            "regions": len(self.regions.modules),
            "compiled": self.backend.count,
            "cuda_graphs": 0 if self.replays is None else self.replays.count,
        }

    def bind_attention(self, chains: Mapping[str, AttentionChain]) -> Callable[[], None]:
        """Bind as the backbone does, in a form that is compiled once; return what undoes it.

        Raises
        ------
        CapabilityError
            Something is attached that changes the network's layers themselves, or a rank is too large.
        """
        network = self.inner.parts["denoiser"]
        for path, module in network.named_modules():
            if type(module).__module__.split(".")[0] == "peft":
                raise CapabilityError(
                    f"peft changed layer {path!r} itself: engine 'compile' would compile it anew for "
                    "each artifact. Draw without --engine, or fit with weights.lora"
                )
        before = self.bindings
        undo_chains = self.inner.bind_attention(chains)
        bindings = Bindings(network, chains)
        try:
            check_edits(bindings.edits, self.regions.names(network))
            if self.replays is not None:
                check_graphs(bindings.edits, network)
            undo_slots = self.slots.fill(bindings.edits)
        except BaseException:
            bindings.undo()
            undo_chains()
            raise
        self.bindings = bindings

        def undo() -> None:
            self.bindings = before
            undo_slots()
            bindings.undo()
            undo_chains()

        return undo

    def denoise(
        self,
        latents: Tensor,
        time: Tensor,
        cond: Conditioning,
        *,
        residuals: tuple[Sequence[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Return the network's native output [b c h w].

        Raises
        ------
        CapabilityError
            Attention maps or gradients are wanted, or an edit does what cannot be compiled.
        """
        bindings = self.bindings
        if bindings is None:
            return self.inner.denoise(latents, time, cond, residuals=residuals)  # type: ignore[no-any-return]
        context = bindings.context
        if context is not None and context.record:
            raise CapabilityError(
                f"a technique records attention maps of {', '.join(context.record)}, which engine "
                "'compile' does not keep: draw without --engine"
            )
        if torch.is_grad_enabled() and latents.requires_grad:
            raise CapabilityError(
                "a technique wants gradients of the network, which engine 'compile' does not give: "
                "draw without --engine"
            )
        acting = bindings.enter()
        given = (latents, time, cond, residuals or ())
        try:
            with torch.no_grad(), self.regions.active():
                if self.replays is not None:
                    return self.replays(bindings.acting, acting, given)
                return self.inner.denoise(latents, time, cond, residuals=residuals)  # type: ignore[no-any-return]
        except (
            torch._dynamo.exc.TorchDynamoException,
            torch._inductor.exc.InductorError,
        ) as error:
            reason = next((line for line in str(error).splitlines() if line.strip()), "")
            raise CapabilityError(
                f"engine 'compile' cannot compile the denoiser with the edits of {owners(acting)}: "
                f"{reason.strip() or type(error).__name__}. Draw without --engine"
            ) from error


def check_edits(edits: list[Edit], compiled: Sequence[str]) -> None:
    """Refuse edits in a ``compiled`` region whose Python decides in each step what it computes.

    One that wraps a larger module acts between the regions, and is as good as without an engine.

    Raises
    ------
    CapabilityError
        Names the use.
    """
    for edit in edits:
        site = getattr(getattr(edit, "site", None), "name", "")
        inside = any(site == name or site.startswith(f"{name}.") or not name for name in compiled)
        if edit.ACROSS_STEPS and inside:
            raise CapabilityError(
                f"{edit.owner!r} keeps what the network said in one step for later ones: engine 'compile' "
                "would compile each step anew. Leave it out, or draw without --engine"
            )


def compiled(
    backbone: Backbone,
    *,
    backend: str = "inductor",
    regions: str = "blocks",
    rank: int = 0,
    dynamic: bool = False,
    graphs: bool = False,
) -> CompiledBackbone:
    """Return ``backbone`` with its denoiser compiled when it is first called.

    ``backend`` is one of Dynamo's; ``regions`` as in :func:`pcs_compile.regions.blocks`. ``rank`` > 0 is
    the largest rank of the LoRAs that will be drawn with: smaller ones are filled up with zeros, and
    all share what was compiled. ``dynamic`` compiles for any number of pictures and any size at once;
    otherwise the second one that is seen is compiled for all. ``graphs`` records CUDA graphs.

    Raises
    ------
    CapabilityError
        The backbone runs a deployment, or CUDA graphs are wanted and it is on no CUDA device.
    InputError, UnknownNameError
        No such backend, no such class of blocks, or a negative rank.
    """
    from pcs_core.errors import InputError

    if getattr(backbone, "engine", None):
        raise CapabilityError(
            f"engine 'compile' runs the networks of a backbone, and {backbone.card.id!r} is run by "
            f"{backbone.engine['name']!r} already: leave out --deployment"  # type: ignore[attr-defined]
        )
    if rank < 0:
        raise InputError(f"--option rank={rank}: 0 (as it is) or the largest rank")
    if graphs and backbone.device.type != "cuda":
        raise CapabilityError(
            f"--option graphs=true: CUDA graphs need a CUDA device, the backbone is on "
            f"{backbone.device}"
        )
    return CompiledBackbone(
        backbone, backend=backend, regions=regions, rank=rank, dynamic=dynamic, graphs=graphs
    )
