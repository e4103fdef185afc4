"""Handing an attached system to an exporter."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.arguments import checks_arguments
from pcs_core.backbone import Attachment, export_tensors, import_tensors, suspended
from pcs_core.data import Concept, Fusion, HeadEdit, Recipe, Subject
from pcs_core.errors import CapabilityError
from pcs_core.merge import merge_fusions
from pcs_engine.adapters import adapter_of, digest, find_adapter, needs_adapter
from pcs_engine.opening import resolve_backbone
from pcs_engine.prepare import extract
from pcs_engine.restoring import restore
from pcs_engine.run import EngineRun
from pcs_formats.origin import FORMATS, origin_of, record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from pcs_core.backbone import Backbone
    from pcs_core.data import Personalization

GREY = 0.5


@checks_arguments
def export(
    what: Personalization | Recipe,
    folder: Path | str,
    *,
    to: str,
    backbone: Backbone | str | Path | None = None,
    adapter: str | Path | Personalization | None = None,
    provenance: bool = True,
    **options: Any,
) -> Mapping[str, Any]:
    """Export a system, or the system of a personalization, on ``backbone``; return the manifest.

    ``folder`` is made. ``adapter`` as in :func:`~pcs_engine.fit`; ``options`` are the exporter's.
    With ``provenance`` the metadata of safetensors say what they come from (:mod:`pcs_formats.origin`).

    Raises
    ------
    UnknownNameError
        There is no exporter ``to``.
    CapabilityError
        The system cannot be exported; or several personalizations that are drawn together.
    """
    from pcs_core import installed

    exporter = installed().get("exporters", to)
    artifact = None if isinstance(what, Recipe) else what
    if artifact is not None and artifact.parts:
        raise CapabilityError(
            "personalizations that are drawn together are not exported: export each, or merge them"
        )
    opened = resolve_backbone(backbone, artifact)
    with ExitStack() as stack:
        stack.enter_context(suspended(opened))
        if artifact is None:
            assert isinstance(what, Recipe)
            run, fusion, shared = _unfitted(what, opened, adapter)
            baked = frozenset() if shared is None else frozenset(shared.tensors)
        else:
            run, fusion = restore(artifact, opened, 0)
            baked = frozenset(adapter_of(artifact, opened)) - frozenset(artifact.tensors)
            shared = _named_adapter(artifact, opened)
        seen = watch_encoders(run, opened)
        net = stack.enter_context(Attachment(opened, fusion))
        manifest: Mapping[str, Any] = exporter(
            net,
            Path(folder),
            run.recipe,
            run.features.tensors,
            baked,
            None if shared is None else _with_digest(shared),
            seen,
            **options,
        )
    if not provenance or to not in FORMATS:
        return manifest
    return recorded_in(Path(folder), manifest, artifact, run)


def recorded_in(
    folder: Path, manifest: Mapping[str, Any], artifact: Personalization | None, run: EngineRun
) -> dict[str, Any]:
    """Write into the files of an export what they come from; return the manifest with it."""
    known = origin_of(artifact, run.recipe, run.backbone.card)
    record(folder, manifest.get("files", ()), known)
    return {**manifest, "provenance": known}


def _named_adapter(artifact: Personalization, backbone: Backbone) -> Personalization | None:
    """Return the pre-trained weights that an artifact was fitted on, if it names some."""
    reference: Any = artifact.extra.get("adapter")
    return find_adapter(artifact.recipe, backbone, reference["name"])[0] if reference else None


def _with_digest(shared: Personalization) -> Personalization:
    """Return pre-trained weights that say their own hash."""
    return replace(shared, extra={**shared.extra, "sha256": digest(shared.tensors)})


@torch.no_grad()
def _unfitted(
    recipe: Recipe, backbone: Backbone, adapter: str | Path | Personalization | None
) -> tuple[EngineRun, Fusion, Personalization | None]:
    """Build the system around a grey picture: what an export keeps depends on no subject."""
    subject = grey_subject(backbone)
    run = EngineRun(recipe, backbone, names=("subject",), concepts=(subject.concepts,))
    run.features, _ = extract(run, [subject])
    fusion = merge_fusions(run.call("fuse", features=run.features))
    run.heads = {e.name: e for e in fusion.of(HeadEdit)}
    shared = find_adapter(recipe, backbone, adapter)[0] if needs_adapter(recipe) else None
    pretrained = {} if shared is None else shared.tensors
    import_tensors(fusion, {**export_tensors(fusion), **pretrained})
    return run, fusion, shared


def grey_subject(backbone: Backbone) -> Subject:
    """Return a subject of one grey picture."""
    concept = Concept("subject", "<subject>", "object")
    picture = torch.full((3, *backbone.card.size), GREY)
    return Subject("subject", (concept,), images=(picture,), captions=(None,))


class _Watched:
    """A feature model that notes which of its methods are called, and with what."""

    def __init__(self, model: Any, calls: dict[str, Tensor]) -> None:
        self._model, self._calls = model, calls

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._model, name)
        if not callable(attribute):
            return attribute

        def call(images: Tensor, *more: Any, **options: Any) -> Any:
            if not more and not options:
                self._calls[name] = images
            return attribute(images, *more, **options)

        return call


class _WatchingRun(EngineRun):
    """A run that notes which feature models its techniques ask."""

    def feature_model(self, id: str) -> Any:
        """Return the model, watched."""
        model = super().feature_model(id)
        calls: dict[str, Tensor] = {}
        self.scratch.setdefault("encoders", {})[id] = (model, calls)
        return _Watched(model, calls)


@torch.no_grad()
def watch_encoders(run: EngineRun, backbone: Backbone) -> Mapping[str, tuple[Any, Any]]:
    """Return what a pre-trained system encodes a reference with: id -> (model, method -> pictures)."""
    if not needs_adapter(run.recipe):
        return {}
    subject = grey_subject(backbone)
    watching = _WatchingRun(run.recipe, backbone, names=("subject",), concepts=(subject.concepts,))
    extract(watching, [subject])
    encoders: Mapping[str, tuple[Any, Any]] = watching.scratch.get("encoders", {})
    return encoders
