"""What a suite is: subjects, prompts by class, and where the pictures come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pcs_core.errors import InputError

if TYPE_CHECKING:
    from pcs_core.data import Subject


@dataclass(frozen=True, slots=True)
class BenchPrompt:
    """A prompt with ``{token}`` and ``{noun}`` (``{token2}``, ``{noun2}`` of a pair's second).

    ``kind`` is what it asks for: recontextualisation, accessorisation, property, ...
    """

    text: str
    kind: str = ""


@dataclass(frozen=True, slots=True)
class BenchSubject:
    """One subject. ``folder`` holds its pictures, or is a function that reads or draws them.

    ``class_`` chooses the prompts. ``paths`` are the folders of a suite of photographs.
    """

    name: str
    folder: Path | Callable[[], Subject]
    noun: str
    token: str
    class_: str = "object"
    paths: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Suite:
    """A suite. ``kind`` is object, pet, face, style or pair.

    ``stands_for`` says, of a suite that imitates another, which, and what differs. ``own_prompts``
    are those of single subjects, by name, read when asked for.
    """

    id: str
    title: str
    kind: str
    subjects: tuple[BenchSubject, ...]
    by_class: Mapping[str, tuple[BenchPrompt, ...]]
    paper: str = ""
    stands_for: str = ""
    images: Mapping[str, object] = field(default_factory=dict)
    own_prompts: Mapping[str, Callable[[], tuple[BenchPrompt, ...]]] = field(default_factory=dict)

    @property
    def prompts(self) -> tuple[BenchPrompt, ...]:
        """The prompts of all classes, each once."""
        return tuple(dict.fromkeys(p for each in self.by_class.values() for p in each))

    def prompts_for(self, subject: BenchSubject) -> tuple[BenchPrompt, ...]:
        """Return the prompts of one subject.

        Raises
        ------
        InputError
            Its class has none, or their file is missing.
        """
        if subject.name in self.own_prompts:
            return self.own_prompts[subject.name]()
        if subject.class_ not in self.by_class:
            raise InputError(
                f"suite {self.id!r}: {subject.name!r} is of class {subject.class_!r}, "
                f"which has no prompts (there are: {', '.join(self.by_class)})"
            )
        return self.by_class[subject.class_]
