"""The strict shapes of everything in a recipe that is not a technique's setting."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from pcs_core.data.recipe import ALL, Phase
from pcs_core.errors import RecipeError
from pcs_core.technique import explain

Count = Annotated[int, Field(ge=1)]
MOST_STEPS = 1000
"""Of a drawing: as many noise levels as a backbone knows."""
MOST_PARTS = 100_000
"""Of one step of a fit: each is a forward and a backward pass of its own."""


def _rows(value: object) -> object:
    if value == "all" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError(f'rows are a number of at least 1, or "all", got {value!r}')


Rows = Annotated[int | Literal["all"], BeforeValidator(_rows)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Name = Annotated[str, Field(min_length=1, pattern=r"^[^\s/*?\[\]]+$")]
Words = tuple[str, ...]

USE_KEYS = ("technique", "name")
"""Keys of ``[[use]]`` that are not settings."""


class Table(BaseModel):
    """Base of the tables: unknown keys are refused, and every field is JSON-able."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Framework = Literal["TTF", "PTA", "hybrid"]
"""Test-time fine-tuning, a pre-trained adapter, or a pre-trained one that is tuned shortly."""
Scope = Literal[
    "object",
    "style",
    "face",
    "multiple-subjects",
    "high-level-semantic",
    "extra-conditions",
    "video",
    "3d",
    "attack-and-defense",
    "others",
]
"""What is personalised, in the survey's order. "high-level-semantic" is relations, actions and the
like, "extra-conditions" layouts, garments, views and other spatial inputs, "others" what has no
group of its own, such as vector graphics and panoramas."""
SCOPES: tuple[Scope, ...] = get_args(Scope)
FRAMEWORKS: tuple[Framework, ...] = get_args(Framework)


class HeadTable(Table):
    """What a resolved recipe says of itself, kept with every artifact. See `RecipeTable`.

    Artifacts of earlier versions have scopes of other spellings: what is stored is read as it is.
    """

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    name: str = ""
    paper: str = ""
    scope: Words = ()
    framework: Framework = "TTF"
    backbones: Words = ()
    notes: str = ""


class RecipeTable(HeadTable):
    """``[recipe]``: what the recipe is, and the facts of a surveyed system.

    ``extends`` is resolved before this is read. ``backbones`` are the families the recipe is meant for,
    the first one that its numbers are of; ``not_on`` maps a family where it cannot run to the reason, and
    is refused there before weights are read. The facts: ``survey`` is the survey's number of the paper,
    ``year`` when the system appeared, ``title`` the paper's, ``summary`` the mechanism in a sentence,
    ``techniques`` the survey's words for it (catalogue ids), ``published_on`` the base models as the
    survey names them, ``code`` the address of the authors' code, ``needs`` what it asks of the design
    beyond the plain flow of a fit, ``impossible`` why it cannot be expressed, ``note`` what a reader of
    the entry should know.
    """

    scope: tuple[Scope, ...] = ()
    title: str = ""
    summary: str = ""
    note: str = ""
    code: Annotated[str, Field(pattern=r"^(https://\S+)?$")] = ""
    survey: Annotated[int, Field(ge=1)] | None = None
    year: Annotated[int, Field(ge=1990, le=2100)] | None = None
    techniques: Words = ()
    published_on: Words = ()
    needs: Words = ()
    impossible: str = ""
    not_on: dict[str, Annotated[str, Field(min_length=1)]] = {}


FACTS = tuple(
    name
    for name in RecipeTable.model_fields
    if name not in HeadTable.model_fields and name != "not_on"  # what a child runs on is its uses'
)
"""Keys of ``[recipe]`` that are facts of one published system."""


class DifferenceTable(Table):
    """``[[left_out]]`` and ``[[beyond]]``: where the uses differ from the survey's words, and why.

    ``technique`` is a word of the survey that no use implements, or one of a use that the survey does
    not name.
    """

    technique: Annotated[str, Field(min_length=1)]
    reason: Annotated[str, Field(min_length=1)]


class SourceTable(Table):
    """``[[source]]``: what was read before the recipe was written, and what was taken from it.

    ``what`` names the place, as "paper, section 3.2, equation 5" or "code, ip_adapter/resampler.py"; ``gave``
    says in a sentence which mechanism or numbers it gave.
    """

    what: Annotated[str, Field(min_length=1)]
    gave: str = ""


class DepartureTable(Table):
    """``[[departure]]``: ``what`` the paper or its code does and the recipe does not, or otherwise; ``why``."""

    what: Annotated[str, Field(min_length=1)]
    why: Annotated[str, Field(min_length=1)]


class ParityTable(Table):
    """``[[parity]]``: what agrees with another implementation for the same weights and inputs.

    ``against`` names that one, ``within`` bounds the absolute difference of every element (0: bit for bit),
    ``test`` is the id ``"path/test_file.py::name"`` of what compares them, ``of`` what is compared where that
    is not the whole system.
    """

    against: Annotated[str, Field(min_length=1)]
    within: Amount
    test: Annotated[str, Field(pattern=r"^[\w./-]+\.py::\w+(::\w+)?$")]
    of: str = ""


FACT_TABLES: dict[str, type[Table]] = {
    "left_out": DifferenceTable,
    "beyond": DifferenceTable,
    "source": SourceTable,
    "departure": DepartureTable,
    "parity": ParityTable,
}
"""What each entry of a list of facts holds."""


