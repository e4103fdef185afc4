"""Where an edit keeps its tensors: what is not registered is neither trained, nor saved, nor moved."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pcs_core.data import Edit, Fusion

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_testing.case import Case

DEPTH = 4
"""How many containers, objects and closures one inside another are looked into."""


def edits_of(case: Case, fusion: Fusion) -> list[Edit]:
    """Return the edits of the technique itself."""
    return [edit for edit in fusion.edits if edit.owner == case.technique.id]


def everything_is_registered(case: Case) -> None:
    """What trains or must move to a device is a parameter, a submodule or a buffer, not a plain value."""
    fusion, parts = case.fusion(), case.open().parts.values()
    base = {id(t) for part in parts for t in (*part.parameters(), *part.buffers())}
    registered = {id(t) for e in fusion.edits for t in (*e.parameters(), *e.buffers())}
    registered |= {id(t) for e in fusion.edits for t in e.owned().values()}  # of a borrowed module
    for edit in edits_of(case, fusion):
        for path, module in edit.named_modules():
            for name, value in vars(module).items():
                if name in ("_parameters", "_buffers", "_modules"):
                    continue
                place = f"{type(edit).__name__}.{path + '.' if path else ''}{name}"
                hidden = getattr(type(module), name, None)
                assert not isinstance(hidden, types.FunctionType) or callable(value), (
                    f"{place} is also the name of a method, which it hides: give the value another name"
                )
                for tensor in tensors_in(value):
                    if id(tensor) not in base and id(tensor) not in registered:
                        raise AssertionError(f"{place} {_unregistered(value, tensor)}")


def _unregistered(value: Any, tensor: Tensor) -> str:
    if isinstance(tensor, nn.Parameter) or tensor.requires_grad:
        return (
            f"holds a parameter in a plain {type(value).__name__}: it is neither trained, nor saved, nor "
            "moved to a device; use nn.ParameterList, nn.ModuleList or an attribute of its own"
        )
    return (
        "is a plain tensor, which stays behind when the edit moves to a device: "
        "self.register_buffer(name, tensor, persistent=False), or persistent if it must be saved"
    )


def tensors_in(value: Any, depth: int = 0) -> Iterator[Tensor]:
    """Yield the tensors of a value: of containers, plain objects, and what functions refer to."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, nn.Module):
        yield from value.parameters()
    elif depth < DEPTH:
        for inner in _inside(value):
            yield from tensors_in(inner, depth + 1)


def _inside(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, list | tuple | set | frozenset):
        yield from value
    elif isinstance(value, functools.partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, types.FunctionType):
        yield from (value.__defaults__ or ())
        for cell in value.__closure__ or ():
            try:
                yield cell.cell_contents
            except ValueError:  # not set yet
                continue
    elif not isinstance(value, type | types.ModuleType | types.MethodType):
        yield from getattr(value, "__dict__", {}).values()
        for cls in type(value).__mro__:
            slots = vars(cls).get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if hasattr(value, name):
                    yield getattr(value, name)


def nothing_is_hidden(case: Case) -> None:
    """Every parameter of an edit is owned by it or by another edit: what is not owned never trains."""
    fusion = case.fusion()
    base = {id(p) for part in case.open().parts.values() for p in part.parameters()}
    owned = {id(t) for edit in fusion.edits for t in edit.owned().values()}
    for edit in edits_of(case, fusion):
        for name, param in edit.named_parameters():
            assert id(param) in owned or id(param) in base, (
                f"{type(edit).__name__}.{name} is a parameter that owned() leaves out: it does not "
                "train and is not saved; leave owned() as it is, or make it a buffer"
            )
