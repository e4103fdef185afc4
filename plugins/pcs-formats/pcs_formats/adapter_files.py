"""IP-Adapters in files: plain, Plus, full-face, FaceID, FaceID Plus, InstantID; SD and SDXL, plain of FLUX.

Two groups of keys, in diffusers' layout and the authors': ``image_proj`` and ``ip_adapter``. The first says
which kind it is; the second counts the attention layers of the UNet: keys and values at the odd numbers,
FaceID's low-rank updates at all of them. Such an adapter is of no subject: the artifact is what
``pcs pretrain`` would write, and ``pcs fit`` shows it pictures.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pcs_core.backbone import globs_of
from pcs_formats.control_files import add_control
from pcs_formats.flux_adapters import add_blocks, as_diffusers, in_the_files_words, reads_blocks
from pcs_formats.layer_forms import size
from pcs_formats.reading import Given, Reading, Use

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.backbone import Backbone
    from pcs_core.data import Site
    from pcs_formats.contents import Contents

GROUPS = ("image_proj.", "ip_adapter.")
TECHNIQUE = "attention.imported_adapter"
HEAD = 64
"""Channels of a head of the released perceivers."""
SIDE = 224
"""Pixels of the aligned face that FaceID Plus shows CLIP."""
FACE = 512
"""Channels of a face's vector. A perceiver that reads so few is InstantID's."""
HUGE = (1024, 1280)
"""Widths of ViT-H/14's class token and patches."""
NESTED = "perceiver_resampler."
"""How FaceID Plus names the half of its projector that reads a picture's tokens."""
NAMES: Mapping[str, Mapping[str, str]] = {
    "linear": {"proj.": "project.", "norm.": "norm."},
    "perceiver": {
        "latents": "queries",
        "proj_in.": "inward.",
        "proj_out.": "outward.",
        "norm_out.": "norm.",
        "layers.": "layers.",
    },
    "full": {"proj.0.": "inward.", "proj.2.": "outward.", "proj.3.": "norm."},
    "face": {"proj.0.": "inward.", "proj.2.": "outward.", "norm.": "norm."},
    "face-perceiver": {
        "proj.0.": "inward.",
        "proj.2.": "outward.",
        "norm.": "norm.",
        f"{NESTED}proj_in.": "read_in.",
        f"{NESTED}proj_out.": "read_out.",
        f"{NESTED}norm_out.": "read_norm.",
    },
}
"""Projector -> how the file's names of its parts begin, and what stands there here."""
SYSTEMS = {
    "linear": ("ip-adapter-imported", "IP-Adapter"),
    "perceiver": ("ip-adapter-plus", "IP-Adapter Plus"),
    "full": ("ip-adapter-full-face", "IP-Adapter full-face"),
    "face": ("ip-adapter-faceid", "IP-Adapter FaceID"),
    "face-perceiver": ("ip-adapter-faceid-plus", "IP-Adapter FaceID Plus"),
    "identity": ("instantid-imported", "InstantID"),
}
NAMES = {**NAMES, "identity": NAMES["perceiver"]}
READ_TOKENS = ("perceiver", "full", "face-perceiver")
"""Projectors that read a picture's tokens: they were trained against those of an empty one."""
SECOND = re.compile(r"plus_?-?v2", re.IGNORECASE)
"""What the name of a release of FaceID PlusV2 holds: its keys and shapes are those of Plus."""
"""Projector -> the id of the artifact's system, and the release's name."""


def read_adapter(contents: Contents, backbone: Backbone | None, given: Given) -> Reading | None:
    """Return what a file of an IP-Adapter becomes, or None where it is none."""
    contents, names = as_diffusers(contents)
    reading = read_groups(contents, backbone)
    return None if reading is None else in_the_files_words(reading, names)


def read_groups(contents: Contents, backbone: Backbone | None) -> Reading | None:
    """Return what a file becomes whose keys are called as diffusers calls them, or None of another."""
    tensors = contents.tensors
    if not all(any(key.startswith(group) for key in tensors) for group in GROUPS):
        return None
    parts = {k.removeprefix(GROUPS[0]): t for k, t in tensors.items() if k.startswith(GROUPS[0])}
    projector = projector_of(parts)
    if projector is None:
        reading = Reading("an adapter of a kind that is not known here")
        reading.problems.append(
            f"the keys of {GROUPS[0]!r} begin {min(parts)!r}: those of IP-Adapter (plain, Plus, full-face, "
            "FaceID, FaceID Plus) and InstantID are read"
        )
        return reading
    system, title = SYSTEMS[projector]
    reading = Reading(title, base_of(tensors), system=system)
    settings, feature = settings_of(projector, parts)
    if projector == "face-perceiver":
        settings["shortcut"] = said_second(contents, reading)
    reading.facts = {
        "tokens": settings.get("tokens", "one for each of the picture's"),
        "reads": feature,
    }
    add_projector(projector, parts, reading)
    if backbone is None:
        reading.used = {k for k in tensors if k.startswith(GROUPS)}
        return reading
    if reads_blocks(backbone):
        settings |= add_blocks(contents, backbone, reading)
    else:
        add_attention(contents, backbone, reading)
    if projector == "identity":
        add_control(contents, backbone, reading)
    add_recipe(projector, settings, feature, reading)
    return reading


