"""Arguments of public functions are of the kinds that their annotations say, or refused by name."""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from pcs_core.errors import InputError

P = ParamSpec("P")
R = TypeVar("R")
SHOWN = 60
"""Characters of a value that a message shows."""
OBJECTS = {
    "Backbone": ("card", "an opened backbone"),
    "Personalization": ("tensors", "a personalization (load or fit returns one)"),
    "Recipe": ("uses", "a recipe (load_recipe returns one)"),
    "Preset": ("uses", "a preset (load_preset returns one)"),
    "BackboneCard": ("family", "its card"),
    "Catalogue": ("ids", "a catalogue"),
    "Tensor": ("shape", "a tensor"),
    "dtype": ("to_real", "a torch.dtype, as torch.float16"),
}
"""Types by an attribute that is enough of them, since others may stand for them, and in words."""
PLAIN: dict[str, tuple[type | tuple[type, ...], str]] = {
    "str": (str, "text"),
    "Path": (Path, "a path"),
    "bool": (bool, "True or False"),
    "None": (type(None), "None"),
    "Mapping": (Mapping, "a mapping"),
    "dict": (dict, "a dict"),
}
ALIASES = {"Target": "Backbone | BackboneCard | str | Path | None"}
"""Names that stand for several types."""
MANY = ("Sequence", "list", "Iterable")


def checks_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Return ``function``, which refuses arguments of other kinds than its annotations say.

    Numbers are left to the function, which knows their bounds, and so is a type that is not of those here.
    What a list or mapping holds is looked at as well.

    Raises
    ------
    InputError
        When it is called: names the argument, what it is, and what may be given.
    """
    signature = inspect.signature(function)
    name = function.__qualname__.removesuffix(".__init__")
    kinds = {
        key: ast.parse(ALIASES.get(parameter.annotation, parameter.annotation), mode="eval").body
        for key, parameter in signature.parameters.items()
        if isinstance(parameter.annotation, str)
    }

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise InputError(f"{name}: {error}") from error
        for key, value in given.items():
            kind = kinds.get(key)
            plain = signature.parameters[key].kind is not inspect.Parameter.VAR_KEYWORD
            if kind is not None and plain and not fits(value, kind):
                raise InputError(f"{name}: {key}={_shown(value)}: give {_words(kind)}")
        return function(*args, **kwargs)

    return checked


def fits(value: Any, kind: ast.expr) -> bool:
    """Return whether ``value`` may be of an annotation's ``kind``; one that is not known here fits."""
    if isinstance(kind, ast.BinOp):
        return fits(value, kind.left) or fits(value, kind.right)
    name, inside = _parts(kind)
    if name in PLAIN:
        fitting = isinstance(value, PLAIN[name][0])
        return fitting and not (name == "Mapping" and isinstance(value, str))
    if name in OBJECTS:
        return hasattr(value, OBJECTS[name][0]) and not isinstance(value, type)
    if name == "Callable":
        return callable(value)
    if name == "tuple":
        whole = isinstance(value, list | tuple) and len(value) == len(inside)
        return whole and all(_is_int(one) for one in value) if _pair(inside) else True
    if name in MANY:
        if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence | Iterable):
            return False
        # what has no length may be there to be read once
        return not hasattr(value, "__len__") or all(fits(v, k) for v in value for k in inside)
    return True


def _pair(inside: Sequence[ast.expr]) -> bool:
    return len(inside) == 2 and all(_parts(one)[0] == "int" for one in inside)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _parts(kind: ast.expr) -> tuple[str, list[ast.expr]]:
    """Return the name of an annotation, and what stands in its brackets."""
    if isinstance(kind, ast.Constant):
        return str(kind.value), []
    if not isinstance(kind, ast.Subscript):
        return getattr(kind, "id", getattr(kind, "attr", "")), []
    inside = kind.slice.elts if isinstance(kind.slice, ast.Tuple) else [kind.slice]
    return _parts(kind.value)[0], inside


def _words(kind: ast.expr) -> str:
    if isinstance(kind, ast.BinOp):
        return f"{_words(kind.left)} or {_words(kind.right)}"
    name, inside = _parts(kind)
    if name in PLAIN:
        return PLAIN[name][1]
    if name in OBJECTS:
        return OBJECTS[name][1]
    if name == "Callable":
        return "a function"
    if name == "tuple" and _pair(inside):
        return "height and width in pixels, as (512, 768)"
    if name in MANY:
        return f"a list, each {_words(inside[0])}" if inside else "a list"
    return name


def _shown(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
