"""What other tools call a network's layers: each name in use -> the site, and names of sites for writing."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from pcs_core.errors import CapabilityError
from pcs_formats.motion_names import MODULES, authors_name
from pcs_formats.original_names import original_path

if TYPE_CHECKING:
    from pcs_core.backbone import Backbone
    from pcs_core.data import Site

LAYERS = ("linear", "conv", "norm", "embedding")
"""Kinds of sites that a file may speak of."""
DOTTED = ("unet.", "transformer.", "base_model.model.", "base_model.model.unet.", "")
"""What stands before a denoiser's layer written with dots: diffusers', peft's, DiffSynth's."""
JOINED = ("lora_unet_", "lora_transformer_", "lycoris_")
"""What stands before one written with underscores: kohya's, ai-toolkit's, LyCORIS' own."""
NATIVE = "diffusion_model."
"""What stands before an original release's name in ComfyUI's and OneTrainer's files."""
CLIPS = ("clip_l", "clip_g", "t5xxl")
"""Names of the text encoders in files of those two."""
T5 = {"sd3": "text_encoder_3", "flux": "text_encoder_2"}
"""Family -> its encoder that is no CLIP."""
ALONE = ("sd", "animatediff", "video")
"""Families with one text encoder, whose layers a backbone names without it."""
DENOISERS = {
    "sd": "unet",
    "sdxl": "unet",
    "animatediff": "unet",
    "sd3": "transformer",
    "flux": "transformer",
}
"""Family -> what diffusers calls the denoiser."""
BEGINNINGS = (
    *(DOTTED[:-1]),
    *JOINED,
    NATIVE,
    *("lora_te_", "lora_te1_", "lora_te2_", "lora_te3_"),
    *("text_encoder.", "text_encoder_2.", "text_encoder_3.", "text_encoders."),
)
"""How the name of a layer begins in any of these files."""


def names_of_layers(backbone: Backbone) -> dict[str, Site]:
    """Return every name by which a file may call a layer of ``backbone``."""
    names: dict[str, Site] = {}
    for site in backbone.sites:
        if site.kind not in LAYERS:
            continue
        spellings = _of_denoiser if site.part == "denoiser" else _of_text
        if site.part in ("denoiser", "text"):
            for name in spellings(site, backbone):
                names.setdefault(name, site)
    return names


def _of_denoiser(site: Site, backbone: Any) -> Iterator[str]:
    flat = site.name.replace(".", "_")
    yield from (prefix + site.name for prefix in DOTTED)
    yield from (prefix + flat for prefix in JOINED)
    if MODULES in site.name:
        yield from (prefix + authors_name(site.name) for prefix in DOTTED)
        return
    if not hasattr(backbone.denoiser, "up_blocks"):
        return
    try:
        original = original_path(site.name, backbone.denoiser)
    except CapabilityError:
        return
    yield NATIVE + original
    yield "lora_unet_" + original.replace(".", "_")


def _of_text(site: Site, backbone: Any) -> Iterator[str]:
    family = backbone.card.family
    encoder, _, path = text_path(family, site).partition(".")
    number = int(encoder.removeprefix("text_encoder").removeprefix("_") or 1)
    if encoder == T5.get(
        family
    ):  # these tools count CLIP's second encoder where there is none, too
        number = len(CLIPS)
    kohya = [f"lora_te{number}_", *(["lora_te_"] if family in ALONE else [])]
    for spelled in dict.fromkeys((path, path.removeprefix("text_model."))):
        yield f"{encoder}.{spelled}"
        yield from (prefix + spelled.replace(".", "_") for prefix in kohya)
        yield f"text_encoders.{CLIPS[number - 1]}.transformer.{spelled}"
        if family in ALONE:  # of several encoders such a name does not say which
            yield f"base_model.model.{spelled}"


def text_path(family: str, site: Site) -> str:
    """Return the path of a text encoder's layer as files have it: CLIP's with its "text_model"."""
    encoder, name = "text_encoder", site.name
    if family not in ALONE:
        encoder, _, name = site.name.partition(".")
    if encoder != T5.get(family) and not name.startswith(("text_model.", "text_projection")):
        name = f"text_model.{name}"
    return f"{encoder}.{name}"


def nearest_name(name: str, names: Iterable[str]) -> str:
    """Return the name most like ``name`` among those that begin as it does, or ""."""
    start = next((b for b in BEGINNINGS if name.startswith(b)), "")
    alike = [n for n in names if n.startswith(start)] or list(names)
    # comparing with all of a large network's names takes seconds: the ends of a path say most
    ending = name[-12:]
    closest = [n for n in alike if n.endswith(ending)] or alike
    return next(iter(difflib.get_close_matches(name, closest, n=1, cutoff=0.5)), "")
