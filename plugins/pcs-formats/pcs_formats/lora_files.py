"""Updates of layers in files: LoRA of diffusers, peft, kohya, ComfyUI, and everything by LyCORIS' names.

A low-rank update of one rank, one alpha and one network becomes a use of ``weights.lora``; what that cannot
hold (other parameterisations, magnitudes, a rank above the layer's) a use of ``weights.imported``. All uses are
called ``lora:...``, so that ``--strength lora=0.7`` weighs the file as a whole.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pcs_core.backbone import globs_of
from pcs_core.data import Concept
from pcs_core.errors import InputError
from pcs_core.small_files import parse_json
from pcs_formats.alphas import METADATA, NOWHERE, TENSORS, Alpha, configurations
from pcs_formats.few_step_files import add_few_steps
from pcs_formats.joined_names import joined_names, split_rows
from pcs_formats.layer_forms import Form, form_of
from pcs_formats.layer_names import (
    BEGINNINGS,
    DENOISERS,
    names_of_layers,
    nearest_name,
    text_path,
)
from pcs_formats.layer_parts import LayerParts, by_layer, nearest_ending
from pcs_formats.motion_names import AUTHORS, MODULES
from pcs_formats.reading import EXAMPLES, Given, Reading, Use
from pcs_formats.word_files import BUNDLED, read_bundled

if TYPE_CHECKING:
    from pcs_core.backbone import Backbone
    from pcs_core.data import Site
    from pcs_formats.alphas import Configuration
    from pcs_formats.contents import Contents

NAME = "lora"
"""What all uses of such a file are called before the colon."""


def read_layers(contents: Contents, backbone: Backbone | None, given: Given) -> Reading | None:
    """Return what the file's updates of layers become, or None where it holds none.

    Raises
    ------
    InputError
        Its metadata cannot be used.
    """
    words = {k: t for k, t in contents.tensors.items() if k.startswith(BUNDLED)}
    layers, strange, twice = by_layer({k: t for k, t in contents.tensors.items() if k not in words})
    if not layers or len(strange) > len(layers):
        return None
    reading = Reading(kind_of(layers), base_of(layers, contents.metadata))
    reading.facts = facts_of(layers, contents.metadata)
    known = [key for layer in layers.values() for key in layer.keys.values()]
    for key in strange:
        near = nearest_ending(key, known)
        reading.problems.append(
            f"{key!r} is no part of a layer's update that is known here"
            + (f", did you mean {near!r}?" if near else "")
        )
    reading.problems += [
        f"{key!r} and {other!r} are the same of one layer: a file holds one adapter, save them apart"
        for key, other in twice
    ]
    family = reading.base.split(" ")[0] if backbone is None else backbone.card.family
    add_few_steps(contents, [*layers], family, reading)
    if backbone is None:
        reading.used = {*known, *words}
        return reading
    if words:
        read_bundled(words, backbone, given, reading)
    names, joined = names_of_layers(backbone), joined_names(backbone)
    chosen = placed(layers, names, joined, reading)
    add_uses(forms_of(chosen, contents, backbone, reading), backbone, reading)
    add_concepts(contents, given, reading)
    return reading


def placed(
    layers: Mapping[str, LayerParts],
    names: Mapping[str, Site],
    joined: Mapping[str, Sequence[Site]],
    reading: Reading,
) -> dict[Site, LayerParts]:
    """Return site -> its parts; what has no site is a problem of the reading.

    ``joined`` are names of layers that are several sites here, each with rows of its own.
    """
    chosen: dict[Site, LayerParts] = {}
    moving = next((name for name in layers if MODULES in name), "")
    if moving and not any(MODULES in name for name in names):
        reading.problems.append(
            f"{next(iter(layers[moving].keys.values()))!r} is of motion modules, and this network has none: "
            "open a folder of AnimateDiff"
        )
        return chosen
    for name, layer in layers.items():
        key = next(iter(layer.keys.values()))
        sites = [names[name]] if name in names else joined.get(name, ())
        if not sites:
            # a name is compared with all of the network's: of a file of another base none of thousands fits
            compared = len(reading.problems) < EXAMPLES
            near = nearest_name(name, [*names, *joined]) if compared else ""
            ending = key.removeprefix(name)
            reading.problems.append(
                f"{key!r} is of no layer of this network"
                + (f", the nearest is {near + ending!r}" if near else "")
            )
            continue
        try:
            check_parts(layer)
            parts = split_rows(layer, sites)
        except InputError as error:
            reading.problems.append(str(error))
            continue
        for site, part in zip(sites, parts, strict=True):
            if site in chosen:
                other = next(iter(chosen[site].keys.values()))
                reading.problems.append(f"{key!r} and {other!r} are of one layer")
            chosen.setdefault(site, part)
    return chosen


def check_parts(layer: LayerParts) -> None:
    """Refuse tensors of a layer that are empty, of no dimension, or hold what is no number.

    Raises
    ------
    InputError
        Names the key.
    """
    for name, tensor in layer.parts.items():
        key = layer.keys[name]
        if name != "alpha" and (tensor.dim() == 0 or tensor.numel() == 0):
            raise InputError(f"{key!r} is empty: its shape is {tuple(tensor.shape)}")
        if name != "alpha" and not bool(tensor.float().isfinite().all()):
            raise InputError(
                f"{key!r} holds nan or infinity: its training diverged, or it is damaged"
            )


def forms_of(
    chosen: Mapping[Site, LayerParts],
    contents: Contents,
    backbone: Backbone,
    reading: Reading,
) -> dict[Site, Form]:
    """Return what each layer's update is; what is incomplete or of another shape is a problem."""
    tables = configurations(contents)
    forms = {}
    if chosen:
        parts = {part for layer in chosen.values() for part in layer.parts}
        reading.problems += [p for table in tables.values() for p in table.problems(parts)]
    alphas = []
    for site, layer in chosen.items():
        try:
            alpha = said_alpha(site, layer, tables, backbone)
            alphas.append(alpha)
            forms[site] = form_of(site, layer, alpha)
        except InputError as error:
            reading.problems.append(str(error))
        else:
            reading.used.update(layer.keys.values())
    if alphas:
        tell_alphas(alphas, contents, reading)
    return forms


