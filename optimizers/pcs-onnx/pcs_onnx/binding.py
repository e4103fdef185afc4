"""What an attachment plugs in, handed to the graphs: refused by name where a graph does not fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pcs_core.data import BranchEdit, InjectEdit, ReplaceEdit, StreamEdit
from pcs_core.errors import CapabilityError
from pcs_onnx.edits import swap_digest
from pcs_onnx.stand_ins import StreamStandIn

if TYPE_CHECKING:
    from collections.abc import Callable

    from pcs_core.data import Edit, Fusion
    from pcs_onnx.runtime import OnnxBackbone


def bind(backbone: OnnxBackbone, fusion: Fusion) -> Callable[[], None]:
    """Give every edit of ``fusion`` to its graph; return what takes them back.

    Raises
    ------
    CapabilityError
        A graph does not fit, or something is plugged in that no graph holds.
    """
    graphs = backbone.graphs
    for injection in fusion.of(InjectEdit):
        raise graphs["denoiser"].other(
            f"{injection.owner!r} changes its layers through another library"
        )
    _check_swaps(backbone, fusion)
    by_graph: dict[str, list[Edit]] = {
        graph: list(fusion.inside(part))
        for graph, part in (("denoiser", "denoiser"), ("text", "text"), ("decoder", "vae"))
    }
    if "control" in graphs:
        by_graph["control"] = list(fusion.of(BranchEdit))
    elif fusion.of(BranchEdit):
        raise CapabilityError(
            f"{backbone.folder}: this deployment holds no graph of the control branch of "
            f"{fusion.of(BranchEdit)[0].owner!r}"
        )
    before = {name: graphs[name].edits for name in by_graph}
    streams: list[StreamEdit] = []

    def undo() -> None:
        for name, edits in before.items():
            graphs[name].edits = edits
        for edit in streams:
            del edit.stream

    try:
        for name, edits in by_graph.items():
            graphs[name].bind(edits)
    except BaseException:
        undo()
        raise
    for edit in fusion.of(StreamEdit):
        graph = graphs.get(f"stream/{edit.name}")
        if graph is not None and graph.unlike([edit]) is None:  # else torch runs its own weights
            edit.stream = StreamStandIn(graph)  # type: ignore[method-assign, assignment]
            streams.append(edit)
    return undo


def _check_swaps(backbone: OnnxBackbone, fusion: Fusion) -> None:
    """Refuse replaced weights other than those that the graphs hold as constants."""
    digests: dict[str, str] = backbone.manifest["swaps"]
    graph = backbone.graphs["denoiser"]
    for swap in fusion.of(ReplaceEdit):
        changes = {
            f"{swap.owner}/{swap.part}/{k}": v - swap.base[k] for k, v in swap.owned().items()
        }
        if digests.get(f"{swap.owner}/{swap.part}") != swap_digest(changes):
            raise graph.other(f"{swap.owner!r} replaces weights of the {swap.part} by others")
    if digests and not fusion.of(ReplaceEdit):
        raise graph.other(f"the graph holds weights of {min(digests)!r}, and nothing else does")
