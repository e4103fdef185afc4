"""What a technique is: a class whose fields are its settings and whose methods are hooks.

``Technique.__init_subclass__`` turns each subclass into a frozen, keyword-only pydantic
dataclass with identity equality (pluggy refuses a second equal plugin), and refuses at class
creation the mistakes that would otherwise be silent: a hook without its marker, an own
``__init__``, an underscore field, a public value without annotation.
"""

from __future__ import annotations

import dataclasses
import json
import re
import types
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self, dataclass_transform, get_origin

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from pcs_core.errors import RecipeError, nearest
from pcs_core.hookspecs import RUN_HOOKS, RUN_PROJECT

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data.personalization import BackboneCard
    from pcs_core.data.run import Run
    from pcs_core.data.subject import Subject
    from pcs_core.data.words import Words

_CONFIG = ConfigDict(extra="forbid", use_attribute_docstrings=True)
_PLAIN = (types.FunctionType, property, classmethod, staticmethod, type)


@dataclass_transform(
    kw_only_default=True, eq_default=False, field_specifiers=(Field, dataclasses.field)
)
class Technique:
    """Base of every technique. Subclasses declare settings as annotated fields.

    Class attributes
    ----------------
    id
        Code id, ``"<group>.<name>"``, e.g. ``"tokens.learnable"``. Required.
    catalogue
        The catalogue's technique ids that this class implements, a tuple of literals (it is read as text).
        Where it depends on the settings, :meth:`implements` says which.
    formerly
        Ids that it had in earlier versions, a tuple of literals: artifacts that name them still open.
    neutral
        Settings under which the technique changes nothing (the contract test uses it).
    absent
        What an artifact means that was stored before a setting was there: setting -> its value then. Without
        an entry it is the default, which must then be what was done before.
    stacks_subjects
        True when its edits keep parameters ``[S, ...]``, so several subjects train in one forward.
    takes_clips
        False where it is defined on pictures alone: a recipe that uses it is refused on a backbone of clips.
    rowwise
        True when nothing that it does with a row of a fit step, in the network, a mask or a loss, depends on
        the other rows, and each of its losses speaks about all rows of its roles: several processes may then
        share out the rows of a part. Otherwise they share out whole parts (``accumulate``).
    weighs
        Globs over the names of its stored tensors behind the use's ("*/B") in proportion to which it acts: a
        drawing may weigh them (`--strength`). Where they depend on settings, override :meth:`weighed`.
    merges_by
        Id of the merger by which its paper joins several subjects ("closed-form"); "" names none.
    reads_layout
        True when it does something with boxes or points that are given with a prompt.
    reads_picture
        True when it does something with a control picture that is given with a prompt.
    profiled
        Setting -> the field of a backbone's :class:`~pcs_core.data.Profile` that may fill it, where a
        recipe was published on another backbone. A setting that is empty there stays empty.
    mask_moments
        Moments at which its ``mask`` is called: subject, batch.
    reads, writes
        Words by which it meets other techniques ("feature:image", "role:prior": see
        :data:`pcs_core.data.words.KINDS`), checked when a recipe loads. Where they depend on settings,
        override :meth:`words`.
    extract_moments
        Moments at which its ``extract`` is called: start, finish, and "phase", before each further phase
        begins (``run.phase`` names it). What it says then replaces all that it said before.
    later
        Settings that documents written before do not have: a recipe's document leaves them out where they
        have their default, which says what those documents meant.
    starts_away
        Why the network differs from the base before anything is trained; "" where it does not (the
        contract test proves it).
    tiny
        Settings with which it runs in milliseconds on a small network of random weights. Tests of
        techniques and of recipes use them; a fit does not.
    tiny_beside
        For tests: the uses it cannot do without, by technique id, with settings at which they
        change nothing by themselves. Their own ``tiny`` holds where these say nothing.
    tiny_unseen
        For tests: why nothing shows that it is there with ``tiny``; "" where something must.
    tiny_batch
        For tests: rows of a fit step by role.
    tiny_clips
        For tests: True when it is tried on clips, because it acts on nothing else.
    tiny_on
        For tests: the small backbone that it is tried on, where it needs another than the usual one.
    """

    id: ClassVar[str] = ""
    formerly: ClassVar[tuple[str, ...]] = ()
    catalogue: ClassVar[tuple[str, ...]] = ()
    neutral: ClassVar[Mapping[str, Any] | None] = None
    absent: ClassVar[Mapping[str, Any]] = {}
    stacks_subjects: ClassVar[bool] = True
    rowwise: ClassVar[bool] = False
    mask_moments: ClassVar[tuple[str, ...]] = ("subject",)
    extract_moments: ClassVar[tuple[str, ...]] = ("start", "finish")
    weighs: ClassVar[tuple[str, ...]] = ()
    merges_by: ClassVar[str] = ""
    reads_layout: ClassVar[bool] = False
    reads_picture: ClassVar[bool] = False
    takes_clips: ClassVar[bool] = True
    reads: ClassVar[tuple[str, ...]] = ()
    writes: ClassVar[tuple[str, ...]] = ()
    later: ClassVar[tuple[str, ...]] = ()
    starts_away: ClassVar[str] = ""
    profiled: ClassVar[Mapping[str, str]] = {}
    tiny: ClassVar[Mapping[str, Any]] = {}
    tiny_beside: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    tiny_unseen: ClassVar[str] = ""
    tiny_batch: ClassVar[Mapping[str, int]] = {"subject": 1}
    tiny_clips: ClassVar[bool] = False
    tiny_on: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _guard(cls)
        # frozen belongs to the decorator alone: in both places pydantic warns
        pydantic_dataclass(config=_CONFIG, frozen=True, eq=False, kw_only=True)(cls)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], *, place: str = "") -> Self:
        """Build an instance from TOML-like ``settings``, validated strictly.

        ``place`` (``"recipe.toml:12"``) is put before the message.

        Raises
        ------
        RecipeError
            Unknown key (with the nearest valid one), wrong type, out of range.
        """
        prefix = f"{place}: " if place else ""
        try:
            # JSON mode: a list for a tuple and 1 for a float pass; "7", 7.0, true for int do not
            return _adapter(cls).validate_json(
                json.dumps(dict(settings), allow_nan=False), strict=True
            )
        except (TypeError, ValueError) as error:
            if not isinstance(error, ValidationError):
                raise RecipeError(
                    f"{prefix}{cls.id}: settings are not plain data ({error})"
                ) from error
            raise RecipeError(f"{prefix}{cls.id}: {explain(error, cls.setting_names())}") from error

    def words(self) -> Words:
        """Return the words that a use with these settings reads and writes."""
        from pcs_core.data.words import Words  # its package imports torch, a listing must not

        return Words(reads=self.reads, writes=self.writes)

    def plan(self, subject: Subject, card: BackboneCard) -> tuple[str, ...]:
        """Return what a fit of ``subject`` will do that its recipe does not say, a sentence each."""
        return ()

    def weighed(self) -> tuple[str, ...]:
        """Return the globs over its stored tensors in proportion to which it acts."""
        return self.weighs

    def at_strength(self, run: Run, name: str, value: Tensor, strength: float) -> Tensor:
        """Return the stored tensor ``name`` ("<site or token>/<param>") as it is at ``strength``."""
        return value * strength

    @classmethod
    def setting_names(cls) -> tuple[str, ...]:
        """Return the names of the settings, in order of declaration."""
        return tuple(field.name for field in dataclasses.fields(cls))  # type: ignore[arg-type]

    @classmethod
    def setting_help(cls) -> dict[str, str]:
        """Return each setting's help text: the docstrings under the fields, merged over the MRO."""
        texts: dict[str, str] = {}
        for base in reversed(cls.__mro__):
            for name, info in vars(base).get("__pydantic_fields__", {}).items():
                if info.description:
                    texts[name] = info.description
        return texts

    @classmethod
    def schema(cls) -> dict[str, Any]:
        """Return the JSON schema of the settings."""
        return _adapter(cls).json_schema()

    def implements(self) -> tuple[str, ...]:
        """Return which of ``catalogue`` these settings make of it; all, unless a class says otherwise."""
        return self.catalogue

    def settings(self) -> dict[str, Any]:
        """Return the settings as plain JSON-able data, the inverse of :meth:`from_settings`."""
        data: dict[str, Any] = json.loads(_adapter(type(self)).dump_json(self))
        return data

    def document(self) -> dict[str, Any]:
        """Return the settings as a recipe's document holds them: without `later` ones at their default."""
        defaults = {f.name: f.default for f in dataclasses.fields(self) if f.name in self.later}  # type: ignore[arg-type]
        return {
            key: value
            for key, value in self.settings().items()
            if key not in defaults or getattr(self, key) != defaults[key]
        }


