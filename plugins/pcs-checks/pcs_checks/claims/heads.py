"""A claim about branches beside the heads of attention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pcs_core.data.check import CheckRow

if TYPE_CHECKING:
    from pcs_checks.observe import Observation


def head_rank(
    seen: Observation, *, use: str, rank: int, kinds: Sequence[str]
) -> Iterator[CheckRow]:
    """Each attention layer of ``kinds`` has queries, keys, values and outputs of ``rank`` for each head.

    The outputs are of as many channels as the layer reads by its queries.
    """
    stored = {n: t.shape for n, t in seen.artifact.tensors.items() if n.startswith(f"{use}/")}
    sites = [s for s in seen.backbone.sites if s.part == "denoiser" and s.kind in kinds]
    expected: dict[str, tuple[int, int]] = {}
    for site in sites:
        inner = rank * site.heads
        reads = site.width if site.kind == "self" else site.context
        name = f"{use}/{site.name}"
        expected |= {
            f"{name}/q": (inner, site.width),
            f"{name}/k": (inner, reads),
            f"{name}/v": (inner, reads),
            f"{name}.to_out.0/out": (site.width, inner),
        }
    wrong = sum(tuple(stored.get(name, ())) != shape for name, shape in expected.items())
    yield CheckRow.compare("layers of attention", len(sites), ">", 0)
    yield CheckRow.compare(f"matrices that are not of rank {rank} a head", wrong, "==", 0)
    yield CheckRow.compare("matrices beside these", len(stored.keys() - expected), "==", 0)
