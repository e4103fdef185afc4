"""Custom Diffusion's files: keys and values of cross-attention that stand in for the network's own.

diffusers' ``save_attn_procs`` wrote them (``pytorch_custom_diffusion_weights``), and ``load_attn_procs`` reads
them; each new word lies beside in a file of its own. Here they are differences from the network's projections
(``weights.kv``), so that such artifacts merge.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcs_formats.contents import PICKLED, read_contents
from pcs_formats.layer_forms import size
from pcs_formats.reading import Given, Reading, Use
from pcs_formats.word_files import add_words, parts_of

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.backbone import Backbone
    from pcs_formats.contents import Contents

KEY = re.compile(
    r"(?:unet\.)?(?P<site>.+)\.processor\.to_(?P<part>q|k|v|out)_custom_diffusion(?:\.0)?\.(?P<what>weight|bias)"
)
MARK = "custom_diffusion"
USE = "weights.kv"
OUT = "custom:out"
"""Name of the use that holds output projections, where a file trains them."""


def read_custom(contents: Contents, backbone: Backbone | None, given: Given) -> Reading | None:
    """Return what a file of Custom Diffusion becomes, or None where it is none."""
    if not any(MARK in key for key in contents.tensors):
        return None
    matches = {key: KEY.fullmatch(key) for key in contents.tensors}
    reading = Reading("Custom Diffusion, diffusers' names", "sd")
    parts = sorted({m["part"] for m in matches.values() if m})
    reading.facts = {"projections": parts}
    for key, match in matches.items():
        if match is None:
            reading.problems.append(f"{key!r} is no projection of an attention processor")
    known = {key: match for key, match in matches.items() if match}
    if backbone is None:
        reading.used = set(known)
        return reading
    add_projections(known, contents, backbone, reading)
    sites = sorted({n.split("/")[1] for n in reading.tensors if n.startswith(f"{USE}/")})
    inner = [part for part in parts if part != "out"]
    reading.uses.append(Use(USE, USE, {"sites": "|".join(sites), "parts": inner}))
    if "out" in parts:
        where = "|".join(f"{site}.to_out.0" for site in sites)
        reading.uses.append(
            Use(OUT, "weights.imported", {"kind": "full", "bias": True, "sites": where})
        )
    words = {}
    for file in words_beside(contents.path):
        beside = read_contents(file)
        rows = parts_of(beside.tensors)
        if rows is not None:
            words[rows[1] or f"<{file.stem.strip('<>')}>"] = rows[0]
    if words:
        add_words(words, backbone, given, reading, f"the files beside {contents.path.name}")
    return reading


def words_beside(path: Path) -> list[Path]:
    """Return the files of learned words beside such a file: they are called by their words."""
    endings = (".safetensors", *PICKLED)
    return [
        file
        for file in sorted(path.parent.glob("<*>.*"))
        if file.suffix in endings and re.fullmatch(r"<[^<>]+>", file.stem)
    ]


def add_projections(known: Any, contents: Contents, backbone: Any, reading: Reading) -> None:
    """Add the differences of projections from the network's own."""
    from torch import tensor

    sites = {s.name: s for s in backbone.sites if s.kind == "cross" and s.part == "denoiser"}
    for key, match in known.items():
        value: Tensor = contents.tensors[key].float()
        if match["site"] not in sites:
            near = next((n for n in sites if n[-20:] == match["site"][-20:]), next(iter(sites), ""))
            reading.problems.append(
                f"{key!r} is of no cross-attention of this network, the nearest is {near!r}"
            )
            continue
        module = backbone.denoiser.get_submodule(match["site"])
        part = match["part"]
        layer = module.to_out[0] if part == "out" else getattr(module, f"to_{part}")
        base = getattr(layer, match["what"], None)
        if base is None or base.shape != value.shape:
            expected = "nothing" if base is None else size(base.shape)
            reading.problems.append(
                f"{key!r} is {size(value.shape)}, and this network has {expected} there: it is made for "
                "another base"
            )
            continue
        reading.used.add(key)
        difference = value - base.detach().float().cpu()
        if part != "out":
            reading.tensors[f"{USE}/{match['site']}/{part}"] = difference
            continue
        stem = f"{OUT}/{match['site']}.to_out.0"
        if match["what"] == "bias":
            reading.tensors |= {f"{stem}/bias": difference, f"{stem}/strength_bias": tensor(1.0)}
        else:
            reading.tensors |= {f"{stem}/diff": difference}
            reading.tensors |= {f"{stem}/{n}": tensor(1.0) for n in ("scale", "strength")}
