"""What stands where a network was: a control network, an encoder of references, a projector."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from pcs_onnx.skeleton import reach

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from pcs_onnx.deployed_graph import DeployedGraph


class ControlStandIn(nn.Module):
    """Has the tensors of a control network, by name, and runs its graph."""

    def __init__(self, graph: DeployedGraph) -> None:
        super().__init__()
        self.graph = (graph,)
        for path, shape in graph.facts["tensors"].items():
            parent, _, name = path.rpartition(".")
            parameter = nn.Parameter(torch.zeros(shape), requires_grad=False)
            reach(self, parent).register_parameter(name, parameter)

    def forward(
        self, latents: Tensor, time: Tensor, text: Tensor, image: Tensor
    ) -> tuple[Sequence[Tensor], Tensor]:
        """Return residuals of the down blocks, in order, and of the middle block."""
        given = {"latents": latents, "time": time, "text": text, "image": image}
        residuals = self.graph[0].run([v.float() for v in given.values()], [])
        return residuals[:-1], residuals[-1]


class EncoderStandIn:
    """A feature model whose methods are graphs; its numbers (``width`` ...) are as they were."""

    def __init__(self, graphs: Sequence[DeployedGraph], facts: dict[str, int]) -> None:
        vars(self).update(facts)
        for graph in graphs:
            setattr(self, graph.facts["method"], _Method(graph))


class _Method:
    def __init__(self, graph: DeployedGraph) -> None:
        self.graph = graph

    def __call__(self, images: Tensor) -> Tensor:
        """Return the features of images [n 3 h w] of the backbone's size."""
        want = tuple(self.graph.inputs[0]["shape"])
        if tuple(images.shape[1:]) != want:
            raise self.graph.other(f"it reads references of {want}, not {tuple(images.shape[1:])}")
        return self.graph.run([images.float()], [])[0]


class StreamStandIn:
    """A projector's ``stream``, run by its graph."""

    def __init__(self, graph: DeployedGraph) -> None:
        self.graph = graph

    def __call__(self, *features: Tensor) -> Tensor:
        """Return the tokens [b n d]."""
        return self.graph.run([f.float() for f in features], [])[0]
