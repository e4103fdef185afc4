"""Pre-trained weights of a system on a backbone: found, checked, and put into a fusion."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcs_core.errors import ArtifactError, InputError
from pcs_engine.opening import is_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from pcs_core.backbone import Backbone
    from pcs_core.data import Personalization, Recipe


def needs_adapter(recipe: Recipe) -> bool:
    """Return whether a fit of ``recipe`` starts from pre-trained weights."""
    return any(phase.pretrain for phase in recipe.phases)


def find_adapter(
    recipe: Recipe, backbone: Backbone, given: str | Path | Personalization | None
) -> tuple[Personalization, str]:
    """Return the pre-trained weights of ``recipe`` on ``backbone``, and the name to find them again.

    ``given`` is a folder that ``pcs pretrain`` wrote; without it the catalogue's own for this
    backbone.

    Raises
    ------
    InputError
        There is none.
    ArtifactError
        It is of another system or another backbone, or damaged.
    """
    from pcs_core.catalogue import catalogue
    from pcs_core.storage import load

    id = f"{recipe.id}@{backbone.card.id}"
    lookup = getattr(backbone, "adapter", None)  # a deployment brings what it was exported with
    if lookup is not None and (exported := lookup(recipe.id)) is not None:
        return exported, id
    if given is None or given == id:
        if id not in catalogue().ids("adapters"):
            raise InputError(
                f"{recipe.id!r} is pre-trained, and no installed plugin holds its weights for "
                f"backbone {backbone.card.id!r}: run `pcs pretrain {recipe.id} --data FOLDER "
                f"--backbone {backbone.card.id} --out DIR`, then fit with --adapter DIR"
            )
        adapter, name = load(catalogue().get("adapters", id)()), id
    elif isinstance(given, str | Path):
        adapter, name = load(Path(given)), str(Path(given).resolve())
    else:
        adapter, name = given, ""
    if adapter.recipe.id != recipe.id:
        raise ArtifactError(
            f"the adapter {name!r} is of system {adapter.recipe.id!r}, not of {recipe.id!r}"
        )
    if not is_of(adapter, backbone):
        raise ArtifactError(
            f"the adapter {name!r} was pre-trained on backbone {adapter.backbone.id!r} (sha256 "
            f"{adapter.backbone.hash[:12]}), {backbone.card.id!r} has other weights "
            f"({backbone.card.hash[:12]}): pre-train it again"
        )
    return adapter, name


def adapter_of(artifact: Personalization, backbone: Backbone) -> Mapping[str, Tensor]:
    """Return the pre-trained tensors a personalization builds on (none: an empty table).

    Raises
    ------
    ArtifactError
        They are no longer where the fit found them, or are others.
    """
    reference: Any = artifact.extra.get("adapter")
    if not reference:
        return {}
    try:
        adapter, _ = find_adapter(artifact.recipe, backbone, reference["name"])
    except InputError as error:
        raise ArtifactError(f"this personalization needs its adapter: {error}") from error
    # a deployment says what its own were when it was exported: not hashed anew for every picture
    if (adapter.extra.get("sha256") or digest(adapter.tensors)) != reference["sha256"]:
        raise ArtifactError(
            f"the adapter {reference['name']!r} is another than the one this personalization was "
            "made with: fit again"
        )
    return adapter.tensors


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Return sha256 over the tensors by name."""
    import hashlib

    import torch

    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        total.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
