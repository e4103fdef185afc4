"""Which parts of a network are compiled, and how: blocks that occur many times, or the whole."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pcs_core.errors import InputError, UnknownNameError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LIMIT = 256
"""Shapes and sets of edits that one kind of block may be compiled for before it is an error."""


def blocks(network: nn.Module, regions: str) -> list[nn.Module]:
    """Return the modules to compile: ``"blocks"``, ``"network"``, or class names joined by ``|``.

    ``"blocks"`` are those that the network's class declares as repeated, else the outermost members of
    its module lists whose class occurs more than once.

    Raises
    ------
    UnknownNameError
        A class name that no module of the network has.
    """
    if regions == "network":
        return [network]
    names = declared(network) if regions == "blocks" else tuple(regions.split("|"))
    classes = {type(module).__name__ for module in network.modules()}
    for name in names:
        if name not in classes:
            raise UnknownNameError(
                f"--option regions={regions}: the denoiser has no {name!r}"
                f"{nearest(name, classes)}; 'blocks' and 'network' are understood too"
            )
    return [module for module in network.modules() if type(module).__name__ in names]


def declared(network: nn.Module) -> tuple[str, ...]:
    """Return the class names of the blocks that ``network`` repeats."""
    there = {type(module).__name__ for module in network.modules()}
    for attribute in ("_repeated_blocks", "_no_split_modules"):
        names = [name for name in getattr(network, attribute, None) or () if name in there]
        if names:
            return tuple(names)
    listed = Counter(
        type(member).__name__
        for module in network.children()
        if isinstance(module, nn.ModuleList)
        for member in module
    )
    repeated = tuple(name for name, count in listed.items() if count > 1)
    return repeated or (type(network).__name__,)


class Counting:
    """A Dynamo backend that counts the graphs it is given: 0 more means that nothing was recompiled."""

    def __init__(self, name: str) -> None:
        known = torch._dynamo.list_backends(None)
        if name not in known:
            raise InputError(
                f"--option backend={name}: torch has no such backend{nearest(name, known)} "
                f"(known: {', '.join(known)})"
            )
        self.name, self.count = name, 0
        self._compile: Callable[..., Any] = torch._dynamo.lookup_backend(name)

    def __call__(self, graph: Any, inputs: Any, **options: Any) -> Any:
        """Compile one graph."""
        self.count += 1
        return self._compile(graph, inputs, **options)


class Regions:
    """Compiled stand-ins for the calls of some modules, in force only inside :meth:`active`."""

    def __init__(self, modules: list[nn.Module], backend: Counting, *, dynamic: bool) -> None:
        self.modules = modules
        self._calls = [
            torch.compile(
                module._call_impl,
                backend=backend,
                fullgraph=True,
                dynamic=True if dynamic else None,
            )
            for module in modules
        ]

    def names(self, network: nn.Module) -> list[str]:
        """Return the paths of the compiled modules in ``network``; the whole of it is "" ."""
        compiled = {id(module) for module in self.modules}
        return [name for name, module in network.named_modules() if id(module) in compiled]

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let the modules' calls run compiled, for the duration."""
        before = [module._compiled_call_impl for module in self.modules]
        for module, call in zip(self.modules, self._calls, strict=True):
            module._compiled_call_impl = call
        try:
            # one kind of block serves many shapes; past the usual limit torch would give up
            with torch._dynamo.config.patch(
                recompile_limit=LIMIT, accumulated_recompile_limit=16 * LIMIT
            ):
                yield
        finally:
            for module, original in zip(self.modules, before, strict=True):
                module._compiled_call_impl = original
