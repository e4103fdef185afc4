"""Loading a preset: from its id or a file, with techniques named beside it, a backbone, and ``--set``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from pcs_core.arguments import checks_arguments
from pcs_core.assembly.build import check_keys, document_hash, make_use, technique_class
from pcs_core.assembly.layers import for_backbone, use_name
from pcs_core.assembly.overrides import override
from pcs_core.assembly.schema import USE_KEYS, SampleTable, read_table
from pcs_core.assembly.schema import Table as Shape
from pcs_core.assembly.tables import Layer, Table, layer_of
from pcs_core.assembly.target import Target, id_and_family
from pcs_core.catalogue import Catalogue
from pcs_core.catalogue import catalogue as installed
from pcs_core.data.preset import Preset
from pcs_core.errors import InputError, RecipeError, nearest
from pcs_core.small_files import parse_toml, read_text

TABLES = ("preset", "use", "sample", "gate", "backbone")
OWN = "own"
"""The id of a preset that is made of named techniques alone."""


class PresetTable(Shape):
    """``[preset]``: what it is called, in one line, and what is known of its numbers."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    title: str = ""
    notes: str = ""


@checks_arguments
def load_preset(
    source: str | Path | None = None,
    *,
    backbone: Target = None,
    techniques: Sequence[str] = (),
    overrides: Sequence[str] = (),
    catalogue: Catalogue | None = None,
) -> Preset:
    """Return a resolved preset.

    ``source`` is an installed preset's id, a ``.toml`` file, or None for none. ``techniques`` are ids that
    are used behind it; ``backbone`` is what the ``[backbone.<family or id>]`` tables are chosen by, as for
    `load_recipe`; ``overrides`` are ``"KEY=VALUE"`` on the uses and on ``sample``.

    Raises
    ------
    UnknownNameError
        No such preset, technique or key; names the nearest.
    InputError
        The file cannot be read.
    RecipeError
        Anything wrong inside.
    """
    catalogue = catalogue or installed()
    text, file = ("", OWN) if source is None else _read(source, catalogue)
    head, gate, layer = _tables(text, file)
    layer.uses += [Table({"technique": id}, place=f"--with {id}") for id in techniques]
    above = [*layer.uses, *(use for b in layer.backbones.values() for use in b.uses)]
    for use in above:
        check_keys(
            use, (*technique_class(use, catalogue).setting_names(), *USE_KEYS), use_name(use)
        )
    layer = override(for_backbone(layer, *_targets(backbone, catalogue)), overrides, catalogue)
    if layer.phases or layer.fit.values:
        raise RecipeError(
            f"{file}: a preset changes how pictures are drawn: phases and [fit] belong in a recipe"
        )
    uses = tuple(make_use(table, catalogue) for table in layer.uses)
    check_keys(layer.sample, tuple(SampleTable.model_fields), "[sample]")
    place = layer.sample.place
    read = read_table(
        SampleTable, layer.sample.values, title="[sample]", places=layer.sample.places, place=place
    )
    sample = {key: getattr(read, key) for key in layer.sample.values}
    document = {
        "use": [{"technique": u.technique.id, **u.technique.settings()} for u in uses],
        "sample": sample,
        "gate": gate,
    }
    return Preset(
        **head.model_dump(),
        uses=uses,
        sample=sample,
        bounds=gate,
        hash=document_hash(document),
        path="" if source is None else file,
    )


def _targets(backbone: Target, catalogue: Catalogue) -> tuple[str, ...]:
    id, family = id_and_family(backbone, catalogue)
    return tuple(name for name in (family, id) if name)


def _read(source: str | Path, catalogue: Catalogue) -> tuple[str, str]:
    named = isinstance(source, str) and not source.endswith(".toml") and "/" not in source
    path = Path(catalogue.get("presets", str(source)) if named else source).expanduser()
    try:
        return read_text(path), str(path)
    except InputError as error:
        raise InputError(f"preset {str(source)!r}: {error}") from error


def _tables(text: str, file: str) -> tuple[PresetTable, Mapping[str, float], Layer]:
    data = parse_toml(text, file, error=RecipeError) if text else {"preset": {"id": OWN}}
    for key in data:
        if key not in TABLES:
            raise RecipeError(f"{file}: unknown table {key!r}{nearest(key, TABLES)}")
    if not isinstance(data.get("preset"), dict):
        raise RecipeError(f"{file}: no [preset] table: it needs at least an id")
    head = read_table(PresetTable, data.pop("preset"), title="[preset]", places={}, place=file)
    gate = data.pop("gate", {})
    if not isinstance(gate, dict) or not all(_is_number(v) for v in gate.values()):
        raise RecipeError(f"{file}: [gate] holds numbers by name, as identity = 0.02")
    layer = layer_of({"recipe": {"id": head.id}, **data}, file, text)
    return head, {k: float(v) for k, v in gate.items()}, layer


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
