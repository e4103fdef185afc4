"""alpha / rank of a layer: from its own tensor, from the file's metadata or peft's configuration beside it.

diffusers writes peft's configuration into the metadata as ``lora_adapter_metadata``, its keys behind the name
of the network; peft itself into ``adapter_config.json``. Without either a layer's factor is 1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pcs_core.errors import InputError
from pcs_core.small_files import parse_json, parse_pattern

if TYPE_CHECKING:
    from pcs_formats.contents import Contents

METADATA = "lora_adapter_metadata"
NETWORKS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
KNOWN = ("lora_alpha", "alpha_pattern", "r", "rank_pattern", "use_rslora", "use_dora")
"""Keys of peft's configuration that say by how much an update counts."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """peft's configuration of one network of a file, and where it stands."""

    place: str
    values: Mapping[str, Any]

    def alpha(self, path: str, rank: int) -> float:
        """Return the alpha of the layer at ``path`` (dotted) so that its factor is alpha / ``rank``.

        Raises
        ------
        InputError
            A value is no number, or the rank is not the tensors'.
        """
        said = self._number("r", "rank_pattern", path, rank)
        if said != rank:
            raise InputError(
                f"{self.place}: the rank of {path!r} is {said:g} there, and its tensors have rank {rank}: the "
                "metadata is of another file"
            )
        alpha = self._number("lora_alpha", "alpha_pattern", path, rank)
        # arXiv:2312.03732: alpha / sqrt(r)
        return alpha * math.sqrt(rank) if self.values.get("use_rslora") else alpha

    def _number(self, key: str, patterns: str, path: str, default: float) -> float:
        value = self.values.get(key, default)
        table = self.values.get(patterns) or {}
        if not isinstance(table, Mapping):
            raise InputError(f"{self.place}: {patterns} is no table")
        for pattern, matched in table.items():  # as peft: an expression for the end of a path
            ends = parse_pattern(pattern, self.place).pattern
            if re.match(rf"(.*\.)?({ends})$", path):
                value = matched
                break
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value):
            raise InputError(f"{self.place}: {key} of {path!r} is no number: {value!r}")
        return float(value)


def configurations(contents: Contents) -> dict[str, Configuration]:
    """Return peft's configuration of each network ("unet", "text_encoder" ..., "" for any) in a file.

    Raises
    ------
    InputError
        It is no JSON object.
    """
    if METADATA not in contents.metadata:
        place = str(contents.path.with_name("adapter_config.json"))
        return {"": Configuration(place, contents.beside)} if contents.beside else {}
    place = f"{contents.path}: metadata {METADATA!r}"
    values = parse_json(contents.metadata[METADATA], place)
    if not isinstance(values, dict):
        raise InputError(f"{place} is no JSON object")
    by_network: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        network, _, rest = key.partition(".")
        name, rest = (network, rest) if network in NETWORKS else ("", key)
        by_network.setdefault(name, {})[rest] = value
    return {name: Configuration(place, table) for name, table in by_network.items()}
