"""A graph as it was written: one file, or two of which the first is run once per subject."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pcs_onnx.arguments import ROWS
from pcs_onnx.sessions import Session
from pcs_onnx.splitting import split

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from pcs_onnx.arguments import Argument


class Written:
    """Saves a traced graph, cut in two with ``halves``, and runs it as a deployment does."""

    def __init__(
        self,
        folder: Path,
        name: str,
        model: Any,
        arguments: Sequence[Argument],
        external: bool,
        *,
        halves: bool = False,
    ) -> None:
        self.folder, self.external = folder, external
        fed = [str(v.name) for v in model.graph.inputs]
        self.arguments = dict(zip(fed, arguments, strict=True))
        kinds = {key: a.kind for key, a in self.arguments.items()}
        self.cut = split(model, kinds) if halves else None
        self.sessions: dict[str, Session] = {}
        self.files: dict[str, str] = {}
        if self.cut is not None:
            self._save("keys", self.cut.keys)
        self._save(name, model if self.cut is None else self.cut.step)
        self.shapes: dict[str, Tensor] = {}

    def _save(self, name: str, model: Any) -> None:
        import onnx_ir

        file = f"{name.replace('/', '-')}.onnx"
        beside = f"{file}.data" if self.external else None
        onnx_ir.save(model, self.folder / file, external_data=beside)
        self.files[name] = file
        self.sessions[name] = Session(self.folder / file, "cpu", ROWS, preferred=("cpu",))

    def __call__(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Return the outputs for a value per argument, in their order."""
        pairs = zip(self.arguments.items(), values, strict=True)
        given = {key: v.to(a.example.dtype) for (key, a), v in pairs}
        outputs: list[Tensor] = []
        for name, session in self.sessions.items():
            lone = {k for k, a in self.arguments.items() if a.kind == "tensor"}
            batched = [given[key] for key in session.names if key not in lone]
            outputs = session(batched, [given[key] for key in session.names if key in lone])
            if name == "keys" and self.cut is not None:
                self.shapes = dict(zip(self.cut.names, outputs, strict=True))
                given |= self.shapes
        return outputs

    def facts(self) -> dict[str, dict[str, Any]]:
        """Return file, inputs and outputs of each graph, after a first call."""
        return {
            name: {
                "file": self.files[name],
                "inputs": [self._input(key) for key in session.names],
                "outputs": len(session.outputs),
            }
            for name, session in self.sessions.items()
        }

    def _input(self, key: str) -> dict[str, Any]:
        argument = self.arguments.get(key)
        if argument is None:
            like = self.shapes[key]
            name, kind, shape, axis, grid = key.replace("_", "/"), "key", like.shape[1:], None, 0.0
        else:
            like = argument.example
            shape = like.shape[argument.kind != "tensor" :]
            name, kind, axis, grid = argument.name, argument.kind, argument.axis, argument.grid
        return {
            "name": name,
            "kind": kind,
            "graph_name": key,
            "shape": list(shape),
            "dtype": str(like.dtype).removeprefix("torch."),
            "padded_axis": axis,
            "grid": grid,
        }
