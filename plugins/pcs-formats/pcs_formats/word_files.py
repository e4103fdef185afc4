"""Learned words in files: textual inversion of diffusers, A1111, kohya, pivotal scripts, OneTrainer's bundles.

A word's rows stand in one tensor, or in one for each text encoder; a backbone of several encoders has them side
by side in its table, as ``tokens.learnable`` holds them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.data import Concept
from pcs_core.errors import InputError
from pcs_formats.reading import Given, Reading, Use

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.backbone import Backbone
    from pcs_formats.contents import Contents

BUNDLED = "bundle_emb."
"""How the keys of words begin that lie in OneTrainer's LoRA files: ``bundle_emb.<word>.<encoder>``."""
ENCODERS: Mapping[str, str] = {
    "clip_l": "clip_l",
    "clip_g": "clip_g",
    "t5xxl": "t5xxl",
    "t5": "t5xxl",
    "text_encoders_0": "clip_l",
    "text_encoders_1": "clip_g",
}
"""Name of an encoder in files -> here, in the order of a backbone's table."""
ORDER = ("clip_l", "clip_g", "t5xxl")
SOLE = "emb_params"
"""Key of a word of one encoder in kohya's and A1111's safetensors files."""
A1111 = "string_to_param."
"""How the key of a word begins in A1111's pickled files."""
MOST = 64
"""Rows that a word may have."""
TECHNIQUE = "tokens.learnable"
NOUN = "thing"
"""What a word is called whose file says nothing of it; at strength 0 it means this."""


def read_words(contents: Contents, backbone: Backbone | None, given: Given) -> Reading | None:
    """Return what a file of one learned word becomes, or None where it is none."""
    parts = parts_of(contents.tensors)
    if parts is None:
        return None
    by_encoder, token = parts
    for key, tensor in contents.tensors.items():
        if not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise InputError(
                f"{contents.path}: {key!r} holds {kind}: rows of a learned word are floats"
            )
    reading = Reading("a learned word, " + spelling(contents.tensors), base_of(by_encoder))
    reading.facts = {
        "vectors": sorted({len(rows(t)) for t in by_encoder.values()}),
        **{k: v for k, v in contents.plain.items() if isinstance(v, str | int | float) and v != ""},
    }
    reading.used = set(contents.tensors)
    if backbone is not None:
        said = given.token or token or as_token(contents.path.stem)
        add_words({said: by_encoder}, backbone, given, reading, contents.path.name)
    return reading


def read_bundled(
    tensors: Mapping[str, Tensor], backbone: Backbone, given: Given, reading: Reading
) -> None:
    """Add the words that lie in a LoRA's file beside its layers."""
    words: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        word, _, encoder = key.removeprefix(BUNDLED).rpartition(".")
        encoder = encoder.removesuffix("_out")
        if encoder not in ENCODERS or not word or key.endswith("_out"):
            reading.problems.append(
                f"{key!r} is a word of no encoder known here ({', '.join(ORDER)})"
            )
            continue
        token = as_token(word)
        words.setdefault(token, {})[ENCODERS[encoder]] = tensor
        reading.used.add(key)
    if words:
        add_words(words, backbone, given, reading, "the bundle")


def add_words(
    words: Mapping[str, Mapping[str, Tensor]],
    backbone: Backbone,
    given: Given,
    reading: Reading,
    place: str,
) -> None:
    """Add a use of learned rows for ``words`` (token -> encoder -> rows) to the reading."""
    counts = set()
    for token, by_encoder in words.items():
        if backbone.tokenizer.is_entry(token):
            reading.problems.append(
                f"the token {token!r} is a word the backbone already knows: give --token '<...>'"
            )
            continue
        try:
            table = joined(by_encoder, backbone, place)
        except InputError as error:
            reading.problems.append(str(error))
            continue
        counts.add(len(table))
        reading.tensors[f"{TECHNIQUE}/{token}/rows"] = table
        name = given.name or re.sub(r"[<>]", "", token)
        reading.concepts.append(Concept(name, token, given.noun or NOUN))
    if len(counts) > 1:
        reading.problems.append(
            f"the words of {place} have {' and '.join(map(str, sorted(counts)))} rows: those of one artifact "
            "have the same number"
        )
    elif counts:
        (vectors,) = counts
        reading.uses.append(Use(TECHNIQUE, TECHNIQUE, {"vectors": vectors}))


