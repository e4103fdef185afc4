"""IP-Adapters of FLUX: XLabs' own names, and those that diffusers writes (its ``FluxIPAdapterMixin``).

Their tokens are as wide as the text that T5 gives. Keys and values have biases, and count the blocks of two
streams.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from pcs_formats.layer_forms import size

if TYPE_CHECKING:
    from pcs_core.backbone import Backbone
    from pcs_formats.contents import Contents
    from pcs_formats.reading import Reading

TECHNIQUE = "attention.imported_adapter"
XLABS = (
    ("ip_adapter_proj_model.", "image_proj."),
    ("double_blocks.", "ip_adapter."),
    (".processor.ip_adapter_double_stream_k_proj.", ".to_k_ip."),
    (".processor.ip_adapter_double_stream_v_proj.", ".to_v_ip."),
)
"""Parts of XLabs' names, and of diffusers'."""
BLOCKS = "transformer_blocks.*.attn"
"""The attention sites that have an adapter: those of single streams have none."""


def as_diffusers(contents: Contents) -> tuple[Contents, Mapping[str, str]]:
    """Return the file under diffusers' names where it has XLabs', and what each is called in the file."""
    names = {}
    for key in contents.tensors:
        name = key
        if key.startswith((XLABS[0][0], XLABS[1][0])):
            for theirs, diffusers in XLABS:
                name = name.replace(theirs, diffusers)
        names[name] = key
    tensors = {name: contents.tensors[key] for name, key in names.items()}
    return replace(contents, tensors=tensors), names


def in_the_files_words(reading: Reading, names: Mapping[str, str]) -> Reading:
    """Return a reading whose keys are called as in the file."""
    xlabs = any(name != key for name, key in names.items())
    called = [(after, before) for before, after in reversed(XLABS)] if xlabs else []

    def said(text: str) -> str:
        for diffusers, theirs in called:
            text = text.replace(diffusers, theirs)
        return text

    reading.used = {names.get(name, name) for name in reading.used}
    reading.problems = [said(text) for text in reading.problems]
    reading.missing = [said(name) for name in reading.missing]
    return reading


def reads_blocks(backbone: Backbone) -> bool:
    """Return whether a network's adapters are of this kind."""
    return backbone.card.family == "flux"


def add_blocks(contents: Contents, backbone: Backbone, reading: Reading) -> dict[str, Any]:
    """Add keys and values of each block of two streams; return the settings that say so."""
    sites = [s for s in backbone.sites if s.kind == "joint" and fnmatchcase(s.name, BLOCKS)]
    context: int = getattr(backbone, "denoiser").config.joint_attention_dim  # noqa: B009
    expected: dict[str, tuple[str, tuple[int, ...]]] = {}
    for number, site in enumerate(sites):
        for which in ("k", "v"):
            key = f"ip_adapter.{number}.to_{which}_ip"
            place = f"{TECHNIQUE}/{site.name}/to_{which}"
            expected[f"{key}.weight"] = f"{place}/weight", (site.width, context)
            expected[f"{key}.bias"] = f"{place}/bias", (site.width,)
    for key, (place, shape) in expected.items():
        tensor = contents.tensors.get(key)
        if tensor is None:
            reading.missing.append(key)
            continue
        reading.used.add(key)
        if tuple(tensor.shape) == shape:
            reading.tensors[place] = tensor
        else:
            reading.problems.append(
                f"{key!r} is {size(tensor.shape)}, and this network's block there takes {size(shape)}: "
                "it is made for another base"
            )
    for key in contents.tensors:
        if key.startswith("ip_adapter.") and key not in expected:
            near = f"ip_adapter.{len(sites) - 1}.to_k_ip.weight"
            reading.problems.append(
                f"{key!r} is of no block of this network, which counts {len(sites)} of two streams, the last "
                f"one {near!r}"
            )
    return {"behind": context, "sites": BLOCKS}
