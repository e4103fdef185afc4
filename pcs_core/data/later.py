"""Pictures that are made when they are looked at, so that a folder of them is never in memory at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


class Later:
    """A picture, mask or clip whose ``shape`` [c h w] or [c t h w] is known before it is read."""

    __slots__ = ("_make", "shape")

    def __init__(self, shape: Iterable[int], make: Callable[[], Tensor]) -> None:
        self.shape, self._make = tuple(shape), make

    def read(self) -> Tensor:
        """Return the tensor, made now; nothing keeps it."""
        return self._make()

    def dim(self) -> int:
        """Return how many dimensions it has."""
        return len(self.shape)


class Pictures(Sequence[T]):
    """A row of tensors, or None, of which those that are :class:`Later` are read when they are asked for."""

    __slots__ = ("entries",)

    def __init__(self, entries: Iterable[Any]) -> None:
        self.entries = tuple(entries)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.entries)

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> Pictures[T]: ...

    def __getitem__(self, index: int | slice) -> T | Pictures[T]:
        """Return one, read; or a row of some."""
        if isinstance(index, slice):
            return Pictures(self.entries[index])
        entry: Any = self.entries[index]
        one: Any = entry.read() if isinstance(entry, Later) else entry
        return one  # type: ignore[no-any-return]


def entries_of(row: Sequence[Any]) -> Sequence[Any]:
    """Return the entries of a row as they stand there, nothing read."""
    return row.entries if isinstance(row, Pictures) else row


def row_of(entries: Iterable[Any]) -> Sequence[Any]:
    """Return a row of ``entries``: a tuple where all are there already."""
    row = tuple(entries)
    return Pictures(row) if any(isinstance(entry, Later) for entry in row) else row


def changed(entry: Any, shape: Iterable[int], change: Callable[[Tensor], Tensor]) -> Any:
    """Return what ``change`` makes of ``entry``, of ``shape``: now, or when it is read."""
    if not isinstance(entry, Later):
        return change(entry)
    return Later(shape, lambda: change(entry.read()))


class LaterField:
    """A field of a dataclass that may be given as a :class:`Later`, and is read each time it is asked for."""

    def __init__(self, name: str) -> None:
        self.name = f"_{name}"

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Return the tensor."""
        if instance is None:
            return self
        entry = instance.__dict__[self.name]
        return entry.read() if isinstance(entry, Later) else entry

    def __set__(self, instance: Any, value: Any) -> None:
        """Keep what is given."""
        instance.__dict__[self.name] = value
