"""IP-Adapters for other tools: ``ip-adapter.safetensors``, which diffusers' ``load_ip_adapter`` reads.

An adapter that was pre-trained here, or imported and shown pictures, in the layout of the releases: the
projector behind ``image_proj``, keys and values behind ``ip_adapter`` by the number of their attention layer;
InstantID's control network in a folder beside, as diffusers saves one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.data import AttnEdit, BranchEdit, StreamEdit, TokenEdit, WeightEdit
from pcs_core.errors import CapabilityError
from pcs_core.storage.tensor_files import write_tensors
from pcs_formats.adapter_files import NAMES, NESTED
from pcs_formats.control_files import write_control
from pcs_formats.flux_adapters import BLOCKS, reads_blocks
from pcs_formats.usage import README, metadata, readme, usage

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from pcs_core.backbone import Attachment
    from pcs_core.data import Recipe

FILE = "ip-adapter.safetensors"
FAMILIES = ("sd", "sdxl", "flux")
ATTENTION, BIASES = {"to_k/weight", "to_v/weight"}, {"to_k/bias", "to_v/bias"}
"""What an edit owns that reads image tokens beside the text."""
UPDATED = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out.0": "to_out"}
"""Layer of an attention -> what FaceID's keys call it."""


def write_ip_adapter(
    net: Attachment, folder: Path, recipe: Recipe, *context: Any
) -> Mapping[str, Any]:
    """Write the adapter of an attached system; return what was written.

    Raises
    ------
    CapabilityError
        The system holds what such a file cannot.
    """
    card = net.backbone.card
    if card.family not in FAMILIES:
        raise CapabilityError(
            f"backbone {card.id!r} is of family {card.family!r}: ip-adapter files are of {', '.join(FAMILIES)}"
        )
    backbone: Any = net.backbone
    sites = [s for s in backbone.sites if s.part == "denoiser" and s.kind in ("self", "cross")]
    if reads_blocks(backbone):
        sites = [s for s in backbone.sites if s.kind == "joint" and fnmatchcase(s.name, BLOCKS)]
    numbers = {site.name: number for number, site in enumerate(sites)}
    tensors: dict[str, Tensor] = {}
    control: list[str] = []
    for edit in net.fusion.edits:
        parts = {k: t.detach().float().cpu() for k, t in edit.owned().items()}
        if isinstance(edit, StreamEdit) and not any(k.startswith("image_proj.") for k in tensors):
            tensors |= {f"image_proj.{k}": t for k, t in projector(parts, edit.owner).items()}
        elif isinstance(edit, AttnEdit) and reads_tokens(edit, numbers):
            for name, value in parts.items():
                which, _, part = name.partition("/")
                tensors[f"ip_adapter.{numbers[edit.site.name]}.{which}_ip.{part}"] = value
        elif isinstance(edit, WeightEdit) and (name := update_name(edit, numbers)):
            scale = float(getattr(edit, "scale"))  # noqa: B009
            tensors[f"{name}.down.weight"] = parts["A"][0]
            tensors[f"{name}.up.weight"] = parts["B"][0] * scale
        elif isinstance(edit, BranchEdit) and (files := write_control(edit, folder)):
            control += files
        elif parts or isinstance(edit, TokenEdit):
            raise CapabilityError(
                f"{edit.owner!r} cannot be written for ip-adapter: its {type(edit).__name__} is no part of one"
            )
    crossed = {k.split(".")[1] for k in tensors if k.endswith("to_k_ip.weight")}
    expected = {str(numbers[s.name]) for s in sites if s.kind in ("cross", "joint")}
    if not crossed or crossed != expected or not any(k.startswith("image_proj.") for k in tensors):
        raise CapabilityError(
            f"system {recipe.id!r} has image tokens at {len(crossed)} of {len(expected)} attention "
            "layers that read a text: an ip-adapter file holds a projector and all of them"
        )
    return _write(net, folder, recipe, tensors, control)


def _write(
    net: Attachment, folder: Path, recipe: Recipe, tensors: Mapping[str, Tensor], control: list[str]
) -> Mapping[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    facts = usage(net, recipe, {}, named_by_file=False)
    write_tensors(folder / FILE, tensors, metadata(facts, recipe.id))
    (folder / README).write_text(readme(facts, recipe.id, [], {}), encoding="utf-8")
    return {"system": recipe.id, "files": [FILE, *control], "readme": README, **facts}


def projector(parts: Mapping[str, Tensor], owner: str) -> dict[str, Tensor]:
    """Return a projector's tensors by the releases' names.

    Raises
    ------
    CapabilityError
        No release has such a projector.
    """
    named = {k.removeprefix("inner/").replace("/", "."): t for k, t in parts.items()}
    kind = projector_kind(named)
    if not kind:
        raise CapabilityError(
            f"{owner!r} cannot be written for ip-adapter: no release has its projector (linear, "
            "perceiver, full, face and face-perceiver have one)"
        )
    nested = NESTED if kind == "face-perceiver" else ""
    tensors: dict[str, Tensor] = {}
    for name, value in named.items():
        if match := re.fullmatch(r"layers\.(\d+)\.(.+)", name):
            if ".to_k." not in f".{match[2]}" and ".to_v." not in f".{match[2]}":
                tensors[nested + perceiver_key(match[1], match[2])] = value
            continue
        theirs, ours = next(pair for pair in NAMES[kind].items() if name.startswith(pair[1]))
        tensors[theirs + name.removeprefix(ours)] = value[None] if name == "queries" else value
    for name, value in named.items():
        if name.startswith("layers.") and name.endswith(".to_k.weight"):
            both = [value, named[name.replace("to_k", "to_v")]]
            tensors[f"{nested}layers.{name.split('.')[1]}.0.to_kv.weight"] = torch.cat(both)
    return tensors


def projector_kind(named: Mapping[str, Tensor]) -> str:
    """Return which release's projector has these tensors, or ""."""
    if "project.weight" in named:
        return "linear"
    if "queries" in named:
        return "perceiver" if "layers.0.norm_features.weight" in named else ""
    if "read_in.weight" in named:
        return "face-perceiver"
    if not {"inward.weight", "outward.weight", "norm.weight"} <= named.keys():
        return ""
    return "full" if named["outward.weight"].shape[0] == named["norm.weight"].shape[0] else "face"


def perceiver_key(layer: str, rest: str) -> str:
    """Return the releases' name of a tensor of a perceiver's layer."""
    if rest.startswith("feed."):
        return f"layers.{layer}.1.{rest.removeprefix('feed.')}"
    rest = rest.replace("norm_features.", "norm1.").replace("norm_queries.", "norm2.")
    return f"layers.{layer}.0.{rest}"


def reads_tokens(edit: AttnEdit, numbers: Mapping[str, int]) -> bool:
    """Return whether an edit holds what a file holds of an attention: keys and values, of FLUX with biases."""
    expected = ATTENTION | BIASES if edit.site.kind == "joint" else ATTENTION
    return set(edit.owned()) == expected and edit.site.name in numbers and edit.site.kind != "self"


def update_name(edit: Any, numbers: Mapping[str, int]) -> str:
    """Return how FaceID's keys begin for a low-rank update of an attention's layer, or "" of any other."""
    if set(edit.owned()) != {"A", "B"} or not hasattr(edit, "scale"):
        return ""
    for layer, name in UPDATED.items():
        site = edit.site.name.removesuffix(f".{layer}")
        if edit.site.part == "denoiser" and site != edit.site.name and site in numbers:
            return f"ip_adapter.{numbers[site]}.{name}_lora"
    return ""