def joined(by_encoder: Mapping[str, Tensor], backbone: Any, place: str) -> Tensor:
    """Return a word's rows [n d] as the token table of ``backbone`` has them.

    Raises
    ------
    InputError
        The word is of another base's encoders.
    """
    widths = encoder_widths(backbone.embedding)
    names = list(ORDER[: len(widths)]) if len(widths) > 1 else [SOLE]
    given = dict(by_encoder)
    if len(given) == 1 and len(names) == 1:
        given = {names[0]: next(iter(given.values()))}
    shapes = ", ".join(f"{k} {len(rows(t))} x {rows(t).shape[1]}" for k, t in by_encoder.items())
    expected = ", ".join(f"{n} of width {w}" for n, w in zip(names, widths, strict=True))
    fits = set(given) == set(names) and all(
        rows(given[n]).shape[1] == w for n, w in zip(names, widths, strict=True)
    )
    if not fits:
        raise InputError(
            f"the word of {place} has rows {shapes}, and backbone {backbone.card.id!r} reads {expected}: it is "
            f"made for {base_of(by_encoder) or 'another base'}"
        )
    lengths = {len(rows(t)) for t in given.values()}
    if len(lengths) > 1:
        raise InputError(f"the word of {place} has {shapes}: encoders read as many rows each")
    if max(lengths) > MOST:
        raise InputError(f"the word of {place} has {max(lengths)} rows: at most {MOST} are taken")
    return torch.cat([rows(given[n]).float() for n in names], dim=1)


def encoder_widths(table: Any) -> list[int]:
    """Return the width of each encoder's rows in a token table, in the table's order."""
    clips = list(getattr(table, "clip_widths", ()))
    if not clips:
        return [int(table.weight.shape[1])]
    return clips + [int(t5.weight.shape[1]) for t5 in table.t5]


def parts_of(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str] | None:
    """Return the rows of a file's word by encoder, and its token where the file says one."""
    if any(t.dim() not in (1, 2) for t in tensors.values()):
        return None
    keys = list(tensors)
    if keys and all(key in ENCODERS for key in keys):
        return {ENCODERS[k]: tensors[k] for k in sorted(keys, key=list(ENCODERS).index)}, ""
    if len(keys) != 1:
        return None
    (key,) = keys
    if key == SOLE or key.startswith(A1111):
        return {SOLE: tensors[key]}, ""
    if re.search(r"\.|\s|_(weight|bias)$", key):
        return None
    return {SOLE: tensors[key]}, key


def as_token(word: str) -> str:
    """Return a placeholder for a word that a file names, itself where it is one."""
    if re.fullmatch(r"<[^<>\s]+>", word):
        return word
    return f"<{re.sub(r'[^0-9A-Za-z]+', '-', word).strip('-') or 'word'}>"


def rows(tensor: Tensor) -> Tensor:
    """Return a word's rows [n d]; one row may have been written as a vector."""
    return tensor if tensor.dim() == 2 else tensor[None]


def spelling(tensors: Mapping[str, Tensor]) -> str:
    """Return in words whose keys these are."""
    first = next(iter(tensors))
    if first.startswith(A1111):
        return "A1111's pickled layout"
    if first == SOLE:
        return "kohya's and A1111's layout"
    return "a tensor for each encoder" if first in ENCODERS else "diffusers' layout"


def base_of(by_encoder: Mapping[str, Tensor]) -> str:
    """Return the family whose encoders have rows so wide."""
    if "t5xxl" in by_encoder:
        return "sd3" if "clip_g" in by_encoder else "flux"
    if "clip_g" in by_encoder:
        return "sdxl"
    width = rows(next(iter(by_encoder.values()))).shape[1]
    return {768: "sd (1.x)", 1024: "sd (2.x)", 1280: "sdxl, its second encoder alone"}.get(
        width, ""
    )
