"""What a suite's TOML file may hold, checked before anything is made of it: it may be another's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from pcs_core.errors import InputError, nearest
from pcs_core.small_files import is_plain_name, is_plain_path


def _name(name: str) -> str:
    if not is_plain_name(name):
        raise ValueError("names a folder: leave out slashes and dots")
    return name


def _path(path: str) -> str:
    if not is_plain_path(path):
        raise ValueError("names a place outside its folder")
    return path


Name = Annotated[str, AfterValidator(_name)]
Path_ = Annotated[str, AfterValidator(_path)]
Word = Annotated[str, Field(min_length=1, max_length=1000)]
Count = Annotated[int, Field(ge=1, le=10_000)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class About(_Table):
    """``[suite]``."""

    id: Name
    kind: Word
    title: str = ""
    paper: str = ""
    stands_for: str = ""


class Images(_Table):
    """``[images]``: where the pictures come from and lie, or the world that draws them."""

    folder: Path_ | None = None
    checksums: Path_ | None = None
    source: str = ""
    licence: str = ""
    layout: str = ""
    how: str = ""
    world: Word | None = None
    references: Count = 5


class Prompt(_Table):
    """A prompt of the suite's own: its text and what it asks for."""

    text: Word
    kind: str = ""


class SubjectRow(_Table):
    """A ``[[subject]]``: one noun or several, a folder or several, or members of a world."""

    name: Name
    noun: Word | None = None
    nouns: list[Word] = []
    token: Word | None = None
    tokens: list[Word] = []
    folder: Path_ | None = None
    folders: list[Path_] = []
    member: Word | None = None
    members: list[Word] = []
    prompts: Path_ | None = None
    class_: str = Field(default="", alias="class")


class Survey(_Table):
    """``[survey]``: which part of the survey's package, and how many subjects and prompts it has."""

    part: Word
    count: Count
    prompts: Count


class Folders(_Table):
    """``[found]``: every folder is a subject of this noun and class."""

    noun: Word
    class_: str = Field(alias="class")


class SuiteTable(_Table):
    """A suite's file."""

    suite: About
    images: Images = Images()
    prompts: dict[str, Path_ | list[Word]] = {}
    prompt: dict[str, list[Word | Prompt]] = {}
    subject: list[SubjectRow] = []
    survey: Survey | None = None
    every_folder: Folders | None = Field(default=None, alias="found")


def check(document: Mapping[str, Any], path: Path) -> None:
    """Refuse a suite that holds anything else.

    Raises
    ------
    InputError
        Names the file, the key and what stands there.
    """
    try:
        table = SuiteTable.model_validate(document)
    except ValidationError as error:
        raise InputError(f"{path}: {_first(error)}") from error
    for row in table.subject:
        if row.noun is None and not row.nouns:
            raise InputError(f"{path}: the subject {row.name!r} has no noun")


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = [field.alias or name for name, field in SuiteTable.model_fields.items()]
        return f"unknown key {place!r}{nearest(place, known)}"
    said = first["msg"].removeprefix("Value error, ")
    return f"{place}: {said}, got {json.dumps(first['input'], default=str)[:80]}"
