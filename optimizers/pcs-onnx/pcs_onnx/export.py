"""``pcs export --to onnx``: the networks of a system as graphs, and what they need beside them.

The denoiser's graph knows the edits of a system and none of its subjects: strengths, image tokens,
residuals of a control branch and every tensor that a subject trains are inputs. Pre-trained tensors of
the system are constants.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from pcs_core.data import BranchEdit, ReplaceEdit
from pcs_core.errors import CapabilityError, InputError, nearest
from pcs_onnx import manifest
from pcs_onnx.arguments import Size
from pcs_onnx.edits import swap_digest
from pcs_onnx.halves import DTYPES, TOLERANCES
from pcs_onnx.parts import Parts, size_step
from pcs_onnx.refusals import check
from pcs_onnx.tokenizer import write_tokenizers
from pcs_onnx.writing import Writer

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from pcs_core.backbone import Attachment
    from pcs_core.data import Personalization, Recipe

LOOSEST = 0.1
"""Largest ``tolerance``: beyond it a graph may as well be of another network."""
OPSETS = (20, 21, 22, 23)
SIZES = ("fixed", "dynamic")
ATTENTION = ("self", "cross", "joint", "temporal")
PROJECTIONS = ("q", "k", "v", "out")
VERSIONS = ("pcs-core", "pcs-onnx", "torch", "onnx", "onnxscript", "onnxruntime", "diffusers")


@torch.no_grad()
# long: its options and what they mean; then the order in which a deployment is written
def export(
    net: Attachment,
    folder: Path,
    recipe: Recipe,
    features: Mapping[str, Tensor],
    baked: Collection[str],
    adapter: Personalization | None = None,
    encoders: Mapping[str, tuple[Any, Mapping[str, Tensor]]] | None = None,
    *,
    opset: int = 23,
    external_data: bool = True,
    dtype: str = "fp32",
    size: str = "fixed",
    light_decoder: str = "",
    disabled_optimizers: Sequence[str] = (),
    tolerance: float = 0.0,
) -> dict[str, Any]:
    """Write the deployment of an attached system into ``folder``; return its manifest.

    ``features`` are stacked [1 ...], ``baked`` the names of tensors that are the same for every
    subject, ``adapter`` the weights they come from. ``encoders`` are the feature models that references
    are encoded with: id -> (model, method -> example [n 3 h w]). ``opset`` 23 has one node per attention,
    20 none for it nor for group norm. ``size`` "dynamic" takes every size of latents the levels of the
    network divide. ``light_decoder`` is a folder or hub id, "own" the backbone's.
    ``disabled_optimizers`` are those of ONNX Runtime not to use. ``tolerance``, 0.1 at most, is
    how far a graph may be from the network, relative to its largest output; 0 is that of ``dtype``.

    Raises
    ------
    CapabilityError
        A part of the system cannot be exported, or a graph does not give what the network gives.
    InputError
        An option has no such value.
    """
    check_options(opset=(opset, OPSETS), dtype=(dtype, DTYPES), size=(size, SIZES))
    if not 0 <= tolerance <= LOOSEST:
        raise InputError(f"tolerance {tolerance} is not supported: 0 to {LOOSEST} is")
    allowed = tolerance or TOLERANCES[dtype]
    check(net, baked)
    writer = Writer(
        net,
        folder,
        opset=opset,
        external=external_data,
        dtype=dtype,
        size=Size(size_step(net) if size == "dynamic" else 0),
        baked=baked,
        tolerance=allowed,
    )
    parts, light = Parts(writer, features), "" if light_decoder == "own" else light_decoder
    parts.look(light if light_decoder else None)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = write_tokenizers(net, folder)
    table = net.backbone.embedding
    if isinstance(table, torch.nn.Embedding):
        rows = table.weight.detach().clone().contiguous()
        save_file({"table": rows}, folder / "embedding.safetensors")
    if adapter is not None:
        tensors = {k: v.contiguous() for k, v in adapter.tensors.items()}
        save_file(tensors, folder / manifest.ADAPTER)
    graphs = {} if isinstance(table, torch.nn.Embedding) else parts.table()
    graphs |= {**parts.text(), **parts.denoiser(), **parts.decoder()}
    if light_decoder:
        graphs |= parts.light(light)
    if net.fusion.of(BranchEdit):
        graphs |= parts.control()
    graphs |= {**parts.streams(), **parts.encoders(encoders or {})}
    return manifest.write(
        folder,
        {
            "format": "onnx",
            "system": recipe.id,
            "recipe": recipe.document,
            **_facts_of(net),
            "size": {"kind": size, "step": writer.size.step},
            "dtype": str(DTYPES[dtype]).removeprefix("torch."),
            "opset": opset,
            "external_data": external_data,
            "disabled_optimizers": list(disabled_optimizers),
            "tolerance": {"relative": allowed},
            "versions": {name: version(name) for name in VERSIONS},
            "tokenizer": tokenizer,
            "swaps": _swaps(net, adapter),
            "adapter": None if adapter is None else adapter.extra["sha256"],
            "encoders": {
                id: {k: v for k, v in vars(model).items() if isinstance(v, int)}
                for id, (model, _) in (encoders or {}).items()
            },
            "graphs": graphs,
        },
    )


def _facts_of(net: Attachment) -> dict[str, Any]:
    """Return what the manifest says of the backbone, and of the names and shapes its parts have."""
    backbone: Any = net.backbone
    return {
        "backbone": asdict(backbone.card),
        "latent_shape": list(backbone.latent_shape),
        "text_widths": list(getattr(backbone, "text_widths", ())),
        "scheduler": dict(backbone.scheduler_config),
        "sites": [asdict(site) for site in backbone.sites if site.part != "vae"],
        "projections": _projections(net),
        "parameters": {
            part: {k: list(p.shape) for k, p in backbone.parts[part].named_parameters()}
            for part in {swap.part for swap in net.fusion.of(ReplaceEdit)}
        },
    }


def check_options(**given: tuple[Any, Collection[Any]]) -> None:
    """Refuse a value that an option does not have."""
    for name, (value, known) in given.items():
        if value not in known:
            near = nearest(value, known) if isinstance(value, str) else ""
            raise InputError(
                f"{name} {value} is not supported{near}: {', '.join(map(str, known))} are"
            )


def _swaps(net: Attachment, adapter: Personalization | None) -> dict[str, str]:
    """Return the digest of each use's changes of the network's own weights, which are constants."""
    given = {} if adapter is None else adapter.tensors
    digests = {}
    for swap in net.fusion.of(ReplaceEdit):
        prefix = f"{swap.owner}/{swap.part}/"
        digests[prefix[:-1]] = swap_digest({k: v for k, v in given.items() if k.startswith(prefix)})
    return digests


def _projections(net: Attachment) -> dict[str, dict[str, str]]:
    """Return the path of the layer behind each projection of each attention site."""
    backbone = net.backbone
    paths = {id(m): name for name, m in backbone.parts["denoiser"].named_modules()}
    projections: dict[str, dict[str, str]] = {}
    for site in backbone.sites:
        if site.part == "denoiser" and site.kind in ATTENTION:
            layers = projections[site.name] = {}
            for part in (*PROJECTIONS, *(f"add_{p}" for p in PROJECTIONS if site.kind == "joint")):
                with suppress(CapabilityError):  # the last joint block gives no text
                    layers[part] = paths[id(backbone.projection(site, part))]
    return projections
