"""By how much a residual in a file counts: alpha / rank, from its tensors, its metadata or the file beside it.

kohya writes alpha as a tensor of each layer; diffusers into the metadata (``lora_adapter_metadata``: peft's
configuration of each network, its keys behind ``unet.``, ``transformer.`` or ``text_encoder.``); peft itself
into ``adapter_config.json`` beside the file. Without any of them readers take alpha for the rank.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcs_core.errors import InputError
from pcs_core.small_files import parse_json, parse_pattern, read_text

METADATA = "lora_adapter_metadata"
CONFIGURATION = "adapter_config.json"
PREFIXES: Mapping[str, tuple[str, ...]] = {
    "denoiser": ("unet.", "transformer.", ""),
    "text": ("text_encoder.", ""),
}
"""Part of the network -> how the keys of its configuration begin."""


@dataclass(frozen=True, slots=True)
class Scales:
    """peft's configuration of a file's networks (empty: none), and where it stands."""

    place: str
    values: Mapping[str, Any]

    def of(self, part: str, layer: str, rank: int) -> float | None:
        """Return the factor of up(down(x)) in ``layer`` (dotted), or None where nothing is said of it.

        Raises
        ------
        InputError
            A value is no number, or the rank is not the tensors'.
        """
        for prefix in PREFIXES[part]:
            if f"{prefix}lora_alpha" in self.values:
                break
        else:
            return None
        alpha = self._number(prefix, "lora_alpha", "alpha_pattern", layer)
        said = (
            self._number(prefix, "r", "rank_pattern", layer)
            if f"{prefix}r" in self.values
            else rank
        )
        if said != rank:
            raise InputError(
                f"{self.place}: {prefix}r is {said:g} for {layer!r}, whose tensors have rank {rank}: the "
                "metadata is of another file"
            )
        # peft: alpha / sqrt(r) with use_rslora (arXiv:2312.03732), else alpha / r
        return alpha / (math.sqrt(rank) if self.values.get(f"{prefix}use_rslora") else rank)

    def _number(self, prefix: str, key: str, patterns: str, layer: str) -> float:
        value = self.values[prefix + key]
        table = self.values.get(prefix + patterns) or {}
        if not isinstance(table, Mapping):
            raise InputError(f"{self.place}: {prefix}{patterns} is no table")
        for (
            pattern,
            matched,
        ) in table.items():  # as peft: an expression for the end of a layer's path
            ends = parse_pattern(pattern, self.place).pattern
            if re.match(rf"(?:.*\.)?(?:{ends})$", layer):
                value = matched
                break
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            raise InputError(f"{self.place}: {prefix}{key} of {layer!r} is no number: {value!r}")
        return float(value)


def read_scales(path: Path, metadata: Mapping[str, str]) -> Scales:
    """Return what the file at ``path``, of this metadata, or its neighbour says of alpha.

    Raises
    ------
    InputError
        It is no JSON object.
    """
    beside = path.with_name(CONFIGURATION)
    if METADATA in metadata:
        place, text = f"{path}: metadata {METADATA!r}", metadata[METADATA]
    elif path.name.startswith("adapter_model") and beside.is_file():
        place, text = str(beside), read_text(beside)
    else:
        return Scales(str(path), {})
    values = parse_json(text, place)
    if not isinstance(values, dict):
        raise InputError(f"{place} is no JSON object")
    return Scales(place, values)
