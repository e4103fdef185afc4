"""alpha / rank of a layer: from its own tensor, from the file's metadata or peft's configuration beside it.

diffusers writes peft's configuration into the metadata as ``lora_adapter_metadata``, its keys behind the name
of the network; peft itself into ``adapter_config.json``. Without either a layer's factor is 1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pcs_core.errors import InputError
from pcs_core.small_files import parse_json, parse_pattern

if TYPE_CHECKING:
    from pcs_formats.contents import Contents

METADATA = "lora_adapter_metadata"
NETWORKS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
LYCORIS = ("LOHA", "LOKR")
"""peft's own types that call alpha "alpha", and divide it by the configuration's rank."""
CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Ways of peft to begin that take from the base's weights what the update starts with."""
TENSORS, NOWHERE = "its own tensors", ""
"""Where a layer's alpha is from, beside a configuration's place."""


@dataclass(frozen=True, slots=True)
class Alpha:
    """A layer's ``value`` (None: said nowhere), its ``place``, and its ``factor`` where only that is said."""

    value: float | None
    place: str = NOWHERE
    factor: float | None = None


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

    def factor(self, path: str) -> float | None:
        """Return alpha / rank of peft's LoHa or LoKr at ``path``; None of another type.

        Raises
        ------
        InputError
            A value is no number.
        """
        if self.values.get("peft_type") not in LYCORIS:
            return None
        rank = self._number("r", "rank_pattern", path, 8.0)
        return self._number("alpha", "alpha_pattern", path, 8.0) / (rank or 1.0)

    def problems(self, parts: Iterable[str]) -> list[str]:
        """Return why updates of ``parts`` ("down", "magnitude" ...) are not what this configuration is of."""
        present, values = set(parts), self.values
        start, said = values.get("init_lora_weights"), []
        if isinstance(start, str) and start.startswith(CHANGED_BASE):
            said.append(
                f"init_lora_weights is {start!r}: the training changed the base's weights as it began, and the "
                "update is of that base. peft converts it: save_pretrained(..., path_initial_model_for_weight_"
                "conversion=...)"
            )
        if values.get("use_dora") and present and not present & {"magnitude", "dora_scale"}:
            said.append(
                "use_dora is true, and the file holds no magnitude: it was left out on the way"
            )
        kind = values.get("peft_type")
        lora = bool(present & {"down", "alpha"})
        if (kind in LYCORIS and "down" in present) or (kind == "LORA" and not lora):
            said.append(f"peft_type is {kind!r}, and the file holds {', '.join(sorted(present))}")
        return [f"{self.place}: {text}" for text in said]

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
