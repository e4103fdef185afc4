"""Handing an attached system to an exporter."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.backbone import Attachment, export_tensors, import_tensors, suspended
from pcs_core.data import Concept, Fusion, Recipe, Subject
from pcs_core.engine.adapters import adapter_of, find_adapter, needs_adapter
from pcs_core.engine.opening import resolve_backbone
from pcs_core.engine.prepare import extract
from pcs_core.engine.run import EngineRun
from pcs_core.engine.sample import restore
from pcs_core.merge import merge_fusions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from pcs_core.backbone import Backbone
    from pcs_core.data import Personalization

GREY = 0.5


def export(
    what: Personalization | Recipe,
    folder: Path | str,
    *,
    to: str,
    backbone: Backbone | str | Path | None = None,
    adapter: str | Path | Personalization | None = None,
    **options: Any,
) -> Mapping[str, Any]:
    """Export a system, or the system of a personalization, on ``backbone``; return the manifest.

    ``folder`` is made. ``adapter`` as in :func:`~pcs_core.engine.fit`; ``options`` are the exporter's.

    Raises
    ------
    UnknownNameError
        There is no exporter ``to``.
    CapabilityError
        The system cannot be exported.
    """
    from pcs_core.catalogue import catalogue

    exporter = catalogue().get("exporters", to)
    person = None if isinstance(what, Recipe) else what
    opened = resolve_backbone(backbone, person)
    with ExitStack() as stack:
        stack.enter_context(suspended(opened))
        if person is None:
            assert isinstance(what, Recipe)
            run, fusion, baked = _unfitted(what, opened, adapter)
        else:
            run, fusion = restore(person, opened, 0)
            baked = frozenset(adapter_of(person, opened)) - frozenset(person.tensors)
        net = stack.enter_context(Attachment(opened, fusion))
        found: Mapping[str, Any] = exporter(
            net,
            Path(folder),
            run.recipe,
            run.features.tensors,
            baked,
            **options,
        )
    return found


@torch.no_grad()
def _unfitted(
    recipe: Recipe, backbone: Backbone, adapter: str | Path | Personalization | None
) -> tuple[EngineRun, Fusion, frozenset[str]]:
    """Build the system around a grey picture: what an export keeps depends on no subject."""
    concept = Concept("subject", "<subject>", "object")
    picture = torch.full((3, *backbone.card.size), GREY)
    subject = Subject("subject", (concept,), images=(picture,), captions=(None,))
    run = EngineRun(recipe, backbone, names=("subject",), concepts=((concept,),))
    run.features, _ = extract(run, [subject])
    fusion = merge_fusions(run.call("fuse", features=run.features))
    run.heads = {e.name: e for e in fusion.heads}
    shared: Mapping[str, Tensor] = {}
    if needs_adapter(recipe):
        shared = find_adapter(recipe, backbone, adapter)[0].tensors
    import_tensors(fusion, {**export_tensors(fusion), **shared})
    return run, fusion, frozenset(shared)
