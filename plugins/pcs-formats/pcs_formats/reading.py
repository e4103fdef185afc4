"""What an importer makes of a file: what it would use, what stands in its way, and the artifact."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pcs_core.assembly import recipe_from_text
from pcs_core.data import Concept, Personalization
from pcs_core.errors import InputError
from pcs_engine.restoring import restore

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.backbone import Backbone
    from pcs_core.data import Recipe
    from pcs_formats.contents import Contents

EXAMPLES = 10
"""Keys that are listed of many."""
SHOWN = 3
"""Problems that an error shows; the number of all is said."""


@dataclass(frozen=True, slots=True)
class Given:
    """What the user says of a file: the ``token`` for prompts, its ``noun``, the artifact's ``name``."""

    token: str = ""
    noun: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Use:
    """A use of the artifact's recipe: its name, technique and settings."""

    name: str
    technique: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Reading:
    """What one importer makes of a file.

    ``kind`` says what the file is, ``base`` the family it is for, as far as it shows, ``used`` are the keys it
    takes, ``problems`` what it cannot take and why (each names a key), ``missing`` keys that should be there,
    ``notes`` what a user should know of how it is read.
    ``uses``, ``tensors``, ``concepts`` and ``words`` (token -> text) make the artifact. ``system`` is the id of
    the artifact's recipe and ``phases`` its tables; ``sample`` are its numbers of drawing, where the file's
    release has some.
    """

    kind: str
    base: str = ""
    used: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    uses: list[Use] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    concepts: list[Concept] = field(default_factory=list)
    words: dict[str, dict[str, str]] = field(default_factory=dict)
    system: str = "imported"
    phases: Sequence[Mapping[str, Any]] = ()
    sample: Mapping[str, Any] = field(default_factory=dict)


Importer = Callable[["Contents", "Backbone | None", Given], "Reading | None"]
"""None: the file is of another kind. Without a backbone it says what the file alone shows."""


def refuse_problems(reading: Reading, contents: Contents, backbone: Backbone) -> None:
    """Refuse a file that is not used to its last key.

    Raises
    ------
    InputError
        Names the first keys, and what was expected in their place.
    """
    unused = sorted(set(contents.tensors) - reading.used)
    problems = list(dict.fromkeys(reading.problems))
    if not problems and unused:
        problems = [f"nothing reads the key {key!r}" for key in unused]
    problems += [f"the key {key!r} is missing" for key in reading.missing]
    if problems:
        more = f" (and {len(problems) - SHOWN} more)" if len(problems) > SHOWN else ""
        raise InputError(
            f"{contents.path} is not imported for backbone {backbone.card.id!r}: "
            f"{'; '.join(problems[:SHOWN])}{more} (`pcs inspect {contents.path.name}` shows what it is for)"
        )


def artifact_of(
    reading: Reading, contents: Contents, backbone: Backbone, given: Given
) -> Personalization:
    """Return the artifact of a reading, checked by building it on ``backbone``.

    Raises
    ------
    InputError
        Some of the file would not be used.
    """
    refuse_problems(reading, contents, backbone)
    recipe = recipe_of(reading, contents, backbone)
    artifact = Personalization(
        recipe=recipe,
        backbone=backbone.card,
        concepts=tuple(reading.concepts),
        tensors={name: t.detach().float().contiguous() for name, t in reading.tensors.items()},
        subject=given.name or contents.path.stem,
        extra={
            "imported": {
                "file": contents.path.name,
                "sha256": contents.sha256,
                "kind": reading.kind,
                "metadata": {k: shortened(v) for k, v in contents.metadata.items()},
                **{k: v for k, v in reading.facts.items() if k == "alpha from"},
                **({"notes": list(reading.notes)} if reading.notes else {}),
            },
            **({"words": reading.words} if reading.words else {}),
        },
    )
    if not any(phase.pretrain for phase in recipe.phases):
        restore(artifact, backbone, 0)  # every tensor has its place, or this says which has not
    return artifact


def shortened(text: str, most: int = 300) -> str:
    """Return a value of metadata, cut where it is long, and saying so: tags of a training can fill pages."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"


def recipe_of(reading: Reading, contents: Contents, backbone: Backbone) -> Recipe:
    """Return the recipe of an artifact: a file like any user's, with the numbers of the backbone's profile."""
    text = recipe_text(reading, contents.path.name, backbone.card.family)
    return recipe_from_text(text, f"the recipe of {contents.path}", backbone=backbone)


def recipe_text(reading: Reading, file: str, family: str) -> str:
    """Return the recipe in TOML."""
    lines = [
        "[recipe]",
        f"id = {json.dumps(reading.system)}",
        f"name = {json.dumps(f'Imported from {file}'[:200])}",
        f"notes = {json.dumps(reading.kind)}",
        f"backbones = [{json.dumps(family)}]",
    ]
    for use in reading.uses:
        lines += ["", "[[use]]", f"technique = {json.dumps(use.technique)}"]
        lines += [f"name = {json.dumps(use.name)}"]
        lines += [f"{key} = {toml(value)}" for key, value in use.settings.items()]
    for phase in reading.phases:
        lines += ["", "[[pretrain]]"]
        lines += [f"{key} = {toml(value)}" for key, value in phase.items()]
    if reading.sample:
        lines += [
            "",
            "[sample]",
            *(f"{key} = {toml(value)}" for key, value in reading.sample.items()),
        ]
    return "\n".join(lines) + "\n"


def toml(value: Any) -> str:
    """Return a plain value as TOML writes it."""
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(toml(item) for item in value)}]"
    return json.dumps(value)