def tell_alphas(alphas: Sequence[Alpha], contents: Contents, reading: Reading) -> None:
    """Say in the reading where the alphas are from, and what of the metadata is not used."""
    counts = Counter(alpha.place for alpha in alphas)
    reading.facts["alpha from"] = [
        f"{place or 'nowhere: it is the rank'}" + (f" ({count} layers)" if len(counts) > 1 else "")
        for place, count in counts.items()
    ]
    silent, none = counts.get(NOWHERE, 0), sum(alpha.value == 0 for alpha in alphas)
    said = contents.metadata.get("ss_network_alpha", "")
    if silent and said and said != contents.metadata.get("ss_network_dim", said):
        reading.notes.append(
            f"its metadata says alpha {said} for rank {contents.metadata['ss_network_dim']}, and {silent} of "
            f"{len(alphas)} layers hold none: as in kohya's own loader theirs is the rank, and the metadata is "
            "not used"
        )
    elif 0 < silent < len(alphas):
        reading.notes.append(f"{silent} of {len(alphas)} layers say no alpha: theirs is their rank")
    if none:
        reading.notes.append(
            f"alpha is 0 of {none} of {len(alphas)} layers: their updates add nothing"
        )
    used = {alpha.place for alpha in alphas}
    if METADATA in contents.metadata and not any(METADATA in place for place in used):
        reading.notes.append(
            f"its metadata {METADATA!r} speaks of none of these layers: nothing of it is used"
        )


def said_alpha(
    site: Site, layer: LayerParts, tables: Mapping[str, Configuration], backbone: Backbone
) -> Alpha:
    """Return a layer's alpha: its own tensor's, else the configuration's."""
    if "alpha" in layer.parts:
        alpha = layer.parts["alpha"]
        if alpha.numel() != 1:
            raise InputError(f"{layer.keys['alpha']!r} is no number, but {tuple(alpha.shape)}")
        if not math.isfinite(float(alpha)):
            raise InputError(f"{layer.keys['alpha']!r} is {float(alpha)}, which is no scale")
        return Alpha(float(alpha), TENSORS)
    family = backbone.card.family
    network, path = DENOISERS.get(family, "unet"), site.name
    if site.part == "text":
        network, _, path = text_path(family, site).partition(".")
    table = tables.get(network, tables.get(""))
    if table is None:
        return Alpha(None)
    if "down" in layer.parts:
        return Alpha(table.alpha(path, layer.parts["down"].shape[0]), table.place)
    return Alpha(None, table.place, table.factor(path))


def add_uses(forms: Mapping[Site, Form], backbone: Backbone, reading: Reading) -> None:
    """Add a use for each group of layers whose settings are alike, and their tensors."""
    groups: dict[tuple[Any, ...], list[Site]] = {}
    for site, form in forms.items():
        key = (site.part, site.kind, form.technique, json.dumps(form.settings, sort_keys=True))
        groups.setdefault(key, []).append(site)
    among: dict[tuple[str, str], list[Site]] = {}
    for site in backbone.sites:
        among.setdefault((site.part, site.kind), []).append(site)
    counts: dict[str, int] = {}
    for (part, kind, technique, settings), sites in groups.items():
        stem = f"{NAME}:{'text' if part == 'text' else 'denoiser'}"
        counts[stem] = counts.get(stem, 0) + 1
        name = stem if counts[stem] == 1 else f"{stem}-{counts[stem]}"
        where = {"part": part, "sites": globs_of(sites, among[part, kind]), "kind": kind}
        if technique != "weights.lora":
            where["layers"] = where.pop("kind")
        reading.uses.append(Use(name, technique, {**json.loads(settings), **where}))
        for site in sites:
            for parameter, tensor in forms[site].tensors.items():
                reading.tensors[f"{name}/{site.name}/{parameter}"] = tensor


