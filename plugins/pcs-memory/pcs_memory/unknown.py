"""A run whose weights are unknown: shapes, types and lifetimes of all tensors are real, their numbers are not.

Tensors of weights are torch's fake tensors, which have everything but numbers, and so is what is computed from
one. Everything else (pictures, token ids, noise, schedules) is computed as it is. Where a number is asked for
that is unknown it is 1: a loss is finite, a comparison holds.

What lives is counted by storages, from the operation that makes one to the moment that nothing holds it, as an
allocator does it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from torch import Tensor

OPENING = "weights are opened"
"""The stage that a run begins with."""
LOW = (torch.bfloat16, torch.float16)


class UnknownNumbers(TorchDispatchMode):
    """Counts the bytes of living tensors while it is active. ``stage`` says what the run is doing.

    ``peaks``: stage -> the most bytes that lived in it. With ``aside``, what precision casts waits in
    another memory: originals of weights do not count while their copies in low precision are in use, which
    ``lowered`` says.
    """

    def __init__(self, *, aside: bool = False) -> None:
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.aside = aside
        self.lowered: Callable[[], bool] = lambda: False
        self.stage = OPENING
        self.peaks: dict[str, int] = {}
        self.live = 0
        self._bytes: dict[int, int] = {}
        self._weights: set[int] = set()
        self.away: dict[int, int] = {}

    def weights(self, tensors: Iterable[Tensor]) -> int:
        """Count tensors that are there before the run as weights; return the bytes that they take."""
        sizes: dict[int, int] = {}
        for tensor in tensors:
            self._count(tensor)
            storage = tensor.untyped_storage()
            sizes[storage._cdata] = storage.nbytes()
        self._weights |= sizes.keys()
        return sum(sizes.values())

    def idle(self, in_use: Iterable[Tensor]) -> int:
        """Return the bytes of weights that are held and not among those ``in_use``, wherever they wait."""
        used = {tensor.untyped_storage()._cdata for tensor in in_use}
        return sum(self._bytes[key] for key in self._weights - used)

    def unknown(self, tensor: Tensor) -> Tensor:
        """Return a tensor of the same shape and type whose numbers are unknown."""
        return self.fake.from_tensor(tensor)

    def _count(self, tensor: Tensor, *, casting: bool = False) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._bytes:
            return
        size = storage.nbytes()
        self._bytes[key] = size
        self.live += size
        weakref.finalize(storage, self._drop, key)
        if self.away and not casting and not self.lowered():  # the originals are back
            self.live += sum(self.away.values())
            self.away.clear()
        if self.live > self.peaks.get(self.stage, 0):
            self.peaks[self.stage] = self.live

    def _drop(self, key: int) -> None:
        away = self.away.pop(key, None)
        size = self._bytes.pop(key, 0)
        self._weights.discard(key)
        if away is None:
            self.live -= size

    def _put_aside(self, source: Tensor, kind: torch.dtype) -> None:
        """Count the original of a frozen matrix or kernel no longer, once its copy in ``kind`` is made."""
        key = source.untyped_storage()._cdata
        if key in self._weights and source.dim() > 1 and kind in LOW and key not in self.away:
            self.away[key] = self._bytes[key]
            self.live -= self._bytes[key]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute what is known, and the shape of the rest."""
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default:
            return getattr(args[0], "fake_device", None) or args[0].device
        unknown = any(isinstance(leaf, FakeTensor) for leaf in tree_leaves((args, kwargs)))
        if unknown and func is torch.ops.aten._local_scalar_dense.default:
            return _one(args[0].dtype)
        if unknown:
            with self.fake:
                result = func(*args, **kwargs)
        else:
            result = func(*args, **kwargs)
        copied = self.aside and func is torch.ops.aten._to_copy.default
        casting = copied and not self.lowered() and result.dtype in LOW
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf, casting=casting)
        if casting:
            self._put_aside(args[0], result.dtype)
        return result


def _one(kind: torch.dtype) -> bool | int | float:
    """Return what an unknown number of ``kind`` is taken for."""
    if kind == torch.bool:
        return True
    return 1.0 if kind.is_floating_point else 1
