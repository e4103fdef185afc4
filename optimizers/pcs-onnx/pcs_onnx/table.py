"""The token table of a deployment: one of rows in torch, or a graph where several encoders read a prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_onnx.deployed_graph import DeployedGraph
    from pcs_onnx.tokenizer import FileTokenizer


class TableRoot(nn.Module):
    """The token tables of all encoders, to export: ids [b l] to rows [b l d]."""

    def __init__(self, table: nn.Module, encoders: nn.Module) -> None:
        super().__init__()
        self.encoders = encoders
        self.table = (table,)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the rows."""
        rows: Tensor = self.table[0](ids)
        return rows


class GraphTable(nn.Module):
    """Rows [b l d] of ids [b l] from a graph."""

    def __init__(self, graph: DeployedGraph, tokenizer: FileTokenizer) -> None:
        super().__init__()
        self.graph, self.tokenizer = (graph,), tokenizer

    def forward(self, ids: Tensor) -> Tensor:
        """Return the rows."""
        return self.graph[0].run([ids], [])[0]

    def words(self, text: str) -> Tensor:
        """Return the rows [n d] of ``text``; of encoders with other pieces the means [1 d]."""
        readers: list[Any] = [self.tokenizer, *self.tokenizer.beside]
        ids, at, first = [], [], 0
        for reader in readers:
            lead = [] if reader.start < 0 else [reader.start]
            pieces = reader.encode(text)[: reader.length - len(lead) - 1]
            at.append(range(first + len(lead), first + len(lead) + len(pieces)))
            row = [*lead, *pieces, reader.end]
            ids += row + [reader.pad] * (reader.length - len(row))
            first += reader.length
        rows = self(torch.tensor([ids]))[0]
        if len(readers) == 1:
            return rows[list(at[0])]
        # columns of a table that does not read a position are zero there
        return torch.stack([rows[list(places)].mean(0) for places in at]).sum(0, keepdim=True)