def explain(error: ValidationError, known: tuple[str, ...]) -> str:
    """Return pydantic's complaint in one line, with the nearest valid key for an unknown one."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "settings"
    if first["type"] in {"unexpected_keyword_argument", "extra_forbidden"}:
        listing = ", ".join(known) or "none"
        return f"unknown setting {key!r}{nearest(key, known) or f' (known: {listing})'}"
    message, value = str(first["msg"]), first.get("input")
    hint = ""
    if first["type"] == "literal_error" and isinstance(value, str):
        hint = nearest(value, re.findall(r"'([^']*)'", message))
    return f"setting {key!r}: {message[:1].lower()}{message[1:]}, got {value!r}{hint}"


_ADAPTERS: dict[type, TypeAdapter[Any]] = {}


def _adapter(cls: type) -> TypeAdapter[Any]:
    if cls not in _ADAPTERS:
        _ADAPTERS[cls] = TypeAdapter(cls)
    return _ADAPTERS[cls]


def _guard(cls: type) -> None:
    """Refuse what would silently not work."""
    if "__init__" in vars(cls):
        raise TypeError(f"{cls.__qualname__} has an __init__ of its own: settings are fields")
    annotations = vars(cls).get("__annotations__", {})
    for name in annotations:
        if name.startswith("_") and not _is_classvar(annotations[name]):
            raise TypeError(
                f"{cls.__qualname__}.{name}: a setting may not start with an underscore"
            )
    for name, value in vars(cls).items():
        if name in RUN_HOOKS:
            if not callable(value) or not hasattr(value, f"{RUN_PROJECT}_impl"):
                raise TypeError(
                    f"{cls.__qualname__}.{name} is the name of a hook: mark it with @hookimpl "
                    "(an override without the marker would be dropped silently)"
                )
        elif not name.startswith("_") and name not in annotations and not isinstance(value, _PLAIN):
            if name in _CLASS_ATTRIBUTES:
                continue
            raise TypeError(
                f"{cls.__qualname__}.{name} has no annotation, so it is not a setting: annotate it, "
                "as ClassVar if it is a constant"
            )


def _is_classvar(annotation: Any) -> bool:
    return get_origin(annotation) is ClassVar or str(annotation).startswith(
        ("ClassVar", "typing.ClassVar")
    )


_CLASS_ATTRIBUTES = frozenset(
    name for name, kind in vars(Technique)["__annotations__"].items() if _is_classvar(kind)
)
