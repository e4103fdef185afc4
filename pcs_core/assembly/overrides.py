"""``--set KEY=VALUE``: KEY is a use, a phase, a model, ``sample`` or ``fit``, a dot, and its field."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pcs_core.assembly.build import technique_class
from pcs_core.assembly.layers import model_name, phase_name, use_name
from pcs_core.assembly.schema import FitTable, ModelTable, PhaseTable, SampleTable
from pcs_core.assembly.tables import Layer, Table, not_plain
from pcs_core.catalogue import Catalogue
from pcs_core.errors import InputError, UnknownNameError, nearest
from pcs_core.small_files import check_bounds


def override(layer: Layer, overrides: Sequence[str], catalogue: Catalogue) -> Layer:
    """Return ``layer`` with each ``"KEY=VALUE"`` applied, in order; VALUE is TOML or a bare word.

    Raises
    ------
    InputError
        Not of that form.
    UnknownNameError
        No such key; names the nearest one.
    """
    if not overrides:
        return layer
    changed = replace(
        layer, uses=list(layer.uses), phases=list(layer.phases), models=list(layer.models)
    )
    for text in overrides:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not (key and equals):
            raise InputError(f"--set {text!r}: write KEY=VALUE, as in sample.steps=20")
        _set(changed, key, _value(value, text), f"--set {text}", catalogue)
    return changed


def _set(layer: Layer, key: str, value: Any, place: str, catalogue: Catalogue) -> None:
    keys = _keys(layer, catalogue)
    if key not in keys:
        hint = nearest(key, keys) or f" (known: {', '.join(keys)})"
        raise UnknownNameError(f"--set: no setting {key!r}{hint}")
    kind, index, field = keys[key]
    change = Table({field: value}, {field: place})
    if kind == "use":
        layer.uses[index] = layer.uses[index].merged(change)
    elif kind == "phase":
        layer.phases[index] = layer.phases[index].merged(change)
    elif kind == "model":
        layer.models[index] = layer.models[index].merged(change)
    elif kind == "fit":
        layer.fit = layer.fit.merged(change)
    else:
        layer.sample = layer.sample.merged(change)


def _keys(layer: Layer, catalogue: Catalogue) -> dict[str, tuple[str, int, str]]:
    # whole keys, so that a dot in the name of a use is no question of where to split
    keys: dict[str, tuple[str, int, str]] = {}
    for index, use in enumerate(layer.uses):
        for field in technique_class(use, catalogue).setting_names():
            keys[f"{use_name(use)}.{field}"] = ("use", index, field)
    for index, phase in enumerate(layer.phases):
        for field in PhaseTable.model_fields:
            if field != "name":
                keys.setdefault(f"{phase_name(phase)}.{field}", ("phase", index, field))
    for index, model in enumerate(layer.models):
        for field in ModelTable.model_fields:
            if field != "name":
                keys.setdefault(f"{model_name(model)}.{field}", ("model", index, field))
    for field in FitTable.model_fields:
        keys.setdefault(f"fit.{field}", ("fit", 0, field))
    for field in SampleTable.model_fields:
        keys.setdefault(f"sample.{field}", ("sample", 0, field))
    return keys


def _value(text: str, whole: str) -> Any:
    text = text.strip()
    check_bounds(text, f"--set {whole}")
    try:
        data = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    if set(data) != {"value"}:
        return text
    if (odd := not_plain(data["value"])) is not None:
        raise InputError(f"--set {whole}: {odd} is not allowed in a recipe")
    return data["value"]
