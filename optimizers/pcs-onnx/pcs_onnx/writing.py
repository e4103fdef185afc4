"""Writing one graph: traced, saved, run, and compared with the network in fp32."""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.errors import CapabilityError
from pcs_onnx.arguments import ROWS, Argument, Size
from pcs_onnx.edits import constants, digest, identity
from pcs_onnx.graphs import Lifted
from pcs_onnx.halves import DTYPES, traced_in
from pcs_onnx.written import Written

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from torch import Tensor, nn

    from pcs_core.backbone import Attachment
    from pcs_core.data import Edit

LOGGER = logging.getLogger("pcs")


class Writer:
    """Writes the graphs of one export into ``folder``."""

    def __init__(
        self,
        net: Attachment,
        folder: Path,
        *,
        opset: int,
        external: bool,
        dtype: str,
        size: Size,
        baked: Collection[str],
        tolerance: float,
    ) -> None:
        self.net, self.folder, self.opset, self.external = net, folder, opset, external
        self.dtype, self.size, self.baked = dtype, size, baked
        self.tolerance = tolerance
        self.rng = torch.Generator().manual_seed(0)

    def random(self, *shape: int) -> Tensor:
        """Return unit noise."""
        return torch.randn(shape, generator=self.rng)

    def graph(
        self,
        name: str,
        root: nn.Module,
        arguments: Sequence[Argument],
        edits: Sequence[Edit] = (),
        *,
        resized: bool = True,
        halves: bool = False,
        full: bool = False,
        **more: Any,
    ) -> dict[str, dict[str, Any]]:
        """Write one graph and return what the manifest says of it, ``more`` included, by its name.

        ``resized`` False keeps the example's size, whatever sizes the others take. With ``halves`` what no
        step changes becomes a graph of its own, ``keys``. ``full`` keeps it in fp32.

        Raises
        ------
        CapabilityError
            The graph lost an input, or differs from the network.
        """
        size = self.size if resized else Size()
        lifted = Lifted(
            root, sum(a.kind != "tensor" for a in arguments), [a.path for a in arguments if a.path]
        ).eval()
        LOGGER.info("exporting the %s", name)
        trials = self.trials(arguments, size)
        expected = [lifted(*values) for values in trials]
        neutral = self.neutral(lifted, arguments)
        dtype = DTYPES["fp32" if full else self.dtype]
        with traced_in(dtype, root, self.net.backbone):
            arguments = [a if a.kind != "tensor" else _cast(a, dtype) for a in arguments]
            model = self.trace(lifted, arguments, size)
            inputs = zip(arguments, model.graph.inputs, strict=True)
            unread = sorted(a.name for a, v in inputs if not v.uses())
            if unread:
                raise CapabilityError(
                    f"the {name}'s graph lost inputs ({', '.join(unread[:3])}): nothing would change "
                    "with them"
                )
            # saved in here: until then the model refers to the network's own tensors
            written = Written(self.folder, name, model, arguments, self.external, halves=halves)
        error = 0.0
        for values, outputs in zip(trials, expected, strict=True):
            error = max(error, self.compare(name, outputs, written(values)))
        facts = {
            "rows": ROWS,
            "max_error": error,
            "neutral": neutral,
            "edits": {identity(e): constants(e) for e in edits},
            "baked": sorted(self.baked) if edits else [],
            "baked_sha256": digest(edits, self.baked),
            **more,
        }
        return {part: {**part_facts, **facts} for part, part_facts in written.facts().items()}

    def trace(self, lifted: Lifted, arguments: Sequence[Argument], size: Size) -> Any:
        """Return the graph of ``lifted``, open in rows and as ``size`` says."""
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # a fused kernel that no opset has
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                program = torch.onnx.export(
                    lifted,
                    tuple(a.example for a in arguments),
                    dynamo=True,
                    opset_version=self.opset,
                    input_names=[a.name for a in arguments],
                    dynamic_shapes={"values": size.dims(arguments)},
                    verbose=False,
                )
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
        assert program is not None
        return program.model

    def trials(self, arguments: Sequence[Argument], size: Size) -> list[list[Tensor]]:
        """Return other rows and other tensors than the example's, and the same at another size."""
        first = [
            a.example + 0.05 * self.random(*a.example.shape) * (a.example.dim() > 0)
            if a.kind == "tensor"
            else fewer(torch.cat([a.example, a.example[:1]]), a.slots)
            for a in arguments
        ]
        if not size.step:
            return [first]
        second = []
        for argument, value in zip(arguments, first, strict=True):
            if argument.grid:
                value = self.random(*size.larger(argument))
            fixed = argument.kind == "tensor"  # a scale has no axis at all
            second.append(value if fixed else value[: argument.example.shape[0]])
        return [first, second]

    def compare(self, name: str, expected: Sequence[Tensor], actual: Sequence[Tensor]) -> float:
        """Return the largest relative error of the outputs.

        Raises
        ------
        CapabilityError
            It is above the tolerance.
        """
        worst = 0.0
        for want, have in zip(expected, actual, strict=True):
            error = float((want - have).abs().max() / want.abs().max().clamp_min(1e-12))
            if not error <= self.tolerance:
                raise CapabilityError(
                    f"the {name}'s graph differs from the network by {error:.1e} (relative), more "
                    f"than {self.tolerance:.0e}: rounding adds up in a large network, and "
                    f"--option tolerance={2 * error:.0e} allows it"
                )
            worst = max(worst, error)
        return worst

    def neutral(self, lifted: Lifted, arguments: Sequence[Argument]) -> bool:
        """Return whether zeros for strengths and tensors give what the network gives without edits."""
        off = ("tensor", "strength", "stream", "residual")
        values = [torch.zeros_like(a.example) if a.kind in off else a.example for a in arguments]
        with_edits = lifted(*values)
        with self.net.under(off=True):
            bare = lifted(*values)
        return all(torch.equal(a, b) for a, b in zip(with_edits, bare, strict=True))


def fewer(value: Tensor, slots: bool) -> Tensor:
    """Return ``value`` with half of its slots, where their number is open."""
    for axis in range(1, value.dim() - 1 if slots else 1):
        value = value.narrow(axis, 0, value.shape[axis] // 2)
    return value.contiguous()


def _cast(argument: Argument, dtype: torch.dtype) -> Argument:
    if not argument.example.is_floating_point():
        return argument
    return replace(argument, example=argument.example.to(dtype))
