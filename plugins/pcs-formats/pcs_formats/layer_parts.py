"""The tensors of a file by layer: how a key ends says what the tensor is of its layer's update.

Endings of kohya, diffusers (old and new), peft and LyCORIS. Every key belongs to a layer or is strange.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

ENDINGS: Mapping[str, str] = {
    r"\.lora_down\.weight": "down",
    r"\.lora_up\.weight": "up",
    r"\.lora_mid\.weight": "mid",
    r"\.lora_A(?:\.[^.]+)?\.weight": "down",
    r"\.lora_B(?:\.[^.]+)?\.weight": "up",
    r"\.lora\.down\.weight": "down",
    r"\.lora\.up\.weight": "up",
    r"\.lora_linear_layer\.down\.weight": "down",
    r"\.lora_linear_layer\.up\.weight": "up",
    r"\.alpha": "alpha",
    r"\.dora_scale": "dora_scale",
    r"\.lora_magnitude_vector(?:\.[^.]+)?(?:\.weight)?": "magnitude",
    r"\.(hada_[wt][12](?:_[ab])?)": "",
    r"\.(lokr_[wt][12](?:_[ab])?)": "",
    r"\.(oft_blocks|rescale|diff|diff_b|w_norm|b_norm)": "",
}
"""Ending of a key (a pattern) -> the tensor's name here; "" stands for the pattern's group."""
PROCESSOR = re.compile(r"(.+)\.processor\.(to_(?:q|k|v|out))_lora\.(down|up)\.weight")
"""diffusers' oldest keys: of an attention processor, not of its layers."""
_PATTERNS = [(re.compile(f"(.+){ending}$"), name) for ending, name in ENDINGS.items()]


@dataclass(slots=True)
class LayerParts:
    """One layer's tensors by name here, and the keys they came from."""

    parts: dict[str, Tensor] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)


def split_key(key: str) -> tuple[str, str] | None:
    """Return the layer's name in the file and the tensor's here, or None of a key that is no layer's."""
    if match := PROCESSOR.fullmatch(key):
        path, layer, which = match.groups()
        return f"{path}.{layer}{'.0' if layer == 'to_out' else ''}", which
    for pattern, name in _PATTERNS:
        if match := pattern.match(key):
            return match[1], name or match[2]
    return None


def by_layer(
    tensors: Mapping[str, Tensor],
) -> tuple[dict[str, LayerParts], list[str], list[tuple[str, str]]]:
    """Return the layers of a file by their names in it, the keys of none, and pairs of keys of one tensor."""
    layers: dict[str, LayerParts] = {}
    strange = []
    twice = []
    for key, tensor in tensors.items():
        if (named := split_key(key)) is None:
            strange.append(key)
            continue
        layer = layers.setdefault(named[0], LayerParts())
        if named[1] in layer.parts:
            twice.append((layer.keys[named[1]], key))
            continue
        layer.parts[named[1]], layer.keys[named[1]] = tensor, key
    return layers, strange, twice


def nearest_ending(key: str, known: Iterable[str]) -> str:
    """Return the known key most like ``key`` in how it begins, or ""."""
    best, length = "", 0
    for other in known:
        same = next((i for i, (a, b) in enumerate(zip(key, other)) if a != b), len(key))
        if same > length:
            best, length = other, same
    return best