def add_concepts(contents: Contents, given: Given, reading: Reading) -> None:
    """Add the concept of a LoRA whose words are known: a prompt then may name the token in their place."""
    if not given.token or any(c.token == given.token for c in reading.concepts):
        return
    triggers = reading.facts.get("trigger words") or []
    text = str(triggers[0]) if triggers else given.noun
    if not text:
        raise InputError(
            f"{contents.path} names no trigger word that {given.token!r} could stand for: give --noun, or "
            "leave --token out and write prompts as for the other tool"
        )
    noun = given.noun or text.rpartition(" ")[2]
    reading.concepts.append(Concept(given.name or contents.path.stem, given.token, noun))
    reading.words[given.token] = {"text": text, "noun": noun}


def kind_of(layers: Mapping[str, LayerParts]) -> str:
    """Return in words what a file of these layers is."""
    first = next(iter(layers))
    if AUTHORS in first:
        return "LoRA of motion modules, AnimateDiff's names"
    parts = {part for layer in layers.values() for part in layer.parts}
    what = next(
        (
            word
            for word, marks in (
                ("LoHa", {"hada_w1_a"}),
                ("LoKr", {"lokr_w1", "lokr_w1_a"}),
                ("OFT", {"oft_blocks"}),
                ("full differences", {"diff"}),
                ("LoCon with Tucker cores", {"mid"}),
                ("DoRA", {"magnitude", "dora_scale"}),
            )
            if marks & parts
        ),
        "LoRA",
    )
    start = next((b for b in BEGINNINGS if first.startswith(b)), "")
    spelled = {
        "lora_unet_": "kohya's names",
        "lora_te_": "kohya's names",
        "lora_te1_": "kohya's names",
        "lora_te2_": "kohya's names",
        "lora_transformer_": "ai-toolkit's names",
        "lycoris_": "LyCORIS' own names",
        "diffusion_model.": "the original release's names",
        "base_model.model.": "peft's names",
    }.get(start, "diffusers' names" if start else "bare module names")
    return f"{what}, {spelled}"


def base_of(layers: Mapping[str, LayerParts], metadata: Mapping[str, str]) -> str:
    """Return the family that a file shows to be for, or "": by its names, widths and metadata."""
    if any(n.startswith(("lora_te2_", "text_encoder_2.")) for n in layers):
        return "sdxl"
    for name, layer in layers.items():
        if not name.endswith(("attn2.to_k", "attn2_to_k")):
            continue
        for part in ("down", "lokr_w2_b"):
            if part in layer.parts and layer.parts[part].dim() > 1:
                width = layer.parts[part].shape[1]
                return {768: "sd (1.x)", 1024: "sd (2.x)", 2048: "sdxl"}.get(width, "")
    if any(MODULES in n for n in layers):
        return "animatediff"
    if any("joint_blocks" in n or "add_k_proj" in n for n in layers):
        return "sd3"
    if any("double_blocks" in n or "single_transformer_blocks" in n for n in layers):
        return "flux"
    said = metadata.get("ss_base_model_version") or metadata.get("modelspec.architecture", "")
    return said and f"{said} (its metadata)"


def facts_of(layers: Mapping[str, LayerParts], metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return ranks, alphas and trigger words of a file."""
    downs = [layer.parts["down"] for layer in layers.values() if "down" in layer.parts]
    ranks = sorted({down.shape[0] for down in downs if down.dim()})
    alphas = sorted(
        {
            float(p["alpha"])
            for p in (x.parts for x in layers.values())
            if "alpha" in p and p["alpha"].numel() == 1
        }
    )
    facts: dict[str, Any] = {"layers": len(layers)}
    if ranks:
        facts["ranks"] = ranks
    if alphas:
        facts["alphas"] = alphas
    if triggers := trigger_words(metadata):
        facts["trigger words"] = triggers
    return facts


def trigger_words(metadata: Mapping[str, str]) -> list[str]:
    """Return the words that a file's metadata says to write, the most telling first."""
    said = [w.strip() for w in metadata.get("modelspec.trigger_phrase", "").split(",") if w.strip()]
    try:
        counts = parse_json(metadata.get("ss_tag_frequency", "{}"), "its tags")
        tags: dict[str, int] = {}
        for folder in counts.values() if isinstance(counts, dict) else ():
            for tag, count in folder.items():
                tags[tag.strip()] = tags.get(tag.strip(), 0) + int(count)
    except (InputError, ValueError, TypeError, AttributeError):
        return said
    often = sorted(tags, key=lambda tag: -tags[tag])[:5]
    return list(dict.fromkeys([*said, *often]))