class ModelTable(Table):
    """``[[model]]``: see :class:`pcs_core.data.FurtherModel`."""

    name: Name
    backbone: str = ""
    artifact: str = ""
    system: str = ""

    def document(self) -> dict[str, Any]:
        """Return the table as a recipe's document holds it."""
        return self.model_dump(mode="json", exclude_defaults=True)

    @model_validator(mode="after")
    def _one_thing(self) -> Self:
        if self.name in ("self", "base"):
            raise ValueError(
                f"{self.name!r} is what techniques call the fitted network itself: choose another name"
            )
        if self.artifact and self.system:
            raise ValueError(
                "an artifact and a system at once: give the artifact of an earlier fit, or the system "
                "that is fitted first"
            )
        return self


class PhaseTable(Table):
    """``[[phase]]``: see :class:`pcs_core.data.Phase`. A single number stands for all."""

    name: Name
    steps: Annotated[int, Field(ge=0)]
    batch: Annotated[dict[str, Rows], Field(min_length=1)] = {"subject": 1}
    lr: Annotated[dict[str, Rate], Field(min_length=1)] = {"*": 1e-4}
    train: Words = ("*",)
    losses: Words = ("*",)
    optimizer: Annotated[str, Field(min_length=1)] = "adamw"
    weight_decay: Amount = 0.0
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    warmup: Annotated[int, Field(ge=0)] = 0
    decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    clip: Amount = 0.0
    accumulate: Annotated[int, Field(ge=1, le=MOST_PARTS)] = 1
    edits: Words = ("*",)
    snapshot: str = ""
    restore: str = ""
    pretrain: bool = False
    source: str = ""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    floor: Annotated[float, Field(ge=0, le=1)] = 0.0
    ema: Beta = 0.0
    size: Annotated[int, Field(ge=0)] = 0
    reach: dict[str, Words] = {}

    LATER: ClassVar[tuple[str, ...]] = ("schedule", "floor", "ema", "size", "reach")
    """Keys that documents written before do not have: left out of one where they change nothing."""

    def document(self) -> dict[str, Any]:
        """Return the table as a recipe's document holds it."""
        defaults = {key: PhaseTable.model_fields[key].default for key in self.LATER}
        table = self.model_dump(mode="json")
        return {k: v for k, v in table.items() if k not in defaults or v != defaults[k]}

    @model_validator(mode="after")
    def _size_of_a_fit(self) -> Self:
        if self.pretrain and self.size:
            raise ValueError(
                "size is for the phases of a fit: a pre-training takes its pictures at the backbone's size"
            )
        return self

    def phase(self) -> Phase:
        """Return the phase of this table."""
        values = self.model_dump()
        values["batch"] = {role: ALL if n == "all" else n for role, n in self.batch.items()}
        return Phase(**values)

    @field_validator("batch", mode="before")
    @classmethod
    def _batch(cls, value: Any) -> Any:
        return value if isinstance(value, dict) else {"subject": value}

    @field_validator("lr", mode="before")
    @classmethod
    def _lr(cls, value: Any) -> Any:
        return value if isinstance(value, dict) else {"*": value}

    @field_validator("reach", mode="before")
    @classmethod
    def _reach(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        named = ((loss, [g] if isinstance(g, str) else g) for loss, g in value.items())
        return {loss: tuple(g) if isinstance(g, list) else g for loss, g in named}

    @model_validator(mode="after")
    def _readable(self) -> Self:
        if self.pretrain and "all" in self.batch.values():
            raise ValueError(
                "a pre-training reads its records one after another: give `batch` a number"
            )
        return self


class FitTable(Table):
    """``[fit]``: how often the list of phases is gone through, and the share of rows without a caption."""

    cycles: Count = 1
    caption_dropout: Annotated[float, Field(ge=0, le=0.9)] = 0.0

    def document(self) -> dict[str, Any]:
        """Return the table as a recipe's document holds it: documents written before have no dropout."""
        return self.model_dump(
            mode="json", exclude={"caption_dropout"} if not self.caption_dropout else set()
        )


class SampleTable(Table):
    """``[sample]``: see :class:`pcs_core.data.SampleSettings`."""

    steps: Annotated[int, Field(ge=1, le=MOST_STEPS)] = 50
    scale: Amount = 7.5
    scheduler: Annotated[str, Field(min_length=1)] = "ddim"
    negative: str = ""


T = TypeVar("T", bound=Table)


def read_table(
    model: type[T], values: Mapping[str, Any], *, title: str, places: Mapping[str, str], place: str
) -> T:
    """Validate ``values`` strictly.

    ``places`` maps a key to ``"file:line"``; ``place`` stands for keys that have none.

    Raises
    ------
    RecipeError
        Unknown key (with the nearest valid one), wrong type, out of range.
    """
    try:
        # JSON mode, as techniques do it: a list passes for a tuple and 1 for a float, "7" does not
        return model.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        first = error.errors()[0]["loc"]
        where = places.get(str(first[0]), place) if first else place
        prefix = f"{where}: " if where else ""
        known = tuple(model.model_fields)
        raise RecipeError(f"{prefix}{title}: {explain(error, known)}") from error
    except (TypeError, ValueError) as error:
        prefix = f"{place}: " if place else ""
        raise RecipeError(f"{prefix}{title}: not plain data ({error})") from error
