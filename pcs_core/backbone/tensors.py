"""The tensors of a fusion by name: what trains, what an artifact stores and brings back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from pcs_core.data import Fusion

if TYPE_CHECKING:
    from torch import Tensor


def trainable(fusion: Fusion) -> dict[str, nn.Parameter]:
    """Return the parameters by ``"<use>/<site or token>/<param>"``.

    Raises
    ------
    ConflictError
        Two edits of one use own a parameter of the same name.
    """
    from pcs_core.errors import ConflictError

    parameters: dict[str, nn.Parameter] = {}
    for edit in fusion.edits:
        for key, tensor in edit.owned().items():
            if isinstance(tensor, nn.Parameter):
                name = f"{edit.owner}/{edit.key(0)}/{key}"
                if name in parameters:
                    raise ConflictError(
                        f"two edits of {edit.owner!r} own {name!r}: name their sites"
                    )
                parameters[name] = tensor
    return parameters


def export_tensors(fusion: Fusion, subject: int = 0) -> dict[str, Tensor]:
    """Return what an artifact of ``subject`` stores, by name, detached, on the CPU.

    A stacked parameter gives its subject's slice; one that replaces the network's own the difference W' - W0.
    """
    tensors: dict[str, Tensor] = {}
    for edit in fusion.edits:
        for key, tensor in edit.owned().items():
            value = edit.stored(key, tensor, subject)
            tensors[f"{edit.owner}/{edit.key(subject)}/{key}"] = value.clone().contiguous().cpu()
    return tensors


@torch.no_grad()
def import_tensors(fusion: Fusion, tensors: dict[str, Tensor]) -> None:
    """Load what :func:`export_tensors` gave into the edits of a one-subject fusion.

    Raises
    ------
    ArtifactError
        A tensor is missing, left over, or has another shape.
    """
    from pcs_core.errors import ArtifactError

    left = dict(tensors)
    for edit in fusion.edits:
        for key, tensor in edit.owned().items():
            name = f"{edit.owner}/{edit.key(0)}/{key}"
            if name not in left:
                raise ArtifactError(f"the artifact lacks {name!r}, which its recipe needs")
            value = edit.restored(key, left.pop(name).to(tensor.device))
            if value.shape != tensor.shape:
                raise ArtifactError(
                    f"{name!r} has shape {tuple(value.shape)}, its recipe builds {tuple(tensor.shape)}"
                )
            tensor.copy_(value)
    if left:
        raise ArtifactError(
            f"the artifact holds {sorted(left)[0]!r}, which its recipe does not build"
        )