def projector_of(parts: Mapping[str, Tensor]) -> str | None:
    """Return which projector these keys are of, as diffusers tells them apart."""
    if "proj.weight" in parts:
        return "linear"
    if "proj.3.weight" in parts:
        return "full"
    if any(key.startswith("perceiver_resampler.") for key in parts):
        return "face-perceiver"
    if "proj.0.weight" in parts and "norm.weight" in parts:
        return "face"
    if "latents" not in parts:
        return None
    return "identity" if parts["proj_in.weight"].shape[1] == FACE else "perceiver"


def settings_of(projector: str, parts: Mapping[str, Tensor]) -> tuple[dict[str, Any], int]:
    """Return the settings of the projector, and the width of the features that it reads."""
    if projector == "linear":
        weight, norm = parts["proj.weight"], parts["norm.weight"]
        return {"tokens": weight.shape[0] // norm.shape[0]}, weight.shape[1]
    if projector == "full":
        return {}, parts["proj.0.weight"].shape[1]
    if projector == "face-perceiver":
        inner, seen = parts[f"{NESTED}proj_in.weight"].shape
        settings = {
            "tokens": parts["proj.2.weight"].shape[0] // inner,
            "seen": seen,
            **layers_of({k.removeprefix(NESTED): t for k, t in parts.items()}, inner),
        }
        return settings, parts["proj.0.weight"].shape[1]
    if projector == "face":
        last, norm = parts["proj.2.weight"], parts["norm.weight"]
        tokens = last.shape[0] // norm.shape[0]
        return {"tokens": tokens, "inner": last.shape[1]}, parts["proj.0.weight"].shape[1]
    latents = parts["latents"]
    settings = {"tokens": latents.shape[1], **layers_of(parts, latents.shape[2])}
    return settings, parts["proj_in.weight"].shape[1]


def layers_of(parts: Mapping[str, Tensor], inner: int) -> dict[str, Any]:
    """Return the settings of a perceiver's layers, whose tokens are ``inner`` wide."""
    return {
        "inner": inner,
        "depth": 1 + max(int(k.split(".")[1]) for k in parts if k.startswith("layers.")),
        "heads": parts["layers.0.0.to_q.weight"].shape[0] // HEAD,
        "head_width": HEAD,
    }


def said_second(contents: Contents, reading: Reading) -> bool:
    """Return whether a file is of FaceID PlusV2, as far as its name says, and note what that decides."""
    second = SECOND.search(contents.path.name) is not None
    reading.notes.append(
        "nothing in a file tells FaceID PlusV2 from Plus but its name"
        + (", which says PlusV2" if second else ", which says Plus")
        + f": it is read so; the setting 'shortcut' of {TECHNIQUE} says the other"
    )
    return second


def add_projector(projector: str, parts: Mapping[str, Tensor], reading: Reading) -> None:
    """Add the projector's tensors under the names that the artifact has for them."""
    # what reads tokens is told what an empty picture says, and lies inside of that
    stem = f"{TECHNIQUE}/image/" + ("inner/" if projector in READ_TOKENS else "")
    for key, tensor in parts.items():
        name = name_of_part(projector, key)
        if not name:
            reading.problems.append(f"{GROUPS[0] + key!r} is no part of {reading.kind}'s projector")
            continue
        value = tensor[0] if key == "latents" else tensor
        if key.endswith(".0.to_kv.weight"):
            for which, half in zip(("to_k", "to_v"), value.chunk(2, dim=0), strict=True):
                reading.tensors[stem + name.replace("to_kv", which).replace(".", "/")] = half
        else:
            reading.tensors[stem + name.replace(".", "/")] = value
        reading.used.add(GROUPS[0] + key)


def name_of_part(projector: str, key: str) -> str:
    """Return what a projector's tensor is called here, or "" of one that it does not have."""
    if match := re.fullmatch(r"layers\.(\d+)\.([01])\.(.+)", inside(projector, key)):
        layer, half, rest = match.groups()
        rest = rest.replace("norm1.", "norm_features.").replace("norm2.", "norm_queries.")
        return f"layers.{layer}.{rest if half == '0' else f'feed.{rest}'}"
    for theirs, ours in NAMES[projector].items():
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    return ""


def inside(projector: str, key: str) -> str:
    """Return the key of a perceiver's tensor without what stands before it where it is half a projector."""
    return key.removeprefix(NESTED) if projector == "face-perceiver" else key


def add_attention(contents: Contents, backbone: Backbone, reading: Reading) -> None:
    """Add keys and values of each cross-attention, and FaceID's low-rank updates, by their numbers."""
    sites = [s for s in backbone.sites if s.part == "denoiser" and s.kind in ("self", "cross")]
    layers = {site.name: site for site in backbone.sites if site.kind == "linear"}
    updates: dict[str, dict[str, Tensor]] = {}
    expected = set()
    for number, site in enumerate(sites):
        if site.kind == "cross":
            for which in ("k", "v"):
                key = f"ip_adapter.{number}.to_{which}_ip.weight"
                expected.add(key)
                add_weight(key, site, which, contents, reading)
    for key, tensor in contents.tensors.items():
        if not key.startswith(GROUPS[1]) or key in expected:
            continue
        count, _, rest = key.removeprefix(GROUPS[1]).partition(".")
        layer, _, which = rest.removesuffix(".weight").partition("_lora.")
        path = ""
        if count.isdigit() and int(count) < len(sites) and which in ("down", "up"):
            path = f"{sites[int(count)].name}.{layer}" + (".0" if layer == "to_out" else "")
        if path in layers:
            updates.setdefault(path, {})[which] = tensor
            reading.used.add(key)
        else:
            near = (
                min(expected, key=lambda name: (name[-10:] != key[-10:], len(name)))
                if expected
                else ""
            )
            reading.problems.append(
                f"{key!r} is of no attention of this network, which counts {len(sites)}, e.g. {near!r}"
            )
    add_updates(updates, layers, reading)


def add_weight(key: str, site: Site, which: str, contents: Contents, reading: Reading) -> None:
    """Add one projection of keys or values, if it is there and of this layer's shape."""
    tensor = contents.tensors.get(key)
    if tensor is None:
        reading.missing.append(key)
        return
    reading.used.add(key)
    if tuple(tensor.shape) != (site.width, site.context):
        reading.problems.append(
            f"{key!r} is {size(tensor.shape)}, and this network's attention there takes "
            f"{site.width} x {site.context}: it is made for another base"
        )
        return
    reading.tensors[f"{TECHNIQUE}/{site.name}/to_{which}/weight"] = tensor


def add_updates(
    updates: Mapping[str, Mapping[str, Tensor]], layers: Mapping[str, Site], reading: Reading
) -> None:
    """Add FaceID's low-rank updates as a use of their own for each rank."""
    by_rank: dict[int, list[str]] = {}
    for path, parts in updates.items():
        if set(parts) == {"down", "up"}:
            by_rank.setdefault(parts["down"].shape[0], []).append(path)
        else:
            reading.problems.append(f"the low-rank update of {path!r} lacks a half")
    linear = [site for site in layers.values() if site.part == "denoiser"]
    for rank, paths in by_rank.items():
        name = "lora:face" if len(by_rank) == 1 else f"lora:face-{rank}"
        where = globs_of([layers[path] for path in paths], linear)
        reading.uses.append(
            Use(name, "weights.lora", {"rank": rank, "alpha": float(rank), "sites": where})
        )
        for path in paths:
            reading.tensors[f"{name}/{path}/A"] = updates[path]["down"]
            reading.tensors[f"{name}/{path}/B"] = updates[path]["up"]


def add_recipe(projector: str, settings: Mapping[str, Any], feature: int, reading: Reading) -> None:
    """Add the uses that show the adapter a subject's pictures, and the phase that it stands for."""
    encoders, empty = encoders_of(projector, settings, feature)
    reading.facts["image encoder"] = ", ".join(use.settings["model"] for use in encoders)
    kind = "perceiver" if projector == "identity" else projector
    settings = {"projector": kind, **settings, **({"empty": empty} if empty else {})}
    adapter = [Use(TECHNIQUE, TECHNIQUE, settings), *reading.uses]
    word = {"identifier": "", "templates": ["a photo of {token}"]}
    reading.uses = [Use("tokens.rare", "tokens.rare", word), *encoders, *adapter]
    names = [f"{use.name}/*" for use in adapter]
    reading.phases = [{"name": "released", "source": "imported", "steps": 1, "train": names}]


def encoders_of(projector: str, settings: Mapping[str, Any], feature: int) -> tuple[list[Use], str]:
    """Return the uses that encode a picture, and the model that says what an empty one is, or ""."""
    face = {"model": "face.id", "key": "image", "align": True}
    if projector == "face":
        return [Use("encoders.face", "encoders.face", face)], ""
    if projector == "identity":  # its recogniser's vector as it is, not scaled to unit length
        return [Use("encoders.face", "encoders.face", {**face, "normalise": False})], ""
    model = "clip.image.h14" if settings.get("seen", feature) in HUGE else "clip.image"
    if projector == "face-perceiver":
        seen = {"model": model, "key": "image.seen", "align": True, "side": SIDE}
        seen |= {"output": "patches", "normalise": False}
        return [
            Use("encoders.face", "encoders.face", face),
            Use("encoders.face:seen", "encoders.face", seen),
        ], model
    tokens = projector in READ_TOKENS
    encoder = {"model": model, "square": "centre", "output": "patches" if tokens else "pooled"}
    return [Use("encoders.image", "encoders.image", encoder)], model if tokens else ""


def base_of(tensors: Mapping[str, Tensor]) -> str:
    """Return the family whose text is as wide as the adapter's tokens."""
    key = next((k for k in tensors if k.endswith("to_k_ip.weight")), "")
    width = tensors[key].shape[1] if key else 0
    return {768: "sd (1.x)", 1024: "sd (2.x)", 2048: "sdxl", 4096: "flux"}.get(width, "")
